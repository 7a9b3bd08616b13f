"""Webhooks, what is delivered to them, and each attempt to."""

import uuid
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, String
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Id, Job, Now, Time, one_of
from models.states import DELIVERY_MOVES


class Webhook(Base):
    """An address that a project wants to be told at when an audit ends.

    Attributes:
        secret: what deliveries are signed with; it must be at hand for that, so it is kept as it is.
        events: types of events that are delivered.
        disabled_at: since when nothing is delivered any more.
    """

    __tablename__ = "webhooks"

    id: Mapped[Id]
    created_at: Mapped[Now]
    project: Mapped[str] = mapped_column(index=True)
    url: Mapped[str]
    secret: Mapped[str]
    events: Mapped[list[str]] = mapped_column(ARRAY(String))
    disabled_at: Mapped[Time | None]


class WebhookDelivery(Job, Base):
    """One message to a webhook, made in the transaction that ended the audit; the row is the job.

    Attributes:
        type: of the event.
        payload: the message, the same at every attempt.
    """

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        one_of("state", tuple(DELIVERY_MOVES)),
        CheckConstraint("(state = 'sending') = (lease_owner IS NOT NULL)", name="lease"),
        Index("ix_webhook_deliveries_webhook_id_created_at", "webhook_id", "created_at"),
        Index("ix_webhook_deliveries_open", "available_at", postgresql_where="state IN ('waiting', 'sending')"),
    )

    id: Mapped[Id]
    created_at: Mapped[Now]
    webhook_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    type: Mapped[str]
    payload: Mapped[dict[str, Any]]


class WebhookAttempt(Base):
    """One attempt to deliver: when, and what came of it; neither status nor error while it is under way."""

    __tablename__ = "webhook_attempts"

    delivery_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("webhook_deliveries.id", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True)
    started_at: Mapped[Now]
    ended_at: Mapped[Time | None]
    status: Mapped[int | None]
    error: Mapped[str | None]
