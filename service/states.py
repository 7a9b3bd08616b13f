"""The legal moves of an audit, in one place; docs/architecture draws them."""

from sqlalchemy import func, update
from sqlalchemy.orm import Session

from models.audit import Audit, Chunk

MOVES: dict[str, tuple[str, ...]] = {
    "queued": ("running", "cancelled", "failed"),
    "running": ("finalising", "cancelled", "failed"),
    "finalising": ("succeeded", "cancelled", "failed"),
    "succeeded": (),
    "failed": (),
    "cancelled": (),
}
ENDED = tuple(state for state, moves in MOVES.items() if not moves)


def move(session: Session, audit: Audit, state: str) -> bool:
    """Moves an audit, locked by the caller's transaction, to another state; False if that is no legal move.

    An audit that ends early takes its open chunks with it: their workers notice when they renew their lease.
    """
    if state not in MOVES[audit.state]:
        return False
    audit.state = state
    if state == "running":
        audit.started_at = func.clock_timestamp()
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
    if "failed" in MOVES[audit.state]:
        audit.failure_code, audit.failure_detail = code, detail
        move(session, audit, "failed")
