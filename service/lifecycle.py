"""What people may do with an audit that was requested: cancel, pause, resume, try again, keep, delete."""

import uuid

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from models.audit import Audit, AuditEncoder, AuditEvidence, Chunk, Score, ScoreBlock
from models.database import SessionFactory
from models.webhook import WebhookDelivery
from service import intake, states
from service.audits import announce_first, lock_audit
from service.errors import AuditKept, AuditNotEnded, AuditNotFound, InvalidMove, ScoresDeleted
from service.queue import FINALISE_AUDIT, JobQueue
from service.standing import samples_done

SCORE_BATCH = 20_000  # rows that one transaction deletes


def cancel(session: Session, audit_id: uuid.UUID) -> Audit:
    """Cancels an audit; one that has ended stays as it is.

    Raises:
        AuditNotFound: there is none.
    """
    audit = _locked(session, audit_id)
    if audit.state not in states.ENDED:
        states.move(session, audit, "cancelled")
    return audit


def pause(session: Session, audit_id: uuid.UUID) -> Audit:
    """Lets no further chunk begin; those under way end. An audit that is paused stays so.

    Raises:
        AuditNotFound: there is none.
        InvalidMove: it has ended, or is about to.
    """
    audit = _locked(session, audit_id)
    if audit.state != "paused" and not states.move(session, audit, "paused"):
        raise InvalidMove(f"the audit is {audit.state}; only one that is queued or running can be paused")
    return audit


def resume(session: Session, queue: JobQueue, audit_id: uuid.UUID) -> Audit:
    """Goes on with a paused audit; one that goes on already stays as it is.

    Raises:
        AuditNotFound: there is none.
        InvalidMove: it has ended.
    """
    audit = _locked(session, audit_id)
    if audit.state == "paused":
        states.move(session, audit, "queued" if audit.started_at is None else "running")
        _measure_rate_from_now(session, audit)
        announce_first(session, queue, audit)
    elif audit.state in states.ENDED:
        raise InvalidMove(f"the audit is {audit.state}; expected one that is paused")
    return audit


def retry(session: Session, queue: JobQueue, audit_id: uuid.UUID) -> Audit:
    """Tries an audit again that failed or was cancelled: only what is missing is computed.

    One that has not ended stays as it is.

    Raises:
        AuditNotFound: there is none.
        InvalidMove: it has succeeded.
        ScoresDeleted: what it had computed is gone.
    """
    audit = _locked(session, audit_id)
    if audit.state == "succeeded":
        raise InvalidMove("the audit has succeeded; there is nothing to try again")
    if audit.state not in states.ENDED:
        return audit
    if audit.scores_deleted_at is not None:
        raise ScoresDeleted("the scores that the audit had were deleted; request it anew")
    again = (
        update(Chunk)
        .where(Chunk.audit_id == audit.id, Chunk.state.in_(("failed", "cancelled")))
        .values(
            state="queued",
            attempts=0,
            num_done=0,
            enqueued_at=None,
            available_at=func.clock_timestamp(),
            failure_code=None,
            failure_detail=None,
        )
        .returning(Chunk.id)
    )
    missing = session.scalars(again).all()
    audit.failure_code = audit.failure_detail = audit.finished_at = None
    audit.finalise_attempts = 0
    if missing:
        states.move(session, audit, "queued")
        _measure_rate_from_now(session, audit)
        announce_first(session, queue, audit)
    else:
        states.move(session, audit, "finalising")
        audit.enqueued_at = func.clock_timestamp()
        queue.send_after_commit(session, FINALISE_AUDIT, audit.id)
    return audit


def keep(session: Session, audit_id: uuid.UUID, *, kept: bool) -> Audit:
    """Keeps an audit whatever the policies say and whoever would delete it, or ends that; harmless twice.

    Raises:
        AuditNotFound: there is none.
    """
    audit = _locked(session, audit_id)
    if kept != (audit.kept_at is not None):
        audit.kept_at = func.clock_timestamp() if kept else None
        session.flush()
    return audit


def remove_audit(session: Session, audit_id: uuid.UUID) -> None:
    """Deletes an audit that has ended, with all that is left of its scores.

    Raises:
        AuditNotFound: there is none.
        AuditNotEnded: it has not ended.
        AuditKept: it is kept.
    """
    audit = _deletable(session, audit_id)
    encoders = session.scalars(select(AuditEncoder.encoder_id).where(AuditEncoder.audit_id == audit_id).distinct())
    intake.release(session, list(encoders), audit.dataset_id)
    of_it = WebhookDelivery.payload["data"]["audit_id"].astext == str(audit_id)
    session.execute(delete(WebhookDelivery).where(of_it))  # they tell its name and what was found
    session.execute(delete(Audit).where(Audit.id == audit_id))


def give_up_scores(session: Session, audit_id: uuid.UUID) -> Audit:
    """Lets nobody see the scores of an audit that has ended any more; :func:`delete_some_scores` deletes the rows.

    Evidence goes with them, since it follows from them; the summary stays.

    Raises:
        AuditNotFound: there is none.
        AuditNotEnded: it has not ended.
        AuditKept: it is kept.
    """
    audit = _deletable(session, audit_id)
    if audit.scores_deleted_at is None:
        audit.scores_deleted_at = func.clock_timestamp()
        session.flush()
    session.execute(delete(ScoreBlock).where(ScoreBlock.audit_id == audit_id))
    session.execute(delete(AuditEvidence).where(AuditEvidence.audit_id == audit_id))
    return audit


def delete_some_scores(sessions: SessionFactory, audit_id: uuid.UUID) -> int:
    """Deletes some rows of scores that were given up, in a transaction of its own; returns how many, 0 at the end."""
    given_up = select(Audit.id).where(Audit.id == audit_id, Audit.scores_deleted_at.is_not(None)).scalar_subquery()
    with sessions.begin() as session:
        # A range, for which the primary key is read and never the whole table.
        first = session.scalar(select(func.min(Score.position)).where(Score.audit_id == given_up))
        if first is None:
            return 0
        some = (Score.audit_id == audit_id) & Score.position.between(first, first + SCORE_BATCH - 1)
        return session.connection().execute(delete(Score).where(some)).rowcount


def delete_scores(sessions: SessionFactory, audit_id: uuid.UUID) -> None:
    """Deletes all scores of an audit, so that none is left when this returns; see :func:`give_up_scores`."""
    with sessions.begin() as session:
        give_up_scores(session, audit_id)
    while delete_some_scores(sessions, audit_id):
        pass


def delete_audit(sessions: SessionFactory, audit_id: uuid.UUID) -> None:
    """Deletes an audit with its scores, so that nothing is left when this returns; see :func:`remove_audit`.

    Broken off in the middle, the audit is there without scores, and can be deleted again.
    """
    delete_scores(sessions, audit_id)
    with sessions.begin() as session:
        remove_audit(session, audit_id)


def _deletable(session: Session, audit_id: uuid.UUID) -> Audit:
    audit = _locked(session, audit_id)
    if audit.state not in states.ENDED:
        raise AuditNotEnded(f"the audit is {audit.state}; cancel it first")
    if audit.kept_at is not None:
        raise AuditKept(f"the audit is kept since {audit.kept_at:%Y-%m-%d %H:%M} UTC; release it first")
    return audit


def _locked(session: Session, audit_id: uuid.UUID) -> Audit:
    audit = lock_audit(session, audit_id)
    if audit is None:
        raise AuditNotFound(f"there is no audit with the id {audit_id}")
    return audit


def _measure_rate_from_now(session: Session, audit: Audit) -> None:
    """The time left follows from what is done from now on: a pause and earlier tries say nothing of the rate."""
    audit.rate_since = func.clock_timestamp()
    audit.rate_from = session.scalar(select(samples_done()).where(Chunk.audit_id == audit.id)) or 0
    session.flush()
