"""Deliveries to webhooks as their sender sees them: claim, sign, settle."""

import base64
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import delete, exists, func, select, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session, aliased

from models.webhook import Webhook, WebhookAttempt, WebhookDelivery
from service import jobs
from service.settings import Settings
from sslmem import __version__

LOST = "sender-lost"
GONE = 410
FORGET_SECONDS = 30 * 24 * 3600
MAX_ERROR = 300


@dataclass(frozen=True)
class Letter:
    """A claimed delivery."""

    delivery_id: uuid.UUID
    webhook_id: uuid.UUID
    number: int
    url: str = field(repr=False)  # it may hold a password of the receiver's
    secret: str = field(repr=False)
    body: bytes = field(repr=False)

    def headers(self) -> dict[str, str]:
        """Of the request, signed as Standard Webhooks asks (https://www.standardwebhooks.com)."""
        timestamp = str(int(time.time()))
        signed = f"{self.delivery_id}.{timestamp}.".encode() + self.body
        key = base64.b64decode(self.secret.removeprefix("whsec_"))
        signature = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        return {
            "Content-Type": "application/json",
            "User-Agent": f"sslmem/{__version__}",
            "webhook-id": str(self.delivery_id),
            "webhook-timestamp": timestamp,
            "webhook-signature": f"v1,{signature}",
        }


def claim_due(session: Session, owner: str, lease_seconds: float, limit: int) -> list[Letter]:
    """Takes what is due, one delivery of a webhook at a time, so that a slow receiver holds up itself alone."""
    busy, now = aliased(WebhookDelivery), func.clock_timestamp()
    due = (
        select(WebhookDelivery.id, WebhookDelivery.available_at)
        .where(WebhookDelivery.state == "waiting", WebhookDelivery.available_at <= now)
        .where(~exists().where(busy.webhook_id == WebhookDelivery.webhook_id, busy.state == "sending"))
        .ext(postgresql.distinct_on(WebhookDelivery.webhook_id))
        .order_by(WebhookDelivery.webhook_id, WebhookDelivery.available_at)
        .subquery()
    )
    ids = session.scalars(select(due.c.id).order_by(due.c.available_at).limit(limit)).all()
    return [_open(session, i) for i in ids if jobs.claim(session, WebhookDelivery, i, owner, lease_seconds)]


def _open(session: Session, delivery_id: uuid.UUID) -> Letter:
    delivery = session.get_one(WebhookDelivery, delivery_id, populate_existing=True)
    webhook = session.get_one(Webhook, delivery.webhook_id)
    last = select(func.max(WebhookAttempt.number)).where(WebhookAttempt.delivery_id == delivery_id)
    number = (session.scalar(last) or 0) + 1  # goes on when attempts begin anew
    session.add(WebhookAttempt(delivery_id=delivery_id, number=number))
    session.flush()
    body = json.dumps(delivery.payload, separators=(",", ":")).encode()
    return Letter(delivery_id, webhook.id, number, webhook.url, webhook.secret, body)


def settle(
    session: Session, letter: Letter, owner: str, settings: Settings, *, status: int | None, error: str | None
) -> None:
    """Notes what came of an attempt: delivered, to be tried again, or failed for good.

    Raises:
        LeaseLost: the delivery is no longer this sender's, or its webhook was removed.
    """
    if error is None and (status is None or not 200 <= status < 300):
        error = f"expected a status from 200 to 299; found {status}"
    attempts = session.scalar(select(WebhookDelivery.attempts).where(WebhookDelivery.id == letter.delivery_id)) or 0
    more: dict[str, Any] = {"failure_code": None, "failure_detail": None}
    if error is None:
        state = "delivered"
    else:
        state = "failed" if status == GONE or attempts >= settings.webhook_attempts else "waiting"
        more = {"failure_code": "delivery-failed", "failure_detail": error[:MAX_ERROR]}
    if state == "waiting":
        pause = jobs.seconds(settings.webhook_retry_seconds * 4 ** (attempts - 1))
        more["available_at"] = func.clock_timestamp() + pause
    jobs.leave(session, WebhookDelivery, letter.delivery_id, owner, state, **more)
    session.execute(
        update(WebhookAttempt)
        .where(WebhookAttempt.delivery_id == letter.delivery_id, WebhookAttempt.number == letter.number)
        .values(ended_at=func.clock_timestamp(), status=status, error=error and error[:MAX_ERROR])
    )
    if status == GONE:
        _disable(session, letter.webhook_id)


def _disable(session: Session, webhook_id: uuid.UUID) -> None:
    session.execute(update(Webhook).where(Webhook.id == webhook_id).values(disabled_at=func.clock_timestamp()))
    waiting = (WebhookDelivery.webhook_id == webhook_id) & (WebhookDelivery.state == "waiting")
    gone = {"failure_code": "webhook-disabled", "failure_detail": "its receiver answered 410, gone"}
    session.execute(update(WebhookDelivery).where(waiting).values(state="failed", **gone))


def tidy(session: Session, settings: Settings) -> Sequence[uuid.UUID]:
    """Frees deliveries of senders that were lost, and forgets old ones; returns which were freed."""
    now = func.clock_timestamp()
    lost = (WebhookDelivery.state == "sending") & (WebhookDelivery.lease_expires_at < now)
    detail = "the sender was lost before it had an answer; the message may have arrived"
    freed: list[uuid.UUID] = []
    for state, which in (
        ("failed", WebhookDelivery.attempts >= settings.webhook_attempts),
        ("waiting", WebhookDelivery.attempts < settings.webhook_attempts),
    ):
        values = {"state": state, "failure_code": LOST, "failure_detail": detail, "available_at": now}
        free = update(WebhookDelivery).where(lost, which).values(lease_owner=None, lease_expires_at=None, **values)
        freed += session.scalars(free.returning(WebhookDelivery.id))
    session.execute(
        update(WebhookAttempt)
        .where(WebhookAttempt.delivery_id.in_(freed), WebhookAttempt.ended_at.is_(None))
        .values(ended_at=now, error=detail)
    )
    old = WebhookDelivery.created_at < now - jobs.seconds(FORGET_SECONDS)
    session.execute(delete(WebhookDelivery).where(WebhookDelivery.state.in_(("delivered", "failed")), old))
    return freed
