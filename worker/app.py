"""The Celery worker: receives ids, and keeps its signs of life and its leases in the database while it runs."""

import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
import threading
import time
from uuid import UUID, uuid4

from celery import Celery
from celery.signals import task_received, worker_process_init, worker_ready, worker_shutting_down
from kombu import Queue

from service.context import Context
from service.logs import set_up_logging
from service.queue import CHECK_DATASET, CHECK_ENCODER, FINALISE_AUDIT, SCORE_CHUNK, list_name
from service.settings import get_settings
from service.workers import HEARTBEAT_SECONDS, beat
from worker.board import TASK, Board, Work
from worker.device import Device, find_device
from worker.keeper import Keeper
from worker.run import Runner

logger = logging.getLogger(__name__)


def worker_name() -> str:
    """Host and process of the worker's parent, as the list of workers shows it."""
    return f"{socket.gethostname()}:{os.getpid()}"


def create_app() -> Celery:
    """Builds the worker: tasks in a child process, heartbeat and leases in the parent, which never loads torch."""
    settings = get_settings()
    set_up_logging(settings.log_level)
    context = Context.from_settings(settings, pool_size=4)
    app = context.queue.app
    name = worker_name()
    stop = threading.Event()
    device = find_device(settings.device)
    app.conf.task_queues = [Queue(list_name(settings, queue)) for queue in device.queues]
    board = Board()
    runner = Runner(settings, name, board, device.queues)
    keeper = Keeper(context.sessions, board, settings)

    def run(method: str, row_id: str) -> None:
        board.show(Work(os.getpid(), TASK, "", uuid4().hex))
        board.begin()
        try:
            getattr(runner, method)(UUID(row_id))
        finally:
            board.show(None)

    for task, method in (
        (CHECK_ENCODER, "check_encoder"),
        (CHECK_DATASET, "check_dataset"),
        (SCORE_CHUNK, "score_chunk"),
        (FINALISE_AUDIT, "finalise_audit"),
    ):
        app.task(name=task)(_named(run, method))

    @worker_ready.connect(weak=False)
    def _start(**_: object) -> None:
        threading.Thread(target=_keep_beating, args=(context, name, device, board, stop), daemon=True).start()
        threading.Thread(target=keeper.run, args=(threading.Event(),), daemon=True).start()

    @task_received.connect(weak=False)
    def _received(**_: object) -> None:
        keeper.received()

    @worker_shutting_down.connect(weak=False)
    def _stop(**_: object) -> None:
        stop.set()
        keeper.stopping_since = time.monotonic()  # it goes on: the process may still have a row

    @worker_process_init.connect(weak=False)
    def _child(**_: object) -> None:
        die_with_parent()
        board.be_process(os.getpid())
        set_up_logging(settings.log_level)
        runner.open()

    return app


def _named(run: object, method: str) -> object:
    def task(row_id: str) -> None:
        run(method, row_id)  # type: ignore[operator]

    task.__name__ = method
    return task


def _keep_beating(context: Context, name: str, device: Device, board: Board, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            with context.sessions.begin() as session:
                work = board.read()
                beat(session, name, device.name, device.queues, None if work is None else work.description)
        except Exception:
            logger.exception("the sign of life was not written; trying again")
        stop.wait(HEARTBEAT_SECONDS)


def die_with_parent() -> None:
    """Lets the child end when its parent is killed; on Linux only, elsewhere it ends with its task."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
