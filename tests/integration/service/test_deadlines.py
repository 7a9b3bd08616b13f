"""Nothing waits for ever: what does not move ends, with its reason, and can be tried again."""

import uuid

from sqlalchemy import func, update

from models.audit import Audit
from models.dataset import Dataset
from models.encoder import Encoder
from service import jobs, lifecycle
from service.context import Context
from service.deadlines import deadline_of
from service.sweep import sweep
from tests.support import rows


def run(context: Context) -> None:
    with context.sessions.begin() as session:
        sweep(session, context.queue, context.settings)


def age(context: Context, audit_id: uuid.UUID, seconds: float) -> None:
    """As if the audit had not moved for so long."""
    with context.sessions.begin() as session:
        then = func.clock_timestamp() - jobs.seconds(seconds)
        session.execute(update(Audit).where(Audit.id == audit_id).values(moved_at=then))


def test_audit_that_no_worker_takes_up_fails_with_its_reason_and_can_be_tried_again(context: Context) -> None:
    audit, allowed = rows.request_audit(context), context.settings.waiting_seconds
    age(context, audit.id, allowed - 60)
    run(context)
    assert rows.audit_of(context, audit.id).state == "queued"
    age(context, audit.id, allowed + 1)
    run(context)
    ended = rows.audit_of(context, audit.id)
    assert (ended.state, ended.failure_code) == ("failed", "deadline-passed")
    assert ended.failure_detail == (
        "it was queued for 604800 seconds and no worker took it up; what is done is kept, try it again"
    )
    with context.sessions.begin() as session:
        lifecycle.retry(session, context.queue, audit.id)
    run(context)
    assert rows.audit_of(context, audit.id).state == "queued", "the time counts anew"


def test_audit_whose_workers_all_went_away_keeps_what_is_done(context: Context) -> None:
    audit = rows.request_audit(context)
    rows.record(context, rows.claim(context, rows.chunks_of(context, audit.id)[0].id))
    age(context, audit.id, context.settings.waiting_seconds + 1)
    run(context)
    assert rows.audit_of(context, audit.id).failure_code == "deadline-passed"
    assert [chunk.state for chunk in rows.chunks_of(context, audit.id)] == ["done", "cancelled", "cancelled"]


def test_audit_with_a_chunk_under_way_has_no_deadline_but_the_lease(context: Context) -> None:
    audit = rows.request_audit(context)
    rows.claim(context, rows.chunks_of(context, audit.id)[0].id)
    age(context, audit.id, context.settings.waiting_seconds + 1)
    run(context)
    assert rows.audit_of(context, audit.id).state == "running"


def test_every_chunk_that_is_done_sets_the_deadline_back(context: Context) -> None:
    audit = rows.request_audit(context)
    plan = rows.claim(context, rows.chunks_of(context, audit.id)[0].id)
    age(context, audit.id, context.settings.waiting_seconds + 1)
    rows.record(context, plan)
    run(context)
    assert rows.audit_of(context, audit.id).state == "running"


def test_audit_that_nobody_summarises_fails(context: Context) -> None:
    audit = rows.request_audit(context)
    rows.score_all(context, audit.id)
    age(context, audit.id, context.settings.waiting_seconds + 1)
    assert rows.begin_finalising(context, audit.id)
    run(context)
    assert rows.audit_of(context, audit.id).state == "finalising", "a worker has it"
    with context.sessions.begin() as session:
        session.execute(update(Audit).values(lease_owner=None, lease_expires_at=None))
    run(context)
    assert rows.audit_of(context, audit.id).failure_code == "deadline-passed"


def test_audit_that_nobody_resumes_fails_later(context: Context) -> None:
    audit = rows.request_audit(context)
    with context.sessions.begin() as session:
        lifecycle.pause(session, audit.id)
    age(context, audit.id, context.settings.waiting_seconds + 1)
    run(context)
    assert rows.audit_of(context, audit.id).state == "paused"
    age(context, audit.id, context.settings.paused_seconds + 1)
    run(context)
    ended = rows.audit_of(context, audit.id)
    assert (ended.state, ended.failure_code) == ("failed", "deadline-passed")
    assert "nobody resumed it" in (ended.failure_detail or "")


def test_every_state_that_is_no_end_has_a_deadline(context: Context) -> None:
    audit = rows.request_audit(context)

    def deadline(state: str) -> float | None:
        audit.state = state
        found = deadline_of(audit, context.settings)
        return None if found is None else (found - audit.moved_at).total_seconds()

    waiting, paused = context.settings.waiting_seconds, context.settings.paused_seconds
    assert {state: deadline(state) for state in ("queued", "running", "finalising", "paused")} == {
        "queued": waiting, "running": waiting, "finalising": waiting, "paused": paused
    }  # fmt: skip
    assert [deadline(state) for state in ("succeeded", "failed", "cancelled")] == [None] * 3


def test_check_that_no_worker_takes_up_ends(context: Context) -> None:
    with context.sessions.begin() as session:
        then = func.clock_timestamp() - jobs.seconds(context.settings.waiting_seconds + 1)
        encoder = rows.add_encoder(session, state="received", available_at=then)
        dataset = rows.add_dataset(session, ["a.png"], state="received", available_at=then)
    run(context)
    with context.sessions.begin() as session:
        for row in (session.get_one(Encoder, encoder.id), session.get_one(Dataset, dataset.id)):
            assert (row.state, row.failure_code) == ("refused", "deadline-passed")
            assert row.failure_detail == "no worker checked it for 604800 seconds; register it again"
