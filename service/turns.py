"""Whose turn it is: which chunk a free worker takes next.

Higher priority first. Among equals the project that has waited longest since a worker last took a chunk of it, then its
audit that has waited longest: so a million samples of one project do not hold up a hundred of another, nor one audit
the next. Messages only say that there is work; which, is decided here, by the worker that has time.
"""

import uuid
from collections.abc import Collection

from sqlalchemy import ColumnElement, Select, exists, func, select
from sqlalchemy.orm import aliased

from models.audit import Audit, Chunk


def turns(queues: Collection[str]) -> Select[uuid.UUID]:
    """The audits in these queues that a worker may take a chunk of, next one first."""
    other = aliased(Audit)
    project_claimed_at = select(func.max(other.claimed_at)).where(other.project == Audit.project).scalar_subquery()
    return (
        select(Audit.id)
        .where(Audit.state.in_(("queued", "running")), Audit.queue.in_(queues))
        .where(exists().where(Chunk.audit_id == Audit.id, waits()))
        .order_by(
            Audit.priority.desc(),
            project_claimed_at.nulls_first(),
            Audit.claimed_at.nulls_first(),
            Audit.created_at,
            Audit.id,
        )
    )


def waits() -> ColumnElement[bool]:
    """Whether a chunk may be taken now."""
    return (Chunk.state == "queued") & (Chunk.available_at <= func.clock_timestamp())
