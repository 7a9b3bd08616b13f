"""Long polls answer on a change, and when the time is up."""

import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event, update

from models.audit import Audit, Chunk
from models.encoder import Encoder
from service import lifecycle
from service.context import Context
from tests.support import rows
from tests.support.problems import problem
from tests.support.waiting import eventually

LONG = 30


def get(client: TestClient, path: str, wait: float) -> tuple[dict[str, Any], float]:
    """The answer, and how long it took."""
    started = time.monotonic()
    response = client.get(path, params={"wait": wait})
    assert response.status_code == 200
    return response.json(), time.monotonic() - started


@pytest.fixture
def looks(client: TestClient) -> list[str]:
    """What the application asks the database for."""
    seen: list[str] = []
    engine = client.app.state.context.engine  # type: ignore[attr-defined]
    event.listen(engine, "before_cursor_execute", lambda *arguments: seen.append(arguments[2]))
    return seen


def while_waiting(client: TestClient, path: str, looks: list[str], change: Callable[[], object]) -> dict[str, Any]:
    """Changes something after a long poll has looked at least once, and returns the poll's answer."""
    answers: list[tuple[dict[str, Any], float]] = []
    thread = threading.Thread(target=lambda: answers.append(get(client, path, LONG)))
    thread.start()
    table = path.split("/")[2]
    eventually(lambda: sum(f"FROM {table}" in statement for statement in looks) >= 2)
    change()
    thread.join()
    ((answer, seconds),) = answers
    assert seconds < LONG / 2
    return answer


def test_audit_whose_state_changes_is_answered(client: TestClient, context: Context, looks: list[str]) -> None:
    audit = rows.request_audit(context)

    def cancel() -> None:
        with context.sessions.begin() as session:
            lifecycle.cancel(session, audit.id)

    assert while_waiting(client, f"/v1/audits/{audit.id}", looks, cancel)["state"] == "cancelled"


def test_audit_that_makes_progress_is_answered(client: TestClient, context: Context, looks: list[str]) -> None:
    audit = rows.request_audit(context)
    first = rows.chunks_of(context, audit.id)[0]
    rows.claim(context, first.id)

    def progress() -> None:
        with context.sessions.begin() as session:
            session.execute(update(Chunk).where(Chunk.id == first.id).values(num_done=7))

    answer = while_waiting(client, f"/v1/audits/{audit.id}", looks, progress)
    assert answer["progress"]["samples_done"] == 7


def test_encoder_that_was_checked_is_answered(client: TestClient, context: Context, looks: list[str]) -> None:
    with context.sessions.begin() as session:
        encoder = rows.add_encoder(session, state="received")

    def accept() -> None:
        with context.sessions.begin() as session:
            rows.without_rules(session)
            session.execute(update(Encoder).values(state="ready"))

    assert while_waiting(client, f"/v1/encoders/{encoder.id}", looks, accept)["state"] == "ready"


def test_audit_that_is_deleted_meanwhile_is_not_found(client: TestClient, context: Context, looks: list[str]) -> None:
    audit = rows.request_audit(context)
    responses: list[Any] = []
    path = f"/v1/audits/{audit.id}"
    thread = threading.Thread(target=lambda: responses.append(client.get(path, params={"wait": LONG})))
    thread.start()
    eventually(lambda: sum("FROM audits" in statement for statement in looks) >= 2)
    with context.sessions.begin() as session:
        session.delete(session.get_one(Audit, audit.id))
    thread.join()
    problem(responses[0], 404, "audit-not-found")


def test_audit_that_does_not_change_is_answered_when_the_time_is_up(client: TestClient, context: Context) -> None:
    """Also when it runs, although the time left is another one at every look."""
    audit = rows.request_audit(context)
    rows.record(context, rows.claim(context, rows.chunks_of(context, audit.id)[0].id))
    answer, seconds = get(client, f"/v1/audits/{audit.id}", 0.8)
    assert answer["progress"]["seconds_left"] is not None
    assert 0.8 <= seconds < LONG / 2


def test_nothing_is_waited_for_once_it_has_ended(client: TestClient, context: Context) -> None:
    audit = rows.succeeded_audit(context)
    with context.sessions.begin() as session:
        refused = rows.add_encoder(session, "refused", state="refused", failure_code="odd", failure_detail="Odd.")
    for path in (f"/v1/audits/{audit.id}", f"/v1/encoders/{refused.id}", f"/v1/datasets/{audit.dataset_id}"):
        assert get(client, path, LONG)[1] < LONG / 2


def test_nothing_is_waited_for_unless_asked(client: TestClient, context: Context) -> None:
    audit = rows.request_audit(context)
    started = time.monotonic()
    assert client.get(f"/v1/audits/{audit.id}").json()["state"] == "queued"
    assert time.monotonic() - started < LONG / 2


@pytest.mark.parametrize("wait", ["-1", "61", "nan", "inf", "x"])
def test_time_to_wait_has_bounds(client: TestClient, wait: str) -> None:
    problem(client.get(f"/v1/audits/{uuid.uuid4()}", params={"wait": wait}), 422, "request-invalid")


def test_polls_hold_no_connection_while_they_wait(client: TestClient, context: Context, looks: list[str]) -> None:
    """Many more than there are connections wait at once, and other requests are answered meanwhile."""
    audit = rows.request_audit(context)
    path = f"/v1/audits/{audit.id}"
    answers: list[dict[str, Any]] = []
    threads = [threading.Thread(target=lambda: answers.append(get(client, path, LONG)[0])) for _ in range(50)]
    for thread in threads:
        thread.start()
    eventually(lambda: sum("FROM audits" in statement for statement in looks) >= len(threads))
    assert client.get("/v1/limits").status_code == 200
    client.post(f"{path}/cancel")
    for thread in threads:
        thread.join()
    assert {answer["state"] for answer in answers} == {"cancelled"}
    assert len(answers) == len(threads)


def test_polls_are_answered_at_once_when_the_server_stops(
    client: TestClient, context: Context, looks: list[str]
) -> None:
    audit = rows.request_audit(context)
    stopping: threading.Event = client.app.state.stopping  # type: ignore[attr-defined]
    answer = while_waiting(client, f"/v1/audits/{audit.id}", looks, stopping.set)
    assert answer["state"] == "queued"
