"""Events: complete, in order, once, across reconnections; streams that end when they should."""

import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from api.polling import INTERVAL_SECONDS
from api.routes import events
from models.event import AuditEvent
from service import lifecycle
from service.context import Context
from service.embedded.process import free_port
from service.events import News
from service.settings import Settings
from sslmem.client.http import Client
from tests.support import rows
from tests.support.live import served
from tests.support.problems import problem
from tests.support.waiting import eventually

WHOLE = ["audit.queued", "audit.running", *["chunk.done"] * 3, "audit.finalising", "audit.succeeded"]


def logged(context: Context, audit_id: uuid.UUID) -> list[AuditEvent]:
    with context.sessions.begin() as session:
        query = select(AuditEvent).where(AuditEvent.audit_id == audit_id).order_by(AuditEvent.number)
        return list(session.scalars(query))


def stream(client: TestClient, audit_id: uuid.UUID, **headers: str) -> list[str]:
    response = client.get(f"/v1/audits/{audit_id}/events", headers=headers)
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"].startswith("text/event-stream")
    return [line.removeprefix("id: ") for line in response.text.splitlines() if line.startswith("id: ")]


def test_log_tells_every_move_in_order(context: Context) -> None:
    audit = rows.succeeded_audit(context)
    found = logged(context, audit.id)
    assert [event.type for event in found] == WHOLE
    assert [event.number for event in found] == list(range(1, len(WHOLE) + 1))
    assert [e.data["samples_done"] for e in found if e.type == "chunk.done"] == [16, 32, 40]


def test_failure_and_another_try_are_told_with_their_reason(context: Context) -> None:
    audit = rows.request_audit(context)
    rows.fail_first_chunk(context, audit.id)
    with context.sessions.begin() as session:
        lifecycle.retry(session, context.queue, audit.id)
    found = logged(context, audit.id)
    assert [e.type for e in found][-3:] == ["chunk.failed", "audit.failed", "audit.queued"]
    assert found[-2].data["failure"] == {"code": "odd", "detail": "Something odd."}


def test_move_that_is_rolled_back_is_not_told_and_leaves_no_gap(context: Context) -> None:
    audit = rows.request_audit(context)
    with context.sessions() as session:
        lifecycle.pause(session, audit.id)
        session.rollback()
    with context.sessions.begin() as session:
        lifecycle.cancel(session, audit.id)
    assert [(e.number, e.type) for e in logged(context, audit.id)] == [(1, "audit.queued"), (2, "audit.cancelled")]


def test_stream_of_an_ended_audit_is_its_log_and_ends(client: TestClient, context: Context) -> None:
    audit = rows.succeeded_audit(context)
    assert stream(client, audit.id) == [str(n) for n in range(1, len(WHOLE) + 1)]
    assert stream(client, audit.id, **{"Last-Event-ID": "4"}) == ["5", "6", "7"]


def test_client_that_has_everything_is_told_not_to_come_back(client: TestClient, context: Context) -> None:
    audit = rows.succeeded_audit(context)
    last = {"Last-Event-ID": str(len(WHOLE))}
    assert client.get(f"/v1/audits/{audit.id}/events", headers=last).status_code == 204


def test_number_that_no_event_has_is_refused(client: TestClient, context: Context) -> None:
    audit = rows.succeeded_audit(context)
    path = f"/v1/audits/{audit.id}/events"
    assert "up to 7; found 8" in problem(client.get(path, params={"after": 8}), 400, "invalid-request")["detail"]
    problem(client.get(path, headers={"Last-Event-ID": "x"}), 422, "request-invalid")


def test_events_of_no_audit_are_not_found(client: TestClient) -> None:
    for page in ("events", "log"):
        problem(client.get(f"/v1/audits/{uuid.uuid4()}/{page}"), 404, "audit-not-found")


def test_log_comes_in_pages(client: TestClient, context: Context) -> None:
    path, types, cursor = f"/v1/audits/{rows.succeeded_audit(context).id}/log", [], None
    while True:
        page = client.get(path, params={"limit": 3} | ({"cursor": cursor} if cursor else {})).json()
        types += [item["type"] for item in page["items"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert types == WHOLE


def test_client_misses_nothing_and_gets_nothing_twice_across_a_restart(
    settings: Settings, context: Context, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sslmem.client.http.PAUSE_SECONDS", 0.05)
    audit, port = rows.request_audit(context), free_port()
    chunks = rows.chunks_of(context, audit.id)
    found: list[tuple[int, str]] = []

    def follow() -> None:
        with Client(f"http://127.0.0.1:{port}", token) as client:
            found.extend(_numbered(client.events(str(audit.id)), seen))

    seen: list[int] = []
    thread = threading.Thread(target=follow)
    with served(settings, port):
        thread.start()
        rows.record(context, rows.claim(context, chunks[0].id))
        eventually(lambda: 3 in seen)
    rows.record(context, rows.claim(context, chunks[1].id))  # while nobody serves
    with served(settings, port):
        rows.record(context, rows.claim(context, chunks[2].id))
        rows.finalise(context, audit.id)
        thread.join(30)
    assert found == list(enumerate(WHOLE, start=1))


def _numbered(events: Iterator[dict[str, Any]], seen: list[int]) -> Iterator[tuple[int, str]]:
    for event in events:
        if event["type"] != "progress":
            seen.append(event["number"])
            yield event["number"], event["type"]


def test_server_ends_although_streams_are_open(settings: Settings, context: Context, token: str) -> None:
    """And quickly: the stream ends by itself, it is not cut off when the time for that is up."""
    audit = rows.request_audit(context)
    ended: list[str] = []
    with httpx.Client(headers={"Authorization": f"Bearer {token}"}) as client, served(settings) as url:
        opened = threading.Event()

        def read() -> None:
            with client.stream("GET", f"{url}/v1/audits/{audit.id}/events") as response:
                for line in response.iter_lines():
                    opened.set()
                    ended.append(line)
            ended.append("ended in order")

        thread = threading.Thread(target=read)
        thread.start()
        opened.wait(20)
    thread.join(20)
    assert ended[-1] == "ended in order"


def test_stream_stops_looking_when_its_client_has_gone(
    settings: Settings, context: Context, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = rows.request_audit(context)
    looks: list[int] = []
    look = events._look

    def counted(of: Context, audit_id: uuid.UUID, after: int) -> News:
        looks.append(after)
        return look(of, audit_id, after)

    def idle() -> bool:
        before = len(looks)
        time.sleep(4 * INTERVAL_SECONDS)
        return len(looks) == before

    monkeypatch.setattr(events, "_look", counted)
    with served(settings) as url:
        with (
            httpx.Client(headers={"Authorization": f"Bearer {token}"}) as client,
            client.stream("GET", f"{url}/v1/audits/{audit.id}/events") as response,
        ):
            lines = response.iter_lines()  # the stream ends with its iterator
            next(lines)
            eventually(lambda: len(looks) > 3)
        eventually(idle)
