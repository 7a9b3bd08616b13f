"""Moves an audit from state to state, and its open chunks with it; models.states has the legal moves."""

from sqlalchemy import func, update
from sqlalchemy.orm import Session

from models.audit import Audit, Chunk
from models.states import AUDIT_MOVES, ENDED

__all__ = ["ENDED", "fail", "move"]


def move(session: Session, audit: Audit, state: str) -> bool:
    """Moves an audit, locked by the caller's transaction, to another state; False if that is no legal move.

    An audit that ends early takes its open chunks with it: their workers notice when they renew their lease.
    """
    if state not in AUDIT_MOVES[audit.state]:
        return False
    audit.state = state
    audit.moved_at = func.clock_timestamp()
    if state == "running" and audit.started_at is None:
        audit.started_at = audit.rate_since = func.clock_timestamp()
    if state != "finalising":
        audit.lease_owner = audit.lease_expires_at = None
    if state in ENDED:
        audit.finished_at = func.clock_timestamp()
        session.execute(
            update(Chunk)
            .where(Chunk.audit_id == audit.id, Chunk.state.in_(("queued", "running")))
            .values(state="cancelled", lease_owner=None, lease_expires_at=None)
        )
    session.flush()
    return True


def fail(session: Session, audit: Audit, code: str, detail: str) -> None:
    """Ends a locked audit as failed, with a stable code and a sentence; an ended one is left as it is."""
    if "failed" in AUDIT_MOVES[audit.state]:
        audit.failure_code, audit.failure_detail = code, detail
        move(session, audit, "failed")
