"""What happened to an audit, read in order."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from models.audit import Audit
from models.event import AuditEvent
from models.states import ENDED
from service.errors import AuditNotFound, InvalidRequest

PAGE = 500
PAGE_PLACE = TypeAdapter(tuple[int])


@dataclass(frozen=True)
class News:
    """Events of an audit after some number; ``complete`` if no more can follow unless it is tried again."""

    events: Sequence[AuditEvent]
    complete: bool


def news(session: Session, audit_id: uuid.UUID, after: int, limit: int = PAGE) -> News:
    """The events after a number, at most ``limit``.

    Raises:
        AuditNotFound: there is no such audit.
        InvalidRequest: there is no event of that number.
    """
    last = select(func.max(AuditEvent.number)).where(AuditEvent.audit_id == audit_id).scalar_subquery()
    # One statement, so one moment: the state is not later than the events.
    found = session.execute(
        select(Audit.state, last, AuditEvent)
        .outerjoin(AuditEvent, (AuditEvent.audit_id == Audit.id) & (AuditEvent.number > after))
        .where(Audit.id == audit_id)
        .order_by(AuditEvent.number)
        .limit(limit)
    ).all()
    if not found:
        raise AuditNotFound(f"there is no audit with the id {audit_id}")
    state, newest, _ = found[0]
    if after > (newest or 0):
        raise InvalidRequest(f"expected the number of an event of the audit, up to {newest or 0}; found {after}")
    events = [event for _, _, event in found if event is not None]
    return News(events, complete=state in ENDED and (not events or events[-1].number == newest))
