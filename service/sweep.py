"""Finds work that nobody has: lost messages are sent again, rows of lost workers freed, hopeless ones ended."""

import logging
import uuid
from collections.abc import Sequence

from sqlalchemy import ColumnElement, func, or_, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from models.audit import QUEUES, Audit, Chunk
from models.dataset import Dataset
from models.encoder import Encoder
from service.database import limit_lock_wait
from service.deadlines import end_overdue
from service.intake import TASKS
from service.jobs import STATES, JobModel, LeasedModel, expired, seconds
from service.losses import SILENT, free
from service.queue import DEFAULT, FINALISE_AUDIT, SCORE_CHUNK, JobQueue
from service.settings import Settings

logger = logging.getLogger(__name__)

LOCK_SECONDS = 2.0  # that the sweeper waits for a row that somebody has locked
# Enough to wake the workers; more would pile up behind a busy one, or for as long as there is none.
MAX_WAITING_MESSAGES = 32


def sweep(session: Session, queue: JobQueue, settings: Settings, *, announce: bool = True) -> int:
    """Looks once through all that is open; returns how many rows were freed, ended or announced.

    Without ``announce``, for when the broker does not answer, rows are freed and ended all the same.
    """
    limit_lock_wait(session, LOCK_SECONDS)
    _end_frozen_writers(session, settings)
    moved = sum(_free(session, model, settings) for model in (*TASKS, Chunk, Audit)) + end_overdue(session, settings)
    if not announce:
        return moved
    return moved + sum(_announce_queue(session, queue, settings, name) for name in QUEUES)


def _announce_queue(session: Session, queue: JobQueue, settings: Settings, name: str) -> int:
    """Each queue has room of its own: messages that nobody takes for want of a GPU hold up no others."""
    room, announced = MAX_WAITING_MESSAGES - queue.length(name), 0
    if room > 0 and name == DEFAULT:
        announced = _announce_finalising(session, queue, settings)
        for model, task in TASKS.items():
            announced += _announce(session, queue, model, task, settings, limit=max(0, room - announced))
    return announced + _announce_chunks(session, queue, settings, name, limit=max(0, room - announced))


def _free(session: Session, model: LeasedModel, settings: Settings) -> int:
    # In one order, so that two sweepers at once do not wait for each other.
    order = Chunk.audit_id if model is Chunk else model.id
    rows = session.scalars(select(model.id).where(expired(model)).order_by(order)).all()
    freed = 0
    for row_id in rows:
        try:
            with session.begin_nested():
                freed += free(session, model, row_id, expired(model), SILENT, settings.max_attempts)
        except DBAPIError:
            # One row that cannot be freed, such as one that a frozen process has locked, does not keep the others.
            logger.exception("%s %s was not freed; trying again", model.__name__, row_id)
    return freed


def _end_frozen_writers(session: Session, settings: Settings) -> None:
    """Ends connections whose program stopped in the middle of writing rows, with what it had locked.

    The database waits for the next row without limit: neither its idle time-outs nor keep-alives apply.
    """
    frozen = text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
        "AND usename = current_user AND application_name = 'sslmem' AND state = 'active' "
        "AND wait_event = 'ClientRead' AND query_start < clock_timestamp() - make_interval(secs => :seconds)"
    )
    ended = len(session.execute(frozen, {"seconds": settings.stall_seconds}).all())
    if ended:
        logger.warning("%d connections had stopped in the middle of writing; they were ended", ended)


def _overdue(model: LeasedModel, settings: Settings) -> ColumnElement[bool]:
    before = func.clock_timestamp() - seconds(settings.resend_seconds)
    return or_(model.enqueued_at.is_(None), model.enqueued_at < before)


def _waits(model: JobModel, settings: Settings) -> ColumnElement[bool]:
    due = (model.available_at <= func.clock_timestamp()) & _overdue(model, settings)
    return (model.state == STATES[model].waiting) & due


def _announce(
    session: Session,
    queue: JobQueue,
    model: type[Encoder] | type[Dataset],
    task: str,
    settings: Settings,
    *,
    limit: int,
) -> int:
    waiting = select(model.id).where(_waits(model, settings)).order_by(model.available_at).limit(limit)
    rows = session.scalars(waiting.with_for_update(skip_locked=True))
    return _send(session, queue, model, task, [(row_id, DEFAULT) for row_id in rows])


def _announce_chunks(session: Session, queue: JobQueue, settings: Settings, name: str, *, limit: int) -> int:
    """But those of paused audits, which nobody could take."""
    waiting = (
        select(Chunk.id)
        .join(Audit, Audit.id == Chunk.audit_id)
        .where(_waits(Chunk, settings), Audit.state != "paused", Audit.queue == name)
        .order_by(Chunk.enqueued_at.nulls_first(), Chunk.available_at)
        .limit(limit)
        .with_for_update(of=Chunk, skip_locked=True)
    )
    return _send(session, queue, Chunk, SCORE_CHUNK, [(row_id, name) for row_id in session.scalars(waiting)])


def _announce_finalising(session: Session, queue: JobQueue, settings: Settings) -> int:
    nobody = (Audit.state == "finalising") & Audit.lease_owner.is_(None)
    waiting = select(Audit.id).where(nobody, _overdue(Audit, settings))
    rows = session.scalars(waiting.with_for_update(skip_locked=True))
    return _send(session, queue, Audit, FINALISE_AUDIT, [(row_id, DEFAULT) for row_id in rows])


def _send(
    session: Session, queue: JobQueue, model: LeasedModel, task: str, rows: Sequence[tuple[uuid.UUID, str]]
) -> int:
    ids = [row_id for row_id, _ in rows]
    session.execute(update(model).where(model.id.in_(ids)).values(enqueued_at=func.clock_timestamp()))
    for row_id, name in rows:
        queue.send_after_commit(session, task, row_id, name)
    return len(rows)
