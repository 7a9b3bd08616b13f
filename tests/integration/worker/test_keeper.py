"""The parent's watch over its process: what is renewed, taken away, handed back, and when a process is killed."""

import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.exc import DBAPIError

from models.audit import Audit, Chunk
from models.encoder import Encoder
from service import jobs, lifecycle
from service.context import Context
from service.jobs import LeasedModel, LeaseLost
from tests.support import rows
from worker.board import TASK, Board, Work
from worker.keeper import HAND_BACK_SECONDS, LET_GO_SECONDS, Keeper
from worker.lease import Lease


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class Watch:
    """A keeper with a clock of the test's; it notes whom it would kill."""

    def __init__(self, context: Context) -> None:
        self.context, self.board, self.clock = context, Board(), Clock()
        self.killed: list[int] = []
        self.keeper = Keeper(context.sessions, self.board, context.settings, now=self.clock, kill=self.killed.append)

    def chunk(self) -> Chunk:
        """Of a new audit, claimed."""
        audit = rows.request_audit(self.context, 16)
        (chunk,) = rows.chunks_of(self.context, audit.id)
        rows.claim(self.context, chunk.id, seconds=0.5)
        return chunk

    def lease(self, model: LeasedModel, row_id: uuid.UUID) -> Lease:
        return Lease(self.board, model, row_id, rows.OWNER)

    def look(self, after: float = 0) -> None:
        self.clock.seconds += after
        self.keeper.look()

    def now(self, chunk: Chunk) -> Chunk:
        return rows.chunks_of(self.context, chunk.audit_id)[0]


@pytest.fixture
def watch(context: Context) -> Watch:
    return Watch(context)


@contextmanager
def process() -> Iterator["subprocess.Popen[bytes]"]:
    """One that does nothing for long."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def test_lease_is_renewed_and_progress_written(watch: Watch) -> None:
    chunk = watch.chunk()
    before = watch.now(chunk).lease_expires_at
    with watch.lease(Chunk, chunk.id) as lease:
        lease.advance(7)
        watch.look()
    after = watch.now(chunk)
    assert before is not None
    assert after.lease_expires_at is not None
    assert after.lease_expires_at > before
    assert after.num_done == 7


def test_lease_is_not_renewed_once_the_work_has_ended(watch: Watch) -> None:
    chunk = watch.chunk()
    with watch.lease(Chunk, chunk.id):
        pass
    before = watch.now(chunk).lease_expires_at
    watch.look()
    assert watch.now(chunk).lease_expires_at == before


def test_leases_of_checks_and_of_summaries_are_renewed_too(watch: Watch) -> None:
    audit = rows.request_audit(watch.context)
    rows.score_all(watch.context, audit.id)
    assert rows.begin_finalising(watch.context, audit.id)
    with watch.context.sessions.begin() as session:
        encoder = rows.add_encoder(session, state="received")
        assert jobs.claim(session, Encoder, encoder.id, rows.OWNER, 0.5)
    for model, row_id in ((Audit, audit.id), (Encoder, encoder.id)):
        soon = select(model.id).where(
            model.id == row_id, model.lease_expires_at < func.clock_timestamp() + jobs.seconds(1)
        )
        with watch.context.sessions.begin() as session:
            session.execute(update(model).values(lease_expires_at=func.clock_timestamp()))
            assert list(session.scalars(soon)) == [row_id]
        with watch.lease(model, row_id):
            watch.look()
        with watch.context.sessions.begin() as session:
            assert list(session.scalars(soon)) == []


def test_process_is_told_that_its_chunk_was_cancelled(watch: Watch) -> None:
    chunk = watch.chunk()
    with watch.lease(Chunk, chunk.id) as lease:
        lease.advance(1)
        with watch.context.sessions.begin() as session:
            lifecycle.cancel(session, chunk.audit_id)
        watch.look()
        with pytest.raises(LeaseLost):
            lease.advance(2)
    watch.look(after=LET_GO_SECONDS + 1)
    assert watch.killed == [], "it let go"


def test_process_that_does_not_let_go_of_a_cancelled_chunk_is_killed(watch: Watch) -> None:
    chunk = watch.chunk()
    with process() as child, watch.lease(Chunk, chunk.id):
        show(watch, chunk, child.pid)
        with watch.context.sessions.begin() as session:
            lifecycle.cancel(session, chunk.audit_id)
        watch.look()
        watch.look(after=LET_GO_SECONDS - 1)
        assert watch.killed == []
        watch.look(after=2)
        assert watch.killed == [child.pid]
        watch.look(after=2)
        assert watch.killed == [child.pid], "once"
    assert watch.now(chunk).state == "cancelled"


def pauses_end(context: Context) -> None:
    """The pauses before the next try are over."""
    with context.sessions.begin() as session:
        session.execute(update(Chunk).values(available_at=func.clock_timestamp()))


def show(watch: Watch, chunk: Chunk, pid: int, signs: int = 0) -> None:
    """What another process would show."""
    watch.board.show(Work(pid, "Chunk", chunk.id.hex, rows.OWNER, signs))


def test_chunk_of_a_process_that_died_is_free_at_once(watch: Watch) -> None:
    chunk = watch.chunk()
    with process() as child:
        show(watch, chunk, child.pid)
        watch.look()
        assert watch.now(chunk).state == "running"
    watch.look()
    freed = watch.now(chunk)
    assert (freed.state, freed.attempts, freed.failure_code) == ("queued", 1, "worker-lost")
    assert freed.failure_detail == (
        "the worker on samples 0 to 15 was lost: its process was killed or ran out of memory; tried once"
    )
    rows.claim(watch.context, chunk.id, "another")
    watch.look()
    assert watch.now(chunk).lease_owner == "another", "what the dead process had is not touched again"


def test_chunk_of_a_dead_process_is_free_even_if_the_next_one_has_shown_its_work(watch: Watch) -> None:
    chunk, other = watch.chunk(), watch.chunk()
    with process() as child:
        show(watch, chunk, child.pid)
        watch.look()
    with watch.context.sessions.begin() as session:
        session.execute(update(Chunk).where(Chunk.id == other.id).values(lease_owner="next"))
    with Lease(watch.board, Chunk, other.id, "next"):
        watch.look()
    assert (watch.now(chunk).state, watch.now(chunk).failure_code) == ("queued", "worker-lost")
    assert watch.now(other).state == "running"
    assert watch.killed == [], "the dead one's number may be another process's by now"


def test_process_that_hangs_before_it_has_a_row_is_killed(watch: Watch) -> None:
    with process() as child:
        watch.board.show(Work(child.pid, TASK, "", "task"))
        watch.look()
        watch.look(after=watch.context.settings.stall_seconds - 1)
        assert watch.killed == []
        watch.look(after=2)
        watch.look(after=2)
        assert watch.killed == [child.pid]


def test_process_shows_its_task_again_after_a_row(watch: Watch) -> None:
    task = Work(1, TASK, "", "task")
    watch.board.show(task)
    with watch.lease(Chunk, uuid.uuid4()):
        pass
    shown = watch.board.read()
    assert shown is not None
    assert (shown.owner, shown.signs) == ("task", 1)


def test_process_that_hangs_with_its_chunk_locked_does_not_hang_its_keeper(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that stopped in the middle of COPY."""
    monkeypatch.setattr("worker.keeper.LOCK_SECONDS", 0.1)
    chunk = watch.chunk()
    with process() as child:
        show(watch, chunk, child.pid)
        with watch.context.sessions() as frozen:
            frozen.execute(select(Chunk).where(Chunk.id == chunk.id).with_for_update())
            with pytest.raises(DBAPIError, match="lock timeout"):
                watch.look()
            with pytest.raises(DBAPIError, match="lock timeout"):
                watch.look(after=watch.context.settings.stall_seconds + 1)
            assert watch.killed == [child.pid]
    watch.look()  # the killed one's connection has ended by now
    assert (watch.now(chunk).state, watch.now(chunk).failure_code) == ("queued", "worker-stalled")


def test_process_without_progress_is_killed_and_the_attempt_counted(watch: Watch) -> None:
    chunk, stall = watch.chunk(), watch.context.settings.stall_seconds
    with process() as child:
        show(watch, chunk, child.pid)
        watch.look()
        show(watch, chunk, child.pid, signs=1)
        watch.look(after=stall - 1)
        watch.look(after=stall - 1)
        assert watch.killed == [], "slow is not stuck"
        watch.look(after=2)
        assert watch.killed == [child.pid]
    freed = watch.now(chunk)
    assert (freed.state, freed.attempts, freed.failure_code) == ("queued", 1, "worker-stalled")
    assert "showed no progress for too long and was ended" in (freed.failure_detail or "")


def test_chunk_that_kills_its_worker_each_time_ends_with_its_reason_and_the_others_are_kept(watch: Watch) -> None:
    audit = rows.request_audit(watch.context, 32)
    good, bad = rows.chunks_of(watch.context, audit.id)
    rows.record(watch.context, rows.claim(watch.context, good.id))
    for number in range(watch.context.settings.max_attempts):
        owner = f"worker:{number}"
        pauses_end(watch.context)
        rows.claim(watch.context, bad.id, owner)
        with process() as child:
            watch.board.show(Work(child.pid, "Chunk", bad.id.hex, owner))
        watch.look()
    ended = rows.audit_of(watch.context, audit.id)
    assert (ended.state, ended.failure_code) == ("failed", "worker-lost")
    assert "the worker on samples 16 to 31 was lost" in (ended.failure_detail or "")
    assert [chunk.state for chunk in rows.chunks_of(watch.context, audit.id)] == ["done", "failed"]


def test_worker_that_is_asked_to_stop_hands_back_what_its_process_does_not(watch: Watch) -> None:
    chunk = watch.chunk()
    with process() as child:
        show(watch, chunk, child.pid)
        watch.keeper.stopping_since = watch.clock()
        watch.look(after=HAND_BACK_SECONDS - 1)
        assert (watch.killed, watch.now(chunk).state) == ([], "running")
        watch.look(after=2)
        assert watch.killed == [child.pid]
    back = watch.now(chunk)
    assert (back.state, back.attempts, back.failure_code) == ("queued", 0, None)


def test_summary_is_handed_back_likewise(watch: Watch) -> None:
    audit = rows.request_audit(watch.context)
    rows.score_all(watch.context, audit.id)
    rows.begin_finalising(watch.context, audit.id)
    with watch.lease(Audit, audit.id):
        watch.keeper.stopping_since = watch.clock()
        watch.look(after=HAND_BACK_SECONDS + 1)
    back = rows.audit_of(watch.context, audit.id)
    assert (back.state, back.lease_owner, back.finalise_attempts) == ("finalising", None, 0)


def test_next_claim_of_one_process_is_watched_like_the_first(watch: Watch) -> None:
    """What was said of an earlier row does not count for the next one."""
    first = watch.chunk()
    with watch.lease(Chunk, first.id):
        with watch.context.sessions.begin() as session:
            lifecycle.cancel(session, first.audit_id)
        watch.look()
    second = watch.chunk()
    with Lease(watch.board, Chunk, second.id, rows.OWNER + "b") as lease:
        watch.look(after=LET_GO_SECONDS + 1)
        with pytest.raises(LeaseLost):  # it was claimed under another name
            lease.advance(1)
    assert watch.killed == []


def test_board_that_nobody_wrote_to_or_that_was_torn_says_nothing() -> None:
    board = Board()
    assert board.read() is None
    with Lease(board, Chunk, uuid.uuid4(), rows.OWNER):
        assert board.read() is not None
        board._work[14:15] = b"!"
        assert board.read() is None


def test_process_that_does_not_begin_its_task_is_killed(watch: Watch) -> None:
    stall = watch.context.settings.stall_seconds
    with process() as child:
        watch.board.be_process(child.pid)
        watch.look()
        watch.keeper.received()
        watch.look()
        watch.look(after=stall - 1)
        assert watch.killed == []
        watch.look(after=2)
        assert watch.killed == [child.pid]
        watch.look(after=2 * stall)
        assert watch.killed == [child.pid], "once is enough: the task is another process's now, or was for nobody"


def test_process_that_is_at_nothing_and_has_begun_all_its_tasks_is_left_alone(watch: Watch) -> None:
    with process() as child:
        watch.board.be_process(child.pid)
        for _ in range(3):
            watch.keeper.received()
            watch.look()
            watch.board.begin()
            watch.look(after=1)
        watch.look(after=10 * watch.context.settings.stall_seconds)
        assert watch.killed == []


def test_task_that_waits_behind_another_is_not_missed_by_the_process(watch: Watch) -> None:
    chunk = watch.chunk()
    with process() as child:
        watch.board.be_process(child.pid)
        watch.keeper.received()
        watch.keeper.received()
        watch.board.begin()
        with watch.lease(Chunk, chunk.id) as lease:
            for signs in range(5):
                lease.advance(signs)
                watch.look(after=watch.context.settings.stall_seconds / 2)
        assert watch.killed == []
