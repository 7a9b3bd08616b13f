"""A real worker process: Celery with its child, on the real servers."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from sqlalchemy import null, update

from models.audit import Audit
from models.encoder import Encoder
from service import intake
from service.context import Context
from service.queue import FINALISE_AUDIT
from service.settings import Settings
from service.sweep import sweep
from service.workers import list_workers
from tests.support import driver, rows
from tests.support.materials import EncoderFile
from tests.support.processes import ROOT, gone
from tests.support.servers import OwnRedis
from tests.support.waiting import eventually


class Worker:
    """``python -m worker`` with the settings of the test."""

    def __init__(self, settings: Settings, log: Path, **changes: str) -> None:
        environment = {
            **os.environ,
            "SSLMEM_HOME": str(settings.home),
            "SSLMEM_DATABASE_URL": settings.require_database_url(),
            "SSLMEM_BROKER_URL": settings.require_broker_url(),
            "SSLMEM_QUEUE": settings.queue,
            "SSLMEM_DEVICE": "cpu",
            "OMP_NUM_THREADS": "1",
            **changes,
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


def scored_audit(context: Context) -> Audit:
    """An audit that only has to be summarised, which takes a worker no time; the message is sent."""
    audit = rows.request_audit(context, 16)
    rows.score_all(context, audit.id)
    return audit


def summarised(context: Context, audit: Audit) -> bool:
    """Whether the worker was there, with the sweeper's help."""
    with context.sessions.begin() as session:
        sweep(session, context.queue, rows.with_settings(context, resend_seconds=0.5))
    return rows.audit_of(context, audit.id).state == "succeeded"


def works(context: Context) -> bool:
    audit = scored_audit(context)
    return eventually(lambda: summarised(context, audit), interval=0.05)


def test_worker_gives_signs_of_life_takes_work_and_stops_at_once(broken: Context, worker: Worker) -> None:
    eventually(lambda: alive(broken))
    assert works(broken)
    (child,) = psutil.Process(worker.process.pid).children()
    assert worker.stop() == 0
    assert gone(child)


def test_worker_goes_on_after_its_broker_was_killed(broken: Context, own_redis: OwnRedis, worker: Worker) -> None:
    for _ in range(2):
        assert works(broken)
        own_redis.kill()
        own_redis.start()
    assert works(broken)
    assert worker.process.poll() is None


@pytest.mark.usefixtures("worker")
def test_message_whose_broker_dies_before_its_turn_does_not_stop_the_worker(
    broken: Context, own_redis: OwnRedis, tmp_path: Path
) -> None:
    """The worker has it, behind a task that takes a while, and turns to it while the broker is away."""
    audit = scored_audit(broken)
    eventually(lambda: summarised(broken, audit))
    with broken.sessions.begin() as session:
        rows.without_rules(session)
        session.execute(update(Audit).values(state="finalising", summary=null(), finalise_attempts=0))
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"nothing of the kind")
    encoder = driver.upload_encoder(broken, EncoderFile(garbage), "slow")  # the child loads torch for it

    def encoder_state() -> str:
        with broken.sessions.begin() as session:
            return intake.get(session, Encoder, encoder.id).state

    eventually(lambda: encoder_state() == "checking")
    broken.queue.send(FINALISE_AUDIT, audit.id)
    eventually(lambda: broken.queue.length() == 0)
    assert encoder_state() == "checking"
    own_redis.kill()
    eventually(lambda: rows.audit_of(broken, audit.id).state == "succeeded")
    own_redis.start()
    assert works(broken)
    assert encoder_state() == "refused"


def test_worker_stops_while_its_broker_is_away(broken: Context, own_redis: OwnRedis, worker: Worker) -> None:
    assert works(broken)
    own_redis.kill()
    eventually(lambda: "Connection" in worker.log.read_text(errors="replace"))
    assert worker.stop() == 0
