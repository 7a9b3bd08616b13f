"""A real worker whose process is in the middle of a long batch, is stopped, or is killed."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from models.audit import Audit
from service import lifecycle
from service.context import Context
from service.sweep import sweep
from service.workers import list_workers
from tests.integration.worker.conftest import Setting
from tests.integration.worker.test_celery import Worker
from tests.support import rows
from tests.support.processes import gone
from tests.support.waiting import eventually
from worker.keeper import HAND_BACK_SECONDS, LET_GO_SECONDS

# All images at once, with as many views as there may be: a batch that takes a minute.
LONG = {"SSLMEM_BATCH_SIZE": "40"}
MANY_VIEWS = 1024


@pytest.fixture
def settings(settings: object) -> object:
    return settings.model_copy(update={"lease_seconds": 60})  # type: ignore[attr-defined]


@pytest.fixture
def worker(context: Context, tmp_path: Path) -> Iterator[Worker]:
    worker = Worker(context.settings, tmp_path / "worker.log", SSLMEM_STALL_SECONDS="4", **LONG)
    yield worker
    worker.ensure_stopped()


@pytest.fixture
def patient(context: Context, tmp_path: Path) -> Iterator[Worker]:
    """A worker that lets its process be without progress for long."""
    worker = Worker(context.settings, tmp_path / "patient.log", **LONG)
    yield worker
    worker.ensure_stopped()


def child_of(worker: Worker) -> psutil.Process:
    (child,) = psutil.Process(worker.process.pid).children()
    return child


def under_way(context: Context, setting: Setting, worker: Worker) -> tuple[Audit, psutil.Process]:
    """An audit whose chunk a worker has, and the process that has it."""
    audit = setting.request(spec={"views": MANY_VIEWS, "seed": 5})
    eventually(lambda: rows.chunks_of(context, audit.id)[0].state == "running")
    return audit, child_of(worker)


def in_a_long_batch(context: Context, setting: Setting, worker: Worker) -> tuple[Audit, psutil.Process]:
    """Likewise, in the middle of it."""
    audit, child = under_way(context, setting, worker)
    before = child.cpu_times().user
    eventually(lambda: child.cpu_times().user > before + 4)  # torch is loaded by then, and the batch under way
    return audit, child


def test_cancelling_takes_effect_within_seconds_in_the_middle_of_a_long_batch(
    context: Context, setting: Setting, patient: Worker
) -> None:
    audit, _ = in_a_long_batch(context, setting, patient)
    with context.sessions.begin() as session:
        lifecycle.cancel(session, audit.id)
    began = time.monotonic()
    small = setting.request()
    eventually(lambda: rows.audit_of(context, small.id).state == "succeeded")
    assert time.monotonic() - began < LET_GO_SECONDS + 25, "the batch would have taken more than a minute"
    assert rows.audit_of(context, audit.id).state == "cancelled"


def test_worker_that_is_asked_to_stop_in_the_middle_of_a_long_batch_hands_its_chunk_back(
    context: Context, setting: Setting, patient: Worker
) -> None:
    audit, child = in_a_long_batch(context, setting, patient)
    assert patient.stop(HAND_BACK_SECONDS + 20) == 0
    assert gone(child)
    chunk = rows.chunks_of(context, audit.id)[0]
    assert (chunk.state, chunk.attempts, chunk.lease_owner) == ("queued", 0, None)


def test_process_that_stands_still_is_killed_and_its_chunk_tried_again(
    context: Context, setting: Setting, worker: Worker
) -> None:
    audit, child = under_way(context, setting, worker)
    os.kill(child.pid, signal.SIGSTOP)
    eventually(lambda: gone(child))
    chunk = eventually(lambda: next((c for c in rows.chunks_of(context, audit.id) if c.failure_code), None))
    assert chunk is not None
    assert (chunk.failure_code, chunk.attempts) == ("worker-stalled", 1)


def test_chunk_of_a_killed_process_is_taken_up_again_long_before_its_lease_runs_out(
    context: Context, setting: Setting, patient: Worker
) -> None:
    audit, child = in_a_long_batch(context, setting, patient)
    child.kill()
    eventually(lambda: rows.chunks_of(context, audit.id)[0].failure_code == "worker-lost")
    with context.sessions.begin() as session:
        sweep(session, context.queue, context.settings)
    again = eventually(lambda: next((c for c in rows.chunks_of(context, audit.id) if c.attempts == 2), None))
    assert again is not None
    assert again.state == "running"


def test_process_that_is_frozen_while_it_is_at_nothing_is_replaced_when_work_comes(
    context: Context, setting: Setting, tmp_path: Path
) -> None:
    # Long enough for torch to be loaded on a busy machine, which is no sign of life.
    worker = Worker(context.settings, tmp_path / "worker.log", SSLMEM_STALL_SECONDS="20")
    try:
        first = setting.request(spec={"seed": 1})
        eventually(lambda: rows.audit_of(context, first.id).state == "succeeded", 120)
        child = child_of(worker)
        child.send_signal(signal.SIGSTOP)
        second = setting.request(spec={"seed": 2})
        eventually(lambda: gone(child), 120)
        with context.sessions.begin() as session:  # the message went with the process; the sweeper sends another
            sweep(session, context.queue, rows.with_settings(context, resend_seconds=1e-6))
        eventually(lambda: rows.audit_of(context, second.id).state == "succeeded", 120)
    finally:
        worker.ensure_stopped()


def test_worker_says_what_it_is_at(context: Context, setting: Setting, patient: Worker) -> None:
    def workers() -> list[str | None]:
        with context.sessions.begin() as session:
            return [worker.busy_with for worker, alive in list_workers(session) if alive]

    audit, _ = under_way(context, setting, patient)
    eventually(lambda: workers() == ["a chunk of an audit"])
    with context.sessions.begin() as session:
        lifecycle.cancel(session, audit.id)
    eventually(lambda: workers() == [None], 40)
