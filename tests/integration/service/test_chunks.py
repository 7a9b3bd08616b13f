"""Chunks: claimed, recorded, failed, handed back; and the end of their audit."""

import threading
import uuid
from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import DBAPIError

from models.audit import Audit, Chunk, Score
from service import audits, chunks, jobs, lifecycle
from service.chunks import ChunkPlan, RecordedScore
from service.context import Context
from service.jobs import LeaseLost
from service.queue import FINALISE_AUDIT, SCORE_CHUNK
from service.sweep import sweep
from tests.support import rows
from tests.support.queue import clear, messages
from tests.support.waiting import eventually


def scores_in(context: Context, audit_id: uuid.UUID) -> list[str]:
    with context.sessions.begin() as session:
        return list(session.scalars(select(Score.sample).where(Score.audit_id == audit_id).order_by(Score.position)))


def fail(context: Context, plan: ChunkPlan, max_attempts: int | None = 3, owner: str = rows.OWNER) -> None:
    with context.sessions.begin() as session:
        chunks.fail_chunk(session, plan, owner, code="broken", detail="It broke.", max_attempts=max_attempts)


def make_available(context: Context) -> None:
    """As if the pause before the next attempt were over."""
    with context.sessions.begin() as session:
        session.execute(update(Chunk).values(available_at=func.clock_timestamp()))


def expire(context: Context) -> None:
    """As if the workers had been silent for too long, and the sweeper had noticed."""
    with context.sessions.begin() as session:
        expired = func.clock_timestamp() - jobs.seconds(1)
        session.execute(update(Chunk).where(Chunk.state == "running").values(lease_expires_at=expired))
    with context.sessions.begin() as session:
        sweep(session, context.queue, context.settings)


def try_claim(context: Context, chunk_id: uuid.UUID, owner: str = "another") -> ChunkPlan | None:
    with context.sessions.begin() as session:
        return chunks.claim_chunk(session, chunk_id, owner, rows.LEASE_SECONDS)


# Claiming


def test_plan_holds_everything_that_the_scores_depend_on(context: Context) -> None:
    audit = rows.request_audit(context, 40, spec={"views": 3, "seed": 7, "distance": "cosine"})
    second = rows.chunks_of(context, audit.id)[1]
    plan = rows.claim(context, second.id)
    assert (plan.chunk_id, plan.audit_id, plan.start) == (second.id, audit.id, 16)
    assert [path for path, _ in plan.entries] == rows.sample_paths(40)[16:32]
    assert all(role == path.partition("/")[0] for path, role in plan.entries)
    assert (plan.spec.views, plan.spec.seed, plan.spec.distance, plan.spec.input_size) == (3, 7, "cosine", 16)
    assert plan.spec.digest == audit.spec_digest
    assert [len(plan.targets), len(plan.references)] == [1, 1]
    assert (plan.targets[0].architecture, plan.targets[0].mean) == ("resnet18", (0.5, 0.5, 0.5))
    assert plan.targets[0].weights_artifact_digest != plan.references[0].weights_artifact_digest
    assert plan.dataset_digest.startswith("sha256:")


def test_first_claim_starts_the_audit_and_later_ones_do_not_start_it_again(context: Context) -> None:
    audit = rows.request_audit(context)
    first, second, _ = rows.chunks_of(context, audit.id)
    rows.claim(context, first.id)
    started = rows.audit_of(context, audit.id)
    assert started.state == "running"
    assert started.started_at is not None
    rows.claim(context, second.id)
    assert rows.audit_of(context, audit.id).started_at == started.started_at


def test_redelivered_chunk_is_not_scored_twice(context: Context) -> None:
    audit = rows.request_audit(context)
    first = rows.chunks_of(context, audit.id)[0]
    plan = rows.claim(context, first.id)
    assert try_claim(context, first.id) is None
    rows.record(context, plan)
    assert try_claim(context, first.id) is None
    assert len(scores_in(context, audit.id)) == 16


@pytest.mark.parametrize("end", ["cancelled", "deleted"])
def test_chunk_of_an_audit_that_ended_is_not_to_be_had(context: Context, end: str) -> None:
    audit = rows.request_audit(context)
    first = rows.chunks_of(context, audit.id)[0]
    with context.sessions.begin() as session:
        lifecycle.cancel(session, audit.id)
        if end == "deleted":
            lifecycle.remove_audit(session, audit.id)
    assert try_claim(context, first.id) is None


# Recording


def test_scores_and_the_done_mark_are_written_together(context: Context) -> None:
    audit = rows.request_audit(context)
    first = rows.chunks_of(context, audit.id)[0]
    assert not rows.record(context, rows.claim(context, first.id))
    done = rows.chunks_of(context, audit.id)[0]
    assert (done.state, done.num_done, done.lease_owner) == ("done", 16, None)
    assert scores_in(context, audit.id) == rows.sample_paths(40)[:16]


def broken_off(plan: ChunkPlan) -> Iterator[RecordedScore]:
    yield from rows.scores_for(plan)[:5]
    raise MemoryError


def test_failure_in_the_middle_of_writing_leaves_neither_scores_nor_done_mark(context: Context) -> None:
    audit = rows.request_audit(context)
    plan = rows.claim(context, rows.chunks_of(context, audit.id)[0].id)
    with pytest.raises(MemoryError):
        record_these(context, plan, broken_off(plan))
    assert scores_in(context, audit.id) == []
    assert rows.chunks_of(context, audit.id)[0].state == "running"
    rows.record(context, plan)
    assert len(scores_in(context, audit.id)) == 16


def unmeasured(plan: ChunkPlan, skipped: str | None) -> RecordedScore:
    return RecordedScore(*plan.entries[0], "shared", None, None, None, None, None, skipped)


def record_these(context: Context, plan: ChunkPlan, scores: Iterator[RecordedScore]) -> None:
    with context.sessions.begin() as session:
        chunks.record_scores(session, context.queue, plan, rows.OWNER, scores)


def test_scores_that_the_database_refuses_leave_neither_scores_nor_done_mark(context: Context) -> None:
    audit = rows.request_audit(context)
    plan = rows.claim(context, rows.chunks_of(context, audit.id)[0].id)
    twice = iter([*rows.scores_for(plan)[:1], unmeasured(plan, None)])
    with pytest.raises((DBAPIError, psycopg.Error)):
        record_these(context, plan, twice)
    assert scores_in(context, audit.id) == []
    assert rows.chunks_of(context, audit.id)[0].state == "running"


def test_late_worker_whose_lease_expired_before_the_commit_writes_nothing(context: Context) -> None:
    audit = rows.request_audit(context)
    first = rows.chunks_of(context, audit.id)[0]
    late = rows.claim(context, first.id, "late")
    expire(context)
    quick = rows.claim(context, first.id, "quick")
    with pytest.raises(LeaseLost):
        rows.record(context, late, "late")
    assert scores_in(context, audit.id) == []
    rows.record(context, quick, "quick")
    with pytest.raises(LeaseLost):
        rows.record(context, late, "late")
    assert len(scores_in(context, audit.id)) == 16


def test_late_worker_cannot_fail_what_another_works_on(context: Context) -> None:
    audit = rows.request_audit(context)
    first = rows.chunks_of(context, audit.id)[0]
    late = rows.claim(context, first.id, "late")
    expire(context)
    rows.claim(context, first.id, "quick")
    with pytest.raises(LeaseLost):
        fail(context, late, None, "late")
    assert rows.audit_of(context, audit.id).state == "running"


def test_expired_lease_that_nobody_noticed_does_not_cost_the_scores(context: Context) -> None:
    audit = rows.request_audit(context)
    plan = rows.claim(context, rows.chunks_of(context, audit.id)[0].id, seconds=-1)
    rows.record(context, plan)
    assert len(scores_in(context, audit.id)) == 16


def test_lease_that_expires_between_computing_and_committing_is_decided_by_the_lock(
    context: Context, database_url: str
) -> None:
    """The sweeper has the rows but has not committed when the worker arrives: the worker must wait, then lose."""
    audit = rows.request_audit(context)
    plan = rows.claim(context, rows.chunks_of(context, audit.id)[0].id, seconds=-1)
    caught: list[BaseException] = []

    def commit_late() -> None:
        try:
            rows.record(context, plan)
        except LeaseLost as error:
            caught.append(error)

    thread = threading.Thread(target=commit_late)
    with psycopg.connect(database_url, autocommit=True) as observer:
        with context.sessions.begin() as session:
            sweep(session, context.queue, context.settings)
            thread.start()
            eventually(lambda: waiting_for_locks(observer) == 1)
        thread.join()
    assert [type(error) for error in caught] == [LeaseLost]
    assert scores_in(context, audit.id) == []


def waiting_for_locks(connection: psycopg.Connection) -> int:
    found = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    ).fetchone()
    assert found is not None
    return int(found[0])


def test_two_workers_that_claim_one_chunk_at_once_get_it_once(context: Context, database_url: str) -> None:
    audit = rows.request_audit(context)
    first = rows.chunks_of(context, audit.id)[0]
    plans: list[ChunkPlan | None] = []
    threads = [
        threading.Thread(target=lambda owner: plans.append(try_claim(context, first.id, owner)), args=(owner,))
        for owner in "ab"
    ]
    with psycopg.connect(database_url) as holder, psycopg.connect(database_url, autocommit=True) as observer:
        holder.execute("SELECT 1 FROM audits WHERE id = %s FOR UPDATE", (audit.id,))
        for thread in threads:
            thread.start()
        eventually(lambda: waiting_for_locks(observer) == len(threads))
        holder.rollback()
    for thread in threads:
        thread.join()
    assert len([plan for plan in plans if plan is not None]) == 1
    assert rows.chunks_of(context, audit.id)[0].attempts == 1


def test_of_the_last_two_chunks_recorded_at_once_exactly_one_is_the_last(context: Context, database_url: str) -> None:
    audit = rows.request_audit(context, 32)
    plans = [rows.claim(context, chunk.id) for chunk in rows.chunks_of(context, audit.id)]
    last: list[bool] = []
    threads = [
        threading.Thread(target=lambda plan: last.append(rows.record(context, plan)), args=(plan,)) for plan in plans
    ]
    clear(context.settings)
    with psycopg.connect(database_url) as holder, psycopg.connect(database_url, autocommit=True) as observer:
        holder.execute("SELECT 1 FROM audits WHERE id = %s FOR UPDATE", (audit.id,))
        for thread in threads:
            thread.start()
        eventually(lambda: waiting_for_locks(observer) == len(threads))
        holder.rollback()
    for thread in threads:
        thread.join()
    assert sorted(last) == [False, True]
    assert messages(context.settings) == [(FINALISE_AUDIT, str(audit.id))]
    assert scores_in(context, audit.id) == rows.sample_paths(32)


# Failing


def test_failed_chunk_is_tried_again_after_a_pause(context: Context) -> None:
    audit = rows.request_audit(context)
    first = rows.chunks_of(context, audit.id)[0]
    fail(context, rows.claim(context, first.id))
    again = rows.chunks_of(context, audit.id)[0]
    assert (again.state, again.attempts, again.failure_code, again.enqueued_at) == ("queued", 1, "broken", None)
    assert try_claim(context, first.id) is None
    with context.sessions.begin() as session:
        wait = select(func.extract("epoch", Chunk.available_at - func.clock_timestamp())).where(Chunk.id == first.id)
        assert 3 < float(session.scalars(wait).one()) <= 5
    make_available(context)
    assert try_claim(context, first.id) is not None


def test_chunk_that_keeps_failing_ends_its_audit_with_code_and_sentence(context: Context) -> None:
    audit = rows.request_audit(context)
    first, *others = rows.chunks_of(context, audit.id)
    other = rows.claim(context, others[0].id, "other")
    for _ in range(3):
        make_available(context)
        fail(context, rows.claim(context, first.id), max_attempts=3)
    ended = rows.audit_of(context, audit.id)
    assert (ended.state, ended.failure_code, ended.failure_detail) == ("failed", "broken", "It broke.")
    assert ended.finished_at is not None
    assert [chunk.state for chunk in rows.chunks_of(context, audit.id)] == ["failed", "cancelled", "cancelled"]
    with pytest.raises(LeaseLost):
        rows.record(context, other, "other")
    assert scores_in(context, audit.id) == []


def test_failure_that_trying_again_cannot_cure_ends_the_audit_at_once(context: Context) -> None:
    audit = rows.request_audit(context)
    fail(context, rows.claim(context, rows.chunks_of(context, audit.id)[0].id), max_attempts=None)
    assert rows.audit_of(context, audit.id).failure_code == "broken"


def test_chunk_that_succeeds_at_last_forgets_its_failures(context: Context) -> None:
    audit = rows.request_audit(context)
    first = rows.chunks_of(context, audit.id)[0]
    fail(context, rows.claim(context, first.id))
    make_available(context)
    rows.record(context, rows.claim(context, first.id))
    done = rows.chunks_of(context, audit.id)[0]
    assert (done.state, done.failure_code, done.failure_detail) == ("done", None, None)


def test_failure_of_a_chunk_whose_audit_was_deleted_is_dropped(context: Context) -> None:
    audit = rows.request_audit(context)
    plan = rows.claim(context, rows.chunks_of(context, audit.id)[0].id)
    with context.sessions.begin() as session:
        session.execute(delete(Audit))
    with pytest.raises(LeaseLost):
        fail(context, plan)


def test_failure_sentence_may_hold_what_the_database_cannot(context: Context) -> None:
    audit = rows.request_audit(context)
    plan = rows.claim(context, rows.chunks_of(context, audit.id)[0].id)
    with context.sessions.begin() as session:
        chunks.fail_chunk(session, plan, rows.OWNER, code="broken", detail="a\0b \ud800", max_attempts=None)
    assert rows.audit_of(context, audit.id).failure_detail == "a\ufffdb \ufffd"


def test_reason_for_skipping_may_hold_what_the_database_cannot(context: Context) -> None:
    audit = rows.request_audit(context)
    plan = rows.claim(context, rows.chunks_of(context, audit.id)[0].id)
    record_these(context, plan, iter([unmeasured(plan, "a\0b \ud800")]))
    with context.sessions.begin() as session:
        assert session.scalars(select(Score.skipped)).one() == "a\ufffdb \ufffd"


# Handing back


def test_handing_back_does_not_count_as_an_attempt(context: Context) -> None:
    audit = rows.request_audit(context)
    first = rows.chunks_of(context, audit.id)[0]
    for _ in range(5):
        plan = rows.claim(context, first.id)
        with context.sessions.begin() as session:
            chunks.hand_back(session, plan.chunk_id, rows.OWNER)
    row = rows.chunks_of(context, audit.id)[0]
    assert (row.state, row.attempts, row.lease_owner, row.num_done, row.failure_code) == ("queued", 0, None, 0, None)
    assert try_claim(context, first.id) is not None


def test_chunk_handed_back_is_announced_by_the_next_sweep(context: Context) -> None:
    audit = rows.request_audit(context)
    first = rows.chunks_of(context, audit.id)[0]
    plan = rows.claim(context, first.id)
    clear(context.settings)
    with context.sessions.begin() as session:
        chunks.hand_back(session, plan.chunk_id, rows.OWNER)
    with context.sessions.begin() as session:
        sweep(session, context.queue, context.settings)
    assert messages(context.settings) == [(SCORE_CHUNK, str(first.id))]


# Announcing


def test_of_a_long_audit_the_rest_is_announced_as_it_is_reached(context: Context) -> None:
    audit = rows.request_audit(context, 16 * (audits.FIRST_MESSAGES + 2))
    pieces = rows.chunks_of(context, audit.id)
    assert messages(context.settings) == [(SCORE_CHUNK, str(c.id)) for c in pieces[: audits.FIRST_MESSAGES]]
    assert [chunk.enqueued_at is None for chunk in pieces] == [False] * audits.FIRST_MESSAGES + [True] * 2
    clear(context.settings)
    rows.record(context, rows.claim(context, pieces[0].id))
    rows.record(context, rows.claim(context, pieces[1].id))
    rows.record(context, rows.claim(context, pieces[2].id))
    assert messages(context.settings) == [(SCORE_CHUNK, str(c.id)) for c in pieces[audits.FIRST_MESSAGES :]]


# Cancelling


def test_cancelled_audit_takes_its_running_chunks_along(context: Context) -> None:
    audit = rows.request_audit(context)
    first = rows.chunks_of(context, audit.id)[0]
    plan = rows.claim(context, first.id)
    with context.sessions.begin() as session:
        lifecycle.cancel(session, audit.id)
    with context.sessions.begin() as session:
        assert not jobs.renew(session, Chunk, first.id, rows.OWNER, 60)
    with pytest.raises(LeaseLost):
        rows.record(context, plan)
    assert scores_in(context, audit.id) == []
    assert [chunk.state for chunk in rows.chunks_of(context, audit.id)] == ["cancelled"] * 3


def test_cancelled_audit_keeps_the_scores_it_has(context: Context) -> None:
    audit = rows.request_audit(context)
    rows.record(context, rows.claim(context, rows.chunks_of(context, audit.id)[0].id))
    with context.sessions.begin() as session:
        lifecycle.cancel(session, audit.id)
    assert len(scores_in(context, audit.id)) == 16
    assert [chunk.state for chunk in rows.chunks_of(context, audit.id)] == ["done", "cancelled", "cancelled"]


# Finalising


def finalise(context: Context, audit_id: uuid.UUID, owner: str = rows.OWNER) -> None:
    with context.sessions.begin() as session:
        chunks.finalise(session, audit_id, owner)


def test_last_chunk_sends_the_audit_to_be_summarised(context: Context) -> None:
    audit = rows.request_audit(context)
    rows.score_all(context, audit.id)
    assert rows.audit_of(context, audit.id).state == "finalising"
    assert messages(context.settings)[-1] == (FINALISE_AUDIT, str(audit.id))


def test_audit_is_summarised_by_one_worker_at_a_time(context: Context) -> None:
    audit = rows.request_audit(context)
    rows.score_all(context, audit.id)
    assert rows.begin_finalising(context, audit.id)
    assert not rows.begin_finalising(context, audit.id, "another")
    with pytest.raises(LeaseLost):
        finalise(context, audit.id, "another")
    finalise(context, audit.id)
    ended = rows.audit_of(context, audit.id)
    assert (ended.state, ended.lease_owner, ended.finalise_attempts) == ("succeeded", None, 1)
    with pytest.raises(LeaseLost):
        finalise(context, audit.id)
    assert not rows.begin_finalising(context, audit.id)


def test_audit_that_still_runs_is_not_summarised(context: Context) -> None:
    audit = rows.request_audit(context)
    rows.record(context, rows.claim(context, rows.chunks_of(context, audit.id)[0].id))
    assert not rows.begin_finalising(context, audit.id)
    with pytest.raises(LeaseLost):
        finalise(context, audit.id)
    assert rows.audit_of(context, audit.id).state == "running"


def test_unknown_audit_is_not_summarised(context: Context) -> None:
    assert not rows.begin_finalising(context, uuid.uuid4())


def test_audit_cancelled_while_it_is_summarised_stays_cancelled(context: Context) -> None:
    audit = rows.request_audit(context)
    rows.score_all(context, audit.id)
    rows.begin_finalising(context, audit.id)
    with context.sessions.begin() as session:
        lifecycle.cancel(session, audit.id)
    with pytest.raises(LeaseLost):
        finalise(context, audit.id)
    ended = rows.audit_of(context, audit.id)
    assert (ended.state, ended.summary) == ("cancelled", None)


def test_summary_that_cannot_be_made_fails_the_audit_after_a_few_attempts(context: Context) -> None:
    audit = rows.request_audit(context)
    rows.score_all(context, audit.id)
    rows.fail_finalising(context, audit.id)
    assert not rows.begin_finalising(context, audit.id)
    ended = rows.audit_of(context, audit.id)
    assert (ended.state, ended.failure_code) == ("failed", "finalise-failed")
    assert ended.failure_detail == ("the scores are complete but summarising them failed 5 times; ValueError: odd")


def test_worker_that_is_asked_to_stop_hands_the_summary_back_unharmed(context: Context) -> None:
    audit = rows.request_audit(context)
    rows.score_all(context, audit.id)
    rows.begin_finalising(context, audit.id)
    with context.sessions.begin() as session:
        chunks.give_up_finalising(session, audit.id, rows.OWNER, None)
    back = rows.audit_of(context, audit.id)
    assert (back.state, back.lease_owner, back.finalise_attempts, back.enqueued_at) == ("finalising", None, 0, None)


def test_summary_counts_every_sample_once(context: Context) -> None:
    audit = rows.succeeded_audit(context, 100)
    assert audit.summary is not None
    assert audit.summary["num_samples"] == 100
    assert audit.summary["num_skipped"] == 5
    assert audit.summary["finding"]["code"] == "memorization-found"
    assert audit.summary["spec_digest"] == audit.spec_digest
