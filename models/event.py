"""What happened to an audit, in order."""

import uuid
from typing import Any

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Now


class AuditEvent(Base):
    """One move of an audit or of one of its chunks. Triggers write it in the transaction of the move.

    Attributes:
        number: 1, 2, 3, ... of the audit, without gaps and in the order of commits.
        type: ``audit.`` or ``chunk.`` and the state that it moved to.
        data: what there is to know of it.
    """

    __tablename__ = "audit_events"

    audit_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("audits.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    created_at: Mapped[Now]
    type: Mapped[str]
    data: Mapped[dict[str, Any]]
