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
            if (plan := _claim_of(session, audit_id, announced_id, owner, lease_seconds)) is not None:
                return plan
    return None


def _claim_of(
    session: Session, audit_id: uuid.UUID, announced_id: uuid.UUID, owner: str, lease_seconds: float
) -> ChunkPlan | None:
    audit = lock_audit(session, audit_id)
    waiting = select(Chunk.id, Chunk.enqueued_at).where(Chunk.audit_id == audit_id, waits()).order_by(Chunk.number)
    chunk = session.execute(waiting.limit(1)).one_or_none()
    if audit is None or chunk is None:
        return None
    plan = claim_chunk(session, chunk.id, owner, lease_seconds)
    if plan is None:
        return None
    audit.claimed_at = func.clock_timestamp()
    if chunk.id != announced_id and chunk.enqueued_at is None:
        still = (Chunk.id == announced_id) & (Chunk.state == "queued")
        session.execute(update(Chunk).where(still).values(enqueued_at=None))
    return plan
