"""Whose turn it is: priorities, projects and audits share the workers, and no message is lost by it."""

import uuid
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import func, select, update

from models.audit import Audit, Chunk
from service import jobs
from service.claims import claim_next
from service.context import Context
from service.queue import SCORE_CHUNK
from service.standing import standing_of
from service.sweep import sweep
from service.workers import beat
from tests.support import rows
from tests.support.queue import clear, messages


def take(
    context: Context,
    announced: uuid.UUID | None = None,
    owner: str = rows.OWNER,
    queues: Sequence[str] = ("default", "gpu"),
) -> str | None:
    """The name of the audit that a free worker takes a chunk of."""
    plan = claim_next(context.sessions, announced or uuid.uuid4(), owner, 60, queues)
    return None if plan is None else rows.audit_of(context, plan.audit_id).name


def test_a_small_audit_is_not_held_up_by_a_large_one_that_came_before(context: Context) -> None:
    rows.request_audit(context, 16 * 50, name="large", project="a")
    assert [take(context) for _ in range(3)] == ["large"] * 3
    rows.request_audit(context, 16 * 2, name="small", project="b")
    assert Counter(take(context) for _ in range(4)) == {"small": 2, "large": 2}
    assert take(context) == "large"


def test_projects_share_evenly_however_many_audits_each_has(context: Context) -> None:
    for number in range(3):
        rows.request_audit(context, 16 * 20, name=f"a{number}", project="a")
    rows.request_audit(context, 16 * 20, name="b", project="b")
    taken = Counter(take(context) for _ in range(12))
    assert taken == {"b": 6, "a0": 2, "a1": 2, "a2": 2}


def test_higher_priority_goes_first(context: Context) -> None:
    rows.request_audit(context, 16 * 2, name="usual")
    rows.request_audit(context, 16 * 2, name="urgent", priority=5)
    rows.request_audit(context, 16, name="idle", priority=-1)
    assert [take(context) for _ in range(6)] == ["urgent", "urgent", "usual", "usual", "idle", None]


def test_the_first_chunk_of_an_audit_goes_first(context: Context) -> None:
    audit = rows.request_audit(context, 16 * 3)
    for _ in range(3):
        take(context)
    starts = [chunk.start for chunk in rows.chunks_of(context, audit.id) if chunk.state == "running"]
    assert starts == [0, 16, 32]


def test_workers_at_the_same_time_take_different_chunks(context: Context) -> None:
    audit = rows.request_audit(context, 16 * 8)
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda i: take(context, owner=f"worker:{i}"), range(8)))
    assert taken == ["audit"] * 8
    owners = [chunk.lease_owner for chunk in rows.chunks_of(context, audit.id)]
    assert len(set(owners)) == 8


def test_a_chunk_whose_message_was_spent_on_another_is_announced_again(context: Context) -> None:
    first = rows.request_audit(context, 16)
    urgent = rows.request_audit(context, 16 * 70, name="urgent", priority=1)
    announced = rows.chunks_of(context, first.id)[0]
    with context.sessions.begin() as session:  # the urgent ones that were announced are under way
        rows.without_rules(session)
        for chunk in session.scalars(select(Chunk).where(Chunk.audit_id == urgent.id, Chunk.enqueued_at.is_not(None))):
            chunk.state = "running"
    clear(context.settings)
    assert take(context, announced.id) == "urgent"
    assert rows.chunks_of(context, first.id)[0].enqueued_at is None


def test_an_audit_that_waits_says_how_many_are_ahead(context: Context) -> None:
    rows.request_audit(context, 16, name="ahead")
    rows.request_audit(context, 16, name="urgent", priority=1)
    waiting = rows.request_audit(context, 16)
    with context.sessions.begin() as session:
        beat(session, "host:1", "cpu")
        reason = standing_of(session, session.get_one(Audit, waiting.id)).reason
    assert (reason or "").startswith("waiting for a worker: 2 audits are ahead; 1 worker is alive, ")


def test_audit_for_workers_with_a_gpu_is_not_taken_by_others(context: Context) -> None:
    gpu = rows.request_audit(context, 16, name="gpu", worker_queue="gpu")
    rows.request_audit(context, 16, name="any")
    assert take(context, gpu.id, queues=("default",)) == "any"
    assert take(context, gpu.id, queues=("default",)) is None
    assert take(context, gpu.id, queues=("default", "gpu")) == "gpu"


def test_messages_that_nobody_takes_for_want_of_a_gpu_hold_up_no_others(context: Context) -> None:
    rows.request_audit(context, 16 * 40, worker_queue="gpu")
    assert context.queue.length("gpu") == 40
    rows.request_audit(context, 16)
    clear(context.settings)
    with context.sessions.begin() as session:
        sweep(session, context.queue, rows.with_settings(context, resend_seconds=1e-6))
    assert len(messages(context.settings)) == 1
    clear(context.settings.model_copy(update={"queue": f"{context.settings.queue}-gpu"}))


def test_chunk_that_failed_before_goes_after_those_that_were_not_tried(context: Context) -> None:
    """Otherwise a chunk that kills its worker would keep the rest of its audit from ever being computed."""
    audit = rows.request_audit(context, 16 * 3)
    first = rows.chunks_of(context, audit.id)[0]
    for _ in range(2):
        with context.sessions.begin() as session:
            session.execute(update(Chunk).values(available_at=func.clock_timestamp()))
        if rows.chunks_of(context, audit.id)[0].state == "queued":
            rows.claim(context, first.id)
        with context.sessions.begin() as session:
            expired = func.clock_timestamp() - jobs.seconds(1)
            session.execute(update(Chunk).where(Chunk.id == first.id).values(lease_expires_at=expired))
            sweep(session, context.queue, context.settings)
    again = rows.chunks_of(context, audit.id)[0]
    assert (again.state, again.attempts) == ("queued", 2)
    with context.sessions.begin() as session:
        assert session.scalar(select(Chunk.available_at > func.clock_timestamp()).where(Chunk.id == first.id))
        session.execute(update(Chunk).values(available_at=func.clock_timestamp()))
    taken = [claim_next(context.sessions, first.id, rows.OWNER, 60) for _ in range(3)]
    assert [plan.start for plan in taken if plan is not None] == [16, 32, 0]


def test_messages_for_workers_with_a_gpu_are_in_a_queue_of_their_own(context: Context) -> None:
    audit = rows.request_audit(context, 16, worker_queue="gpu")
    gpu = context.settings.model_copy(update={"queue": f"{context.settings.queue}-gpu"})
    expected = [(SCORE_CHUNK, str(rows.chunks_of(context, audit.id)[0].id))]
    assert (messages(context.settings), messages(gpu)) == ([], expected)
    assert (context.queue.length(), context.queue.length("gpu")) == (0, 1)
    clear(gpu)
    with context.sessions.begin() as session:
        sweep(session, context.queue, rows.with_settings(context, resend_seconds=1e-6))
    assert (messages(context.settings), messages(gpu)) == ([], expected)
    clear(gpu)
