"""What people may do with an audit that was requested: cancel, pause, resume, try again, delete."""

import uuid

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from models.audit import Audit, Chunk
from service import states
from service.audits import announce_first, lock_audit, samples_done
from service.errors import AuditNotEnded, AuditNotFound, InvalidMove
from service.queue import FINALISE_AUDIT, JobQueue


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
    """
    audit = _locked(session, audit_id)
    if audit.state == "succeeded":
        raise InvalidMove("the audit has succeeded; there is nothing to try again")
    if audit.state not in states.ENDED:
        return audit
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


def remove_audit(session: Session, audit_id: uuid.UUID) -> None:
    """Deletes an audit that has ended, with its scores.

    Raises:
        AuditNotFound: there is none.
        AuditNotEnded: it has not ended.
    """
    audit = _locked(session, audit_id)
    if audit.state not in states.ENDED:
        raise AuditNotEnded(f"the audit is {audit.state}; cancel it first")
    session.execute(delete(Audit).where(Audit.id == audit_id))


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
