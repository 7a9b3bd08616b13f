"""Webhooks as their projects see them: add, list, remove, try, and read what was delivered."""

import base64
import secrets
import uuid
from collections.abc import Sequence

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from models.webhook import Webhook, WebhookAttempt, WebhookDelivery
from service.addresses import Allowed, check_url
from service.errors import DeliveryNotFound, TooManyWebhooks, WebhookDisabled, WebhookNotFound

MAX_WEBHOOKS = 20
PING = "webhook.ping"


def add(session: Session, project: str, url: str, events: Sequence[str], allowed: Allowed) -> Webhook:
    """Adds a webhook with a new secret.

    Raises:
        InvalidRequest: the URL is none that may be called.
        TooManyWebhooks: the project has as many as it may have.
    """
    check_url(url, allowed)
    if (session.scalar(select(func.count()).where(Webhook.project == project)) or 0) >= MAX_WEBHOOKS:
        raise TooManyWebhooks(f"the project has {MAX_WEBHOOKS} webhooks; remove one first")
    secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
    webhook = Webhook(project=project, url=url, secret=secret, events=sorted(set(events)))
    session.add(webhook)
    session.flush()
    return webhook


def get(session: Session, project: str, webhook_id: uuid.UUID) -> Webhook:
    """Returns a webhook of a project.

    Raises:
        WebhookNotFound: there is none.
    """
    webhook = session.get(Webhook, webhook_id)
    if webhook is None or webhook.project != project:
        raise WebhookNotFound(f"there is no webhook with the id {webhook_id}")
    return webhook


def remove(session: Session, project: str, webhook_id: uuid.UUID) -> None:
    """Deletes a webhook with its deliveries.

    Raises:
        WebhookNotFound: there is none.
    """
    session.execute(delete(Webhook).where(Webhook.id == get(session, project, webhook_id).id))


def ping(session: Session, project: str, webhook_id: uuid.UUID) -> WebhookDelivery:
    """Makes a delivery that says nothing, to try whether it arrives.

    Raises:
        WebhookNotFound: there is no such webhook.
        WebhookDisabled: nothing is delivered to it any more.
    """
    webhook = _enabled(session, project, webhook_id)
    now = session.scalars(select(func.clock_timestamp())).one()
    payload = {"type": PING, "timestamp": now.isoformat(), "data": {"webhook_id": str(webhook.id)}}
    delivery = WebhookDelivery(webhook_id=webhook.id, type=PING, payload=payload, state="waiting")
    session.add(delivery)
    session.flush()
    return delivery


def redeliver(session: Session, project: str, webhook_id: uuid.UUID, delivery_id: uuid.UUID) -> WebhookDelivery:
    """Delivers again, with the same id; one that is not through yet is tried at once.

    Raises:
        WebhookNotFound: there is no such webhook.
        DeliveryNotFound: there is no such delivery of it.
        WebhookDisabled: nothing is delivered to it any more.
    """
    webhook = _enabled(session, project, webhook_id)
    delivery = session.get(WebhookDelivery, delivery_id, with_for_update=True)
    if delivery is None or delivery.webhook_id != webhook.id:
        raise DeliveryNotFound(f"there is no delivery with the id {delivery_id}")
    if delivery.state != "sending":
        delivery.state, delivery.attempts, delivery.available_at = "waiting", 0, func.clock_timestamp()
        session.flush()
    return delivery


def attempts_of(session: Session, deliveries: Sequence[WebhookDelivery]) -> dict[uuid.UUID, list[WebhookAttempt]]:
    """The attempts of some deliveries, first ones first."""
    found: dict[uuid.UUID, list[WebhookAttempt]] = {delivery.id: [] for delivery in deliveries}
    query = select(WebhookAttempt).where(WebhookAttempt.delivery_id.in_(found)).order_by(WebhookAttempt.number)
    for attempt in session.scalars(query):
        found[attempt.delivery_id].append(attempt)
    return found


def _enabled(session: Session, project: str, webhook_id: uuid.UUID) -> Webhook:
    webhook = get(session, project, webhook_id)
    if webhook.disabled_at is not None:
        raise WebhookDisabled
    return webhook
