"""A real worker process: Celery with its child, on the real servers."""

import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from models.encoder import Encoder
from service import intake
from service.context import Context
from service.queue import CHECK_ENCODER, JobQueue, create_celery
from service.settings import Settings
from service.sweep import sweep
from service.workers import list_workers
from tests.support import rows
from tests.support.processes import ROOT, gone
from tests.support.servers import OwnRedis
from tests.support.waiting import eventually


class Worker:
    """``python -m worker`` with the settings of the test."""

    def __init__(self, settings: Settings, log: Path) -> None:
        environment = {
            **os.environ,
            "SSLMEM_HOME": str(settings.home),
            "SSLMEM_DATABASE_URL": settings.require_database_url(),
            "SSLMEM_BROKER_URL": settings.require_broker_url(),
            "SSLMEM_QUEUE": settings.queue,
            "SSLMEM_DEVICE": "cpu",
            "OMP_NUM_THREADS": "1",
        }
        self.log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "worker"], cwd=ROOT, env=environment, stdout=out, stderr=out
            )

    def stop(self, seconds: float = 20) -> int:
        self.process.terminate()
        return self.process.wait(seconds)

    def ensure_stopped(self) -> None:
        if self.process.poll() is None:
            children = psutil.Process(self.process.pid).children(recursive=True)
            self.process.kill()
            self.process.wait()
            eventually(lambda: all(map(gone, children)))


@pytest.fixture
def broken(context: Context, own_redis: OwnRedis) -> Iterator[Context]:
    """The service with a broker that the test may stop."""
    broken = Context.from_settings(own_redis.used_by(context.settings))
    yield broken
    broken.close()


@pytest.fixture
def worker(broken: Context, tmp_path: Path) -> Iterator[Worker]:
    worker = Worker(broken.settings, tmp_path / "worker.log")
    yield worker
    worker.ensure_stopped()


def alive(context: Context) -> bool:
    with context.sessions.begin() as session:
        return any(alive for _, alive in list_workers(session))


def works(context: Context, seconds: float = 30) -> bool:
    """Whether an encoder that is registered now is taken up, with the sweeper's help."""
    digest = rows.store(context, uuid.uuid4().bytes)
    values = {
        "name": "garbage",
        "artifact_digest": digest,
        "architecture": None,
        "input_size": None,
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    with context.sessions.begin() as session:
        encoder, _ = intake.register(session, context.queue, context.store, Encoder, values)

    def attempted() -> bool:
        with context.sessions.begin() as session:
            sweep(session, context.queue, rows.with_settings(context, resend_seconds=0.5))
            return intake.get(session, Encoder, encoder.id).attempts > 0

    return eventually(attempted, seconds, interval=0.1)


def test_worker_gives_signs_of_life_takes_work_and_stops_at_once(broken: Context, worker: Worker) -> None:
    eventually(lambda: alive(broken))
    assert works(broken)
    (child,) = psutil.Process(worker.process.pid).children()
    assert worker.stop() == 0
    assert gone(child)


def test_worker_goes_on_after_its_broker_was_killed_again_and_again(
    broken: Context, own_redis: OwnRedis, worker: Worker
) -> None:
    """Each time in the middle of a stream of messages, so that something is under way whenever it dies."""
    assert works(broken)
    flooding = threading.Event()
    queue = JobQueue(create_celery(broken.settings))

    def flood() -> None:
        while not flooding.wait(0.001):
            if queue.length() < 20:
                queue.send(CHECK_ENCODER, uuid.uuid4())

    thread = threading.Thread(target=flood)
    thread.start()
    for _ in range(5):
        own_redis.kill()
        own_redis.start()
        assert works(broken)
    flooding.set()
    thread.join()
    queue.app.close()
    assert worker.process.poll() is None


def test_worker_stops_while_its_broker_is_away(broken: Context, own_redis: OwnRedis, worker: Worker) -> None:
    assert works(broken)
    own_redis.kill()
    eventually(lambda: "Connection" in worker.log.read_text(errors="replace"))
    assert worker.stop() == 0


def test_child_that_is_killed_is_replaced(broken: Context, worker: Worker) -> None:
    eventually(lambda: alive(broken))
    (child,) = eventually(lambda: psutil.Process(worker.process.pid).children())
    child.send_signal(signal.SIGKILL)
    assert works(broken)
    assert worker.process.poll() is None


def test_child_ends_with_its_parent(broken: Context, worker: Worker) -> None:
    assert works(broken)
    (child,) = psutil.Process(worker.process.pid).children()
    worker.process.kill()
    worker.process.wait()
    eventually(lambda: gone(child))
