"""Finds work that nobody has: lost messages are sent again, rows of lost workers freed, hopeless ones ended."""

import uuid
from collections.abc import Sequence
from typing import cast

from sqlalchemy import ColumnElement, exists, func, or_, select, update
from sqlalchemy.orm import Session

from models.audit import Audit, Chunk
from models.dataset import Dataset
from models.encoder import Encoder
from service import states
from service.audits import lock_audit
from service.intake import TASKS
from service.jobs import STATES, JobModel, seconds
from service.queue import FINALISE_AUDIT, SCORE_CHUNK, JobQueue
from service.settings import Settings

# Enough to wake the workers; more would pile up behind a busy one, or for as long as there is none.
MAX_WAITING_MESSAGES = 32
LOST = "worker-lost"


def sweep(session: Session, queue: JobQueue, settings: Settings) -> int:
    """Looks once through all that is open; returns how many rows were freed, ended or announced."""
    moved = sum(_free_intake(session, kind, settings) for kind in TASKS) + _free_chunks(session, settings)
    room = MAX_WAITING_MESSAGES - queue.length()
    if room <= 0:
        return moved
    announced = _announce_finalising(session, queue, settings)
    for kind, task in (*TASKS.items(), (Chunk, SCORE_CHUNK)):
        announced += _announce(session, queue, kind, task, settings, limit=max(0, room - announced))
    return moved + announced


def _expired(model: JobModel) -> ColumnElement[bool]:
    lost: ColumnElement[bool] = model.lease_expires_at < func.clock_timestamp()
    return (model.state == STATES[model].working) & lost


def _free_intake(session: Session, model: type[Encoder] | type[Dataset], settings: Settings) -> int:
    expired = select(model).where(_expired(model)).with_for_update(skip_locked=True)
    rows = cast("Sequence[Encoder | Dataset]", session.scalars(expired).all())
    for row in rows:
        row.lease_owner = row.lease_expires_at = row.enqueued_at = None
        row.failure_code = LOST
        row.failure_detail = f"the worker that checked it was lost, {row.attempts} times"
        row.state = STATES[model].failed if row.attempts >= settings.max_attempts else STATES[model].waiting
    session.flush()
    return len(rows)


def _free_chunks(session: Session, settings: Settings) -> int:
    # In one order, so that two sweepers at once do not wait for each other.
    expired = session.execute(select(Chunk.id, Chunk.audit_id).where(_expired(Chunk)).order_by(Chunk.audit_id)).all()
    for chunk_id, audit_id in expired:
        audit = lock_audit(session, audit_id)
        still = select(Chunk).where(Chunk.id == chunk_id, _expired(Chunk)).with_for_update()
        chunk = session.scalar(still.execution_options(populate_existing=True))
        if audit is None or chunk is None:
            continue
        chunk.lease_owner = chunk.lease_expires_at = chunk.enqueued_at = None
        chunk.num_done = 0
        chunk.failure_code = LOST
        chunk.failure_detail = (
            f"the worker on samples {chunk.start} to {chunk.stop - 1} was lost {chunk.attempts} times: killed, "
            "out of memory, or cut off"
        )
        if chunk.attempts >= settings.max_attempts:
            chunk.state = "failed"
            states.fail(session, audit, LOST, chunk.failure_detail)
        else:
            chunk.state, chunk.available_at = "queued", func.clock_timestamp()
        session.flush()
    return len(expired)


def _announce(session: Session, queue: JobQueue, model: JobModel, task: str, settings: Settings, *, limit: int) -> int:
    overdue = or_(
        model.enqueued_at.is_(None), model.enqueued_at < func.clock_timestamp() - seconds(settings.resend_seconds)
    )
    waiting = (
        select(model.id)
        .where(model.state == STATES[model].waiting, model.available_at <= func.clock_timestamp(), overdue)
        .where(*_goes_on(model))
        .order_by(model.enqueued_at.nulls_first(), model.available_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return _send(session, queue, model, task, list(session.scalars(waiting)))


def _goes_on(model: JobModel) -> list[ColumnElement[bool]]:
    """That a chunk's audit is not paused: nobody could take it."""
    return [exists().where(Audit.id == Chunk.audit_id, Audit.state != "paused")] if model is Chunk else []


def _announce_finalising(session: Session, queue: JobQueue, settings: Settings) -> int:
    overdue = Audit.enqueued_at < func.clock_timestamp() - seconds(settings.resend_seconds)
    waiting = select(Audit.id).where(Audit.state == "finalising", overdue).with_for_update(skip_locked=True)
    return _send(session, queue, Audit, FINALISE_AUDIT, list(session.scalars(waiting)))


def _send(session: Session, queue: JobQueue, model: JobModel | type[Audit], task: str, ids: Sequence[uuid.UUID]) -> int:
    session.execute(update(model).where(model.id.in_(ids)).values(enqueued_at=func.clock_timestamp()))
    for row_id in ids:
        queue.send_after_commit(session, task, row_id)
    return len(ids)
