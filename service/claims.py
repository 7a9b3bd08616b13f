"""How a worker takes a chunk: the one whose turn it is."""

import uuid
from collections.abc import Collection

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from models.audit import QUEUES, Chunk
from models.database import SessionFactory
from service.audits import lock_audit
from service.chunks import ChunkPlan, claim_chunk
from service.turns import turns, waits

MAX_TRIES = 8  # another worker may take an audit's last chunk in between


def claim_next(
    sessions: SessionFactory,
    announced_id: uuid.UUID,
    owner: str,
    lease_seconds: float,
    queues: Collection[str] = QUEUES,
) -> ChunkPlan | None:
    """Takes the chunk whose turn it is; None if there is none.

    Args:
        sessions: each try is a transaction of its own, which locks one audit.
        announced_id: the chunk whose message woke the worker. If another one is taken that no message was sent for,
            this one counts as not announced again: there are as many messages as chunks that wait for them.
        owner: of the lease.
        lease_seconds: of the lease.
        queues: that the worker takes work from.
    """
    for _ in range(MAX_TRIES):
        with sessions.begin() as session:
            audit_id = session.scalars(turns(queues).limit(1)).first()
            if audit_id is None:
                return None
            found = _claim_of(session, audit_id, owner, lease_seconds)
        if found is not None:
            plan, announced = found
            if plan.chunk_id != announced_id and not announced:
                with sessions.begin() as session:
                    _not_announced(session, announced_id)
            return plan
    return None


def _claim_of(session: Session, audit_id: uuid.UUID, owner: str, lease_seconds: float) -> tuple[ChunkPlan, bool] | None:
    """A chunk of an audit, and whether a message had been sent for it; one that was tried before goes last."""
    audit = lock_audit(session, audit_id)
    waiting = select(Chunk.id, Chunk.enqueued_at).where(Chunk.audit_id == audit_id, waits())
    chunk = session.execute(waiting.order_by(Chunk.attempts, Chunk.number).limit(1)).one_or_none()
    if audit is None or chunk is None:
        return None
    plan = claim_chunk(session, chunk.id, owner, lease_seconds)
    if plan is None:
        return None
    audit.claimed_at = func.clock_timestamp()
    return plan, chunk.enqueued_at is not None


def _not_announced(session: Session, chunk_id: uuid.UUID) -> None:
    # In a transaction of its own: the chunk may be another audit's, whose lock is not held.
    still = select(Chunk.id).where(Chunk.id == chunk_id, Chunk.state == "queued").with_for_update(skip_locked=True)
    session.execute(update(Chunk).where(Chunk.id.in_(still)).values(enqueued_at=None))
