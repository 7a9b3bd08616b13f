"""Leases while the work goes on: kept alive, lost, noticed."""

import threading
import uuid
from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import func, select, update

from models.audit import Chunk, Score
from service import audits, jobs, lifecycle
from service.chunks import ChunkPlan, RecordedScore
from service.context import Context
from service.jobs import LeaseLost
from service.standing import standing_of
from service.sweep import sweep
from tests.support import rows
from tests.support.waiting import eventually
from worker.board import Board
from worker.lease import Lease
from worker.run import Runner


def scored_samples(context: Context) -> int:
    with context.sessions.begin() as session:
        return session.scalars(select(func.count()).select_from(Score)).one()


def renewals(context: Context, chunk_id: uuid.UUID) -> object:
    with context.sessions.begin() as session:
        return session.scalar(select(Chunk.lease_expires_at).where(Chunk.id == chunk_id))


@pytest.fixture
def slow(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> Iterator["Slow"]:
    slow = Slow(runner)
    monkeypatch.setattr(runner, "_score", slow.score)
    yield slow
    slow.proceed.set()


class Slow:
    """Scoring that waits until it is told to go on, looking after its lease meanwhile as scoring does."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.started, self.proceed = threading.Event(), threading.Event()
        self.lost = False
        self.done = 0

    def score(self, plan: ChunkPlan, lease: Lease) -> list[RecordedScore]:
        self.started.set()
        while not self.proceed.wait(0.01):
            self.check(lease)
        self.check(lease)
        return rows.scores_for(plan)

    def check(self, lease: Lease) -> None:
        try:
            lease.advance(self.done)
        except LeaseLost:
            self.lost = True
            raise

    def start(self, chunk_id: uuid.UUID) -> threading.Thread:
        thread = threading.Thread(target=self._runner.score_chunk, args=(chunk_id,))
        thread.start()
        assert self.started.wait(20)
        return thread


def test_work_longer_than_the_lease_is_not_taken_away(context: Context, slow: Slow) -> None:
    audit = rows.request_audit(context, 16)
    (chunk,) = rows.chunks_of(context, audit.id)
    thread = slow.start(chunk.id)
    first = renewals(context, chunk.id)
    for _ in range(8):
        before = renewals(context, chunk.id)
        eventually(lambda before=before: renewals(context, chunk.id) != before)  # type: ignore[misc]
        with context.sessions.begin() as session:
            sweep(session, context.queue, context.settings)
    assert rows.chunks_of(context, audit.id)[0].attempts == 1
    assert first != renewals(context, chunk.id)
    slow.proceed.set()
    thread.join()
    assert rows.chunks_of(context, audit.id)[0].state == "done"


def test_progress_is_written_while_the_work_goes_on(context: Context, slow: Slow) -> None:
    audit = rows.request_audit(context, 16)
    (chunk,) = rows.chunks_of(context, audit.id)
    thread = slow.start(chunk.id)
    slow.done = 7

    def done() -> int:
        with context.sessions.begin() as session:
            return standing_of(session, audits.get_audit(session, audit.id)).progress.samples_done

    eventually(lambda: done() == 7)
    slow.proceed.set()
    thread.join()
    assert done() == 16


def test_cancelled_audit_stops_the_work(context: Context, slow: Slow) -> None:
    audit = rows.request_audit(context, 16)
    thread = slow.start(rows.chunks_of(context, audit.id)[0].id)
    with context.sessions.begin() as session:
        lifecycle.cancel(session, audit.id)
    thread.join(20)
    assert slow.lost
    assert scored_samples(context) == 0


def test_worker_whose_lease_ran_out_between_computing_and_committing_drops_its_scores(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parent was silent for too long; another worker has the chunk by then."""
    runner = Runner(context.settings, "unkept", Board())
    slow = Slow(runner)
    monkeypatch.setattr(runner, "_score", slow.score)
    audit = rows.request_audit(context, 16)
    (chunk,) = rows.chunks_of(context, audit.id)
    thread = slow.start(chunk.id)
    with context.sessions.begin() as session:
        session.execute(update(Chunk).values(lease_expires_at=func.clock_timestamp() - jobs.seconds(1)))
    with context.sessions.begin() as session:
        sweep(session, context.queue, context.settings)
    rows.claim(context, chunk.id, "another")
    slow.proceed.set()
    thread.join()
    runner.context.close()
    assert scored_samples(context) == 0
    row = rows.chunks_of(context, audit.id)[0]
    assert (row.state, row.lease_owner, row.attempts) == ("running", "another", 2)


def test_lease_outlives_a_database_that_is_away_for_a_moment(
    context: Context, slow: Slow, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    audit = rows.request_audit(context, 16)
    (chunk,) = rows.chunks_of(context, audit.id)
    thread = slow.start(chunk.id)
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    before = renewals(context, chunk.id)
    eventually(lambda: renewals(context, chunk.id) != before)
    slow.proceed.set()
    thread.join()
    assert rows.chunks_of(context, audit.id)[0].state == "done"
    assert "is no longer ours" not in caplog.text


def test_two_runners_on_one_chunk_score_it_once(context: Context, slow: Slow) -> None:
    audit = rows.request_audit(context, 16)
    (chunk,) = rows.chunks_of(context, audit.id)
    thread = slow.start(chunk.id)
    other = Runner(context.settings, "other", Board())
    other.score_chunk(chunk.id)
    other.context.close()
    slow.proceed.set()
    thread.join()
    assert scored_samples(context) == 16
    assert rows.chunks_of(context, audit.id)[0].attempts == 1
