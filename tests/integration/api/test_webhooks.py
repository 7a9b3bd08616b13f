"""Webhooks over HTTP: add, list, try, read the log, deliver again, remove; each project sees its own alone."""

import uuid
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from models.webhook import WebhookDelivery
from service import deliveries
from service.context import Context
from service.tokens import create_token
from service.webhooks import MAX_WEBHOOKS
from tests.support import rows
from tests.support.problems import problem

URL = "https://hooks.example/sslmem"


def add(client: TestClient, **changes: object) -> dict[str, Any]:
    response = client.post("/v1/webhooks", json={"url": URL, **changes})
    assert response.status_code == 201, response.text
    webhook: dict[str, Any] = response.json()
    assert response.headers["Location"] == f"/v1/webhooks/{webhook['id']}"
    return webhook


def send(context: Context, status: int) -> int:
    """Settles all deliveries that are due as if their receivers had answered so; returns how many there were."""
    with context.sessions.begin() as session:
        letters = deliveries.claim_due(session, "sender", 60, 100)
    for letter in letters:
        with context.sessions.begin() as session:
            deliveries.settle(session, letter, "sender", context.settings, status=status, error=None)
    return len(letters)


def test_secret_is_shown_by_the_first_answer_alone(client: TestClient) -> None:
    webhook = add(client)
    assert webhook["secret"].startswith("whsec_")
    assert webhook["events"] == ["audit.cancelled", "audit.failed", "audit.succeeded"]
    here = f"/v1/webhooks/{webhook['id']}"
    for response in (client.get("/v1/webhooks"), client.get(here), client.get(f"{here}/deliveries")):
        assert response.status_code == 200
        assert webhook["secret"] not in response.text
    assert client.get("/v1/webhooks").json()["items"] == [client.get(here).json()]


def test_the_same_key_adds_one_webhook(client: TestClient) -> None:
    key = {"Idempotency-Key": "mine"}
    first, second = (client.post("/v1/webhooks", json={"url": URL}, headers=key) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json()
    assert len(client.get("/v1/webhooks").json()["items"]) == 1


@pytest.mark.parametrize(
    "url",
    ["http://hooks.example/", "https://127.0.0.1/", "https://10.0.0.1/", "https://2130706433/", "https://[::1]/",
     "https://user:password@hooks.example/", "https://hooks.example:22/", "ftp://hooks.example/", "nothing"],
)  # fmt: skip
def test_url_that_may_not_be_called_is_refused(client: TestClient, url: str) -> None:
    problem(client.post("/v1/webhooks", json={"url": url}), 400, "invalid-request")
    assert client.get("/v1/webhooks").json()["items"] == []


@pytest.mark.parametrize("body", [{}, {"url": URL, "events": []}, {"url": URL, "events": ["odd"]}, {"url": 1}])
def test_body_of_another_form_is_refused(client: TestClient, body: dict[str, Any]) -> None:
    problem(client.post("/v1/webhooks", json=body), 422, "request-invalid")


def test_project_has_so_many_webhooks_at_most(client: TestClient) -> None:
    for number in range(MAX_WEBHOOKS):
        add(client, url=f"{URL}/{number}")
    problem(client.post("/v1/webhooks", json={"url": URL}), 409, "too-many-webhooks")


def test_webhooks_of_another_project_are_not_there(client: TestClient, context: Context) -> None:
    webhook = add(client)
    client.post(f"/v1/webhooks/{webhook['id']}/test")
    with context.sessions.begin() as session:
        client.headers["Authorization"] = f"Bearer {create_token(session, 'another')}"
    assert client.get("/v1/webhooks").json()["items"] == []
    here = f"/v1/webhooks/{webhook['id']}"
    for response in (
        client.get(here),
        client.get(f"{here}/deliveries"),
        client.post(f"{here}/test"),
        client.post(f"{here}/deliveries/{uuid.uuid4()}/redeliver"),
        client.delete(here),
    ):
        problem(response, 404, "webhook-not-found")


def test_test_delivers_a_ping_and_the_log_shows_every_attempt(client: TestClient, context: Context) -> None:
    webhook = add(client)
    here = f"/v1/webhooks/{webhook['id']}"
    ping = client.post(f"{here}/test")
    assert ping.status_code == 202
    assert (ping.json()["type"], ping.json()["state"], ping.json()["attempts"]) == ("webhook.ping", "waiting", [])
    assert send(context, 503) == 1
    (entry,) = client.get(f"{here}/deliveries").json()["items"]
    assert entry["state"] == "waiting"
    assert entry["next_attempt_at"] > entry["created_at"]
    (attempt,) = entry["attempts"]
    assert (attempt["number"], attempt["status"]) == (1, 503)
    assert attempt["error"] == "expected a status from 200 to 299; found 503"
    with context.sessions.begin() as session:
        session.execute(update(WebhookDelivery).values(available_at=WebhookDelivery.created_at))
    assert send(context, 204) == 1
    (entry,) = client.get(f"{here}/deliveries").json()["items"]
    assert (entry["state"], entry["next_attempt_at"]) == ("delivered", None)
    assert [attempt["status"] for attempt in entry["attempts"]] == [503, 204]


def test_delivery_that_is_through_is_delivered_again_when_asked_for(client: TestClient, context: Context) -> None:
    webhook = add(client)
    here = f"/v1/webhooks/{webhook['id']}"
    delivery_id = client.post(f"{here}/test").json()["id"]
    assert (send(context, 200), send(context, 200)) == (1, 0)
    again = client.post(f"{here}/deliveries/{delivery_id}/redeliver")
    assert (again.status_code, again.json()["id"], again.json()["state"]) == (202, delivery_id, "waiting")
    assert send(context, 200) == 1
    problem(client.post(f"{here}/deliveries/{uuid.uuid4()}/redeliver"), 404, "delivery-not-found")


def test_end_of_an_audit_is_in_the_log_of_its_projects_webhooks_alone(client: TestClient, context: Context) -> None:
    webhook, other = add(client), add(client, events=["audit.failed"])
    audit = rows.request_audit(context, 16, project="test")
    rows.request_audit(context, 16, project="another")
    client.post(f"/v1/audits/{audit.id}/cancel")
    (entry,) = client.get(f"/v1/webhooks/{webhook['id']}/deliveries").json()["items"]
    assert (entry["type"], entry["payload"]["data"]["audit_id"]) == ("audit.cancelled", str(audit.id))
    assert client.get(f"/v1/webhooks/{other['id']}/deliveries").json()["items"] == []


def test_log_comes_in_pages(client: TestClient) -> None:
    here = f"/v1/webhooks/{add(client)['id']}"
    made = [client.post(f"{here}/test").json()["id"] for _ in range(3)]
    first = client.get(f"{here}/deliveries", params={"limit": 2}).json()
    rest = client.get(f"{here}/deliveries", params={"cursor": first["next_cursor"]}).json()
    assert [entry["id"] for entry in first["items"] + rest["items"]] == made[::-1]
    assert rest["next_cursor"] is None


def test_receiver_that_is_gone_is_told_nothing_more(client: TestClient, context: Context) -> None:
    here = f"/v1/webhooks/{add(client)['id']}"
    client.post(f"{here}/test")
    assert send(context, 410) == 1
    assert client.get(here).json()["disabled_at"] is not None
    problem(client.post(f"{here}/test"), 409, "webhook-disabled")


def test_removed_webhook_takes_its_log_along(client: TestClient, context: Context) -> None:
    here = f"/v1/webhooks/{add(client)['id']}"
    client.post(f"{here}/test")
    assert client.delete(here).status_code == 204
    problem(client.get(here), 404, "webhook-not-found")
    assert send(context, 200) == 0
