"""When an audit, encoder or dataset that does not move ends, so that nothing waits for ever."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import cast

from sqlalchemy import ColumnElement, exists, func, select
from sqlalchemy.orm import Session

from models.audit import Audit, Chunk
from models.dataset import Dataset
from models.encoder import Encoder
from service import states
from service.audits import lock_audit
from service.jobs import STATES, seconds
from service.settings import Settings

PASSED = "deadline-passed"


def deadline_of(audit: Audit, settings: Settings) -> datetime | None:
    """When an audit fails unless it moves; None once it has ended. Chunks under way count as moving."""
    if audit.state in states.ENDED:
        return None
    allowed = settings.paused_seconds if audit.state == "paused" else settings.waiting_seconds
    return audit.moved_at + timedelta(seconds=allowed)


def end_overdue(session: Session, settings: Settings) -> int:
    """Ends what has waited for too long; returns how many that were."""
    under_way = exists().where(Chunk.audit_id == Audit.id, Chunk.state == "running")
    waits = Audit.state.in_(("queued", "running", "finalising")) & Audit.lease_owner.is_(None) & ~under_way
    found = [*_end_audits(session, waits, settings.waiting_seconds, "no worker took it up")]
    found += _end_audits(session, Audit.state == "paused", settings.paused_seconds, "nobody resumed it")
    return len(found) + sum(_refuse(session, model, settings) for model in (Encoder, Dataset))


def _end_audits(session: Session, which: ColumnElement[bool], allowed: float, why: str) -> list[Audit]:
    overdue = which & (Audit.moved_at < func.clock_timestamp() - seconds(allowed))
    ended = []
    for audit_id in session.scalars(select(Audit.id).where(overdue).order_by(Audit.id)).all():
        audit = lock_audit(session, audit_id)
        if audit is not None and session.scalar(select(exists().where(Audit.id == audit_id, overdue))):
            detail = f"it was {audit.state} for {allowed:g} seconds and {why}; what is done is kept, try it again"
            states.fail(session, audit, PASSED, detail)
            ended.append(audit)
    return ended


def _refuse(session: Session, model: type[Encoder] | type[Dataset], settings: Settings) -> int:
    overdue = model.available_at < func.clock_timestamp() - seconds(settings.waiting_seconds)
    waiting = select(model).where(model.state == STATES[model].waiting, overdue).with_for_update(skip_locked=True)
    rows = cast("Sequence[Encoder | Dataset]", session.scalars(waiting).all())
    for row in rows:
        row.state, row.failure_code = STATES[model].failed, PASSED
        row.failure_detail = f"no worker checked it for {settings.waiting_seconds:g} seconds; register it again"
    session.flush()
    return len(rows)
