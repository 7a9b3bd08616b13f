"""The Celery worker: receives ids, and keeps a sign of life in the database while it runs."""

import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
import threading
from uuid import UUID

from celery import Celery
from celery.signals import worker_process_init, worker_ready, worker_shutting_down

from service.context import Context
from service.logs import set_up_logging
from service.queue import CHECK_DATASET, CHECK_ENCODER, FINALISE_AUDIT, SCORE_CHUNK
from service.settings import get_settings
from service.workers import HEARTBEAT_SECONDS, beat
from worker.run import Runner

logger = logging.getLogger(__name__)


def worker_name() -> str:
    """Host and process of the worker's parent, as the list of workers shows it."""
    return f"{socket.gethostname()}:{os.getpid()}"


def create_app() -> Celery:
    """Builds the worker: tasks in a child process, heartbeat in the parent, which never loads torch."""
    settings = get_settings()
    set_up_logging(settings.log_level)
    context = Context.from_settings(settings, pool_size=4)
    app = context.queue.app
    name = worker_name()
    stop = threading.Event()
    runner = Runner(settings, name)

    def run(method: str, row_id: str) -> None:
        getattr(runner, method)(UUID(row_id))

    for task, method in (
        (CHECK_ENCODER, "check_encoder"),
        (CHECK_DATASET, "check_dataset"),
        (SCORE_CHUNK, "score_chunk"),
        (FINALISE_AUDIT, "finalise_audit"),
    ):
        app.task(name=task)(_named(run, method))

    @worker_ready.connect(weak=False)
    def _start(**_: object) -> None:
        threading.Thread(target=_keep_beating, args=(context, name, stop), daemon=True).start()

    @worker_shutting_down.connect(weak=False)
    def _stop(**_: object) -> None:
        stop.set()

    @worker_process_init.connect(weak=False)
    def _child(**_: object) -> None:
        die_with_parent()
        set_up_logging(settings.log_level)
        runner.open()

    return app


def _named(run: object, method: str) -> object:
    def task(row_id: str) -> None:
        run(method, row_id)  # type: ignore[operator]

    task.__name__ = method
    return task


def _keep_beating(context: Context, name: str, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            with context.sessions.begin() as session:
                beat(session, name, context.settings.device)
        except Exception:
            logger.exception("the sign of life was not written; trying again")
        stop.wait(HEARTBEAT_SECONDS)


def die_with_parent() -> None:
    """Lets the child end when its parent is killed; on Linux only, elsewhere it ends with its task."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
