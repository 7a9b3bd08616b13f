"""Pausing, resuming and trying again: what is kept, what is done again, and who works meanwhile."""

import pytest
from sqlalchemy import select

from models.audit import Audit, Score
from service import chunks, lifecycle
from service.claims import claim_next
from service.context import Context
from service.errors import InvalidMove
from service.jobs import LeaseLost
from service.queue import FINALISE_AUDIT, SCORE_CHUNK
from service.standing import standing_of
from service.sweep import sweep
from tests.support import rows
from tests.support.queue import clear, messages


def finish(context: Context, chunk_number: int, audit: Audit, owner: str = rows.OWNER) -> bool:
    """A worker takes a chunk and records its scores; whether it was the last."""
    plan = rows.claim(context, rows.chunks_of(context, audit.id)[chunk_number].id, owner)
    with context.sessions.begin() as session:
        return chunks.record_scores(session, context.queue, plan, owner, rows.scores_for(plan))


def pause(context: Context, audit: Audit) -> None:
    with context.sessions.begin() as session:
        lifecycle.pause(session, audit.id)


def resume(context: Context, audit: Audit) -> str:
    with context.sessions.begin() as session:
        return lifecycle.resume(session, context.queue, audit.id).state


def retry(context: Context, audit: Audit) -> str:
    with context.sessions.begin() as session:
        return lifecycle.retry(session, context.queue, audit.id).state


def states(context: Context, audit: Audit) -> list[str]:
    return [chunk.state for chunk in rows.chunks_of(context, audit.id)]


def scored(context: Context, audit: Audit) -> list[int]:
    with context.sessions.begin() as session:
        return list(session.scalars(select(Score.position).where(Score.audit_id == audit.id).order_by(Score.position)))


def test_paused_audit_begins_no_chunk_and_is_not_announced(context: Context) -> None:
    audit = rows.request_audit(context)
    pause(context, audit)
    clear(context.settings)
    first = rows.chunks_of(context, audit.id)[0]
    assert claim_next(context.sessions, first.id, rows.OWNER, 60) is None
    with context.sessions.begin() as session:
        assert chunks.claim_chunk(session, first.id, rows.OWNER, 60) is None
        sweep(session, context.queue, context.settings.model_copy(update={"resend_seconds": 0.0}))
    assert messages(context.settings) == []
    assert states(context, audit) == ["queued"] * 3


def test_chunk_under_way_ends_while_its_audit_is_paused(context: Context) -> None:
    audit = rows.request_audit(context)
    plan = rows.claim(context, rows.chunks_of(context, audit.id)[0].id)
    pause(context, audit)
    with context.sessions.begin() as session:
        assert not chunks.record_scores(session, context.queue, plan, rows.OWNER, rows.scores_for(plan))
    assert states(context, audit) == ["done", "queued", "queued"]
    assert rows.audit_of(context, audit.id).state == "paused"


def test_paused_audit_whose_last_chunk_ends_is_summarised(context: Context) -> None:
    audit = rows.request_audit(context, 16)
    plan = rows.claim(context, rows.chunks_of(context, audit.id)[0].id)
    pause(context, audit)
    clear(context.settings)
    with context.sessions.begin() as session:
        assert chunks.record_scores(session, context.queue, plan, rows.OWNER, rows.scores_for(plan))
    assert rows.audit_of(context, audit.id).state == "finalising"
    assert messages(context.settings) == [(FINALISE_AUDIT, str(audit.id))]


@pytest.mark.parametrize("begun", [False, True])
def test_resumed_audit_goes_on_where_it_was(context: Context, begun: bool) -> None:
    audit = rows.request_audit(context)
    if begun:
        finish(context, 0, audit)
    pause(context, audit)
    clear(context.settings)
    assert resume(context, audit) == ("running" if begun else "queued")
    for number in range(1 if begun else 0, 3):
        last = finish(context, number, audit)
    assert last
    assert scored(context, audit) == list(range(40))


def test_failed_audit_computes_only_what_is_missing(context: Context) -> None:
    audit = rows.request_audit(context)
    finish(context, 0, audit)
    rows.fail_chunk(context, rows.chunks_of(context, audit.id)[1].id)
    assert states(context, audit) == ["done", "failed", "cancelled"]
    clear(context.settings)
    assert retry(context, audit) == "queued"
    assert states(context, audit) == ["done", "queued", "queued"]
    waiting = rows.chunks_of(context, audit.id)[1:]
    assert messages(context.settings) == [(SCORE_CHUNK, str(chunk.id)) for chunk in waiting]
    assert [(chunk.attempts, chunk.failure_code) for chunk in waiting] == [(0, None)] * 2
    finish(context, 1, audit)
    assert finish(context, 2, audit)
    assert scored(context, audit) == list(range(40))
    again = rows.audit_of(context, audit.id)
    assert (again.state, again.failure_code, again.finished_at) == ("finalising", None, None)


def test_cancelled_audit_is_tried_again_like_a_failed_one(context: Context) -> None:
    audit = rows.request_audit(context)
    finish(context, 0, audit)
    with context.sessions.begin() as session:
        lifecycle.cancel(session, audit.id)
    assert retry(context, audit) == "queued"
    assert states(context, audit) == ["done", "queued", "queued"]


def test_audit_that_only_could_not_be_summarised_is_only_summarised_again(context: Context) -> None:
    audit = rows.request_audit(context, 16)
    finish(context, 0, audit)
    rows.fail_finalising(context, audit.id)
    assert rows.audit_of(context, audit.id).failure_code == "finalise-failed"
    clear(context.settings)
    assert retry(context, audit) == "finalising"
    assert messages(context.settings) == [(FINALISE_AUDIT, str(audit.id))]
    rows.finalise(context, audit.id)
    assert rows.audit_of(context, audit.id).state == "succeeded"


def test_trying_again_what_goes_on_changes_nothing(context: Context) -> None:
    audit = rows.request_audit(context)
    assert retry(context, audit) == "queued"
    finish(context, 0, audit)
    assert retry(context, audit) == "running"
    assert states(context, audit) == ["done", "queued", "queued"]


def test_late_scores_of_the_first_try_are_dropped(context: Context) -> None:
    """A worker that was cut off comes back after its audit was cancelled and tried again."""
    audit = rows.request_audit(context, 16)
    plan = rows.claim(context, rows.chunks_of(context, audit.id)[0].id, "worker:1")
    with context.sessions.begin() as session:
        lifecycle.cancel(session, audit.id)
    retry(context, audit)
    rows.claim(context, rows.chunks_of(context, audit.id)[0].id, "worker:2")
    with pytest.raises(LeaseLost), context.sessions.begin() as session:
        chunks.record_scores(session, context.queue, plan, "worker:1", rows.scores_for(plan))
    assert scored(context, audit) == []


def test_time_left_follows_from_what_was_done_since(context: Context) -> None:
    audit = rows.request_audit(context, 64)
    for number in range(2):
        finish(context, number, audit)
    with context.sessions.begin() as session:
        lifecycle.cancel(session, audit.id)
    retry(context, audit)
    rows.claim(context, rows.chunks_of(context, audit.id)[2].id)
    with context.sessions.begin() as session:
        found = session.get_one(Audit, audit.id)
        progress = standing_of(session, found).progress
    assert (found.rate_from, progress.samples_done, progress.seconds_left) == (32, 32, None)


def test_ended_audits_are_not_paused_or_resumed(context: Context) -> None:
    audit = rows.succeeded_audit(context)
    for act in (lambda: pause(context, audit), lambda: resume(context, audit), lambda: retry(context, audit)):
        with pytest.raises(InvalidMove):
            act()
