"""``/v1/webhooks``."""

import uuid

from fastapi import APIRouter, Response

from api.deps import AuthorizedRoute, ContextDep, OnceDep, ProjectDep, SessionDep
from api.errors import already, problems
from api.paging import CursorParam, LimitParam, page_of
from api.schemas import AttemptOut, DeliveryOut, NewWebhook, PageOut, WebhookBody, WebhookOut
from models.webhook import Webhook, WebhookDelivery
from service import webhooks
from service.addresses import Allowed
from service.database import Session

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"], route_class=AuthorizedRoute)


def _out(session: Session, *deliveries: WebhookDelivery) -> list[DeliveryOut]:
    attempts = webhooks.attempts_of(session, deliveries)
    return [
        DeliveryOut(
            id=row.id,
            type=row.type,
            state=row.state,
            payload=row.payload,
            created_at=row.created_at,
            next_attempt_at=row.available_at if row.state == "waiting" else None,
            attempts=[AttemptOut.model_validate(attempt) for attempt in attempts[row.id]],
        )
        for row in deliveries
    ]


@router.post("", status_code=201, responses=already(NewWebhook) | problems(400, 409, 410))
def add_webhook(
    body: WebhookBody,
    response: Response,
    session: SessionDep,
    context: ContextDep,
    project: ProjectDep,
    once: OnceDep,
) -> NewWebhook:
    """Adds a webhook: its URL is told when an audit of the project ends. The answer alone shows its secret.

    Deliveries are signed as Standard Webhooks says; any of its libraries verifies them with the secret.
    """
    allowed = Allowed.of(context.settings.webhook_allow)

    def make() -> tuple[Webhook, bool]:
        return webhooks.add(session, project, body.url, body.events, allowed), True

    webhook, new = once(session, {"route": "webhooks", **body.model_dump()}, Webhook, make)
    response.status_code = 201 if new else 200
    response.headers["Location"] = f"/v1/webhooks/{webhook.id}"
    return NewWebhook.model_validate(webhook)


@router.get("", responses=problems(400))
def list_webhooks(
    session: SessionDep, project: ProjectDep, limit: LimitParam = 100, cursor: CursorParam = None
) -> PageOut[WebhookOut]:
    """Lists the webhooks of the project, newest first."""
    rows, more = page_of(session, Webhook, limit, cursor, Webhook.project == project)
    return PageOut(items=[WebhookOut.model_validate(row) for row in rows], next_cursor=more)


@router.get("/{webhook_id}", responses=problems(404))
def get_webhook(webhook_id: uuid.UUID, session: SessionDep, project: ProjectDep) -> WebhookOut:
    """Shows a webhook."""
    return WebhookOut.model_validate(webhooks.get(session, project, webhook_id))


@router.delete("/{webhook_id}", status_code=204, responses=problems(404))
def delete_webhook(webhook_id: uuid.UUID, session: SessionDep, project: ProjectDep) -> None:
    """Deletes a webhook; nothing is delivered to it any more."""
    webhooks.remove(session, project, webhook_id)


@router.post("/{webhook_id}/test", status_code=202, responses=already(DeliveryOut) | problems(404, 409, 410))
def ping_webhook(
    webhook_id: uuid.UUID, response: Response, session: SessionDep, project: ProjectDep, once: OnceDep
) -> DeliveryOut:
    """Delivers an event `webhook.ping`, to try whether it arrives."""

    def make() -> tuple[WebhookDelivery, bool]:
        return webhooks.ping(session, project, webhook_id), True

    delivery, new = once(session, {"route": "webhooks/test", "webhook": webhook_id}, WebhookDelivery, make)
    response.status_code = 202 if new else 200
    return _out(session, delivery)[0]


@router.get("/{webhook_id}/deliveries", responses=problems(400, 404))
def list_deliveries(
    webhook_id: uuid.UUID,
    session: SessionDep,
    project: ProjectDep,
    limit: LimitParam = 100,
    cursor: CursorParam = None,
) -> PageOut[DeliveryOut]:
    """Lists what was delivered to a webhook in the last 30 days with every attempt, newest first."""
    webhook = webhooks.get(session, project, webhook_id)
    rows, more = page_of(session, WebhookDelivery, limit, cursor, WebhookDelivery.webhook_id == webhook.id)
    return PageOut(items=_out(session, *rows), next_cursor=more)


@router.post("/{webhook_id}/deliveries/{delivery_id}/redeliver", status_code=202, responses=problems(404, 409))
def redeliver(webhook_id: uuid.UUID, delivery_id: uuid.UUID, session: SessionDep, project: ProjectDep) -> DeliveryOut:
    """Delivers again, with the same id and content."""
    delivery = webhooks.redeliver(session, project, webhook_id, delivery_id)
    session.refresh(delivery)
    return _out(session, delivery)[0]
