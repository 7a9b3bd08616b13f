"""``Idempotency-Key`` on every creating request: the same again makes nothing, whatever it makes."""

import threading
from collections.abc import Callable
from typing import Any

import httpx2 as httpx
import psycopg
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select, update

from models.operations import IdempotencyKey
from service import idempotency
from service.context import Context
from service.jobs import seconds
from tests.support import materials, rows
from tests.support.problems import problem
from tests.support.waiting import eventually

KEY = {"Idempotency-Key": '"8e03978e"'}
Send = Callable[[dict[str, str], str], httpx.Response]
CREATING = ("put encoder", "post encoder", "put dataset", "post dataset", "roles", "audit", "webhook", "ping")


@pytest.fixture
def sends(client: TestClient, context: Context) -> dict[str, Send]:
    """Each creating request, with headers and a word that makes it another one."""
    stored = rows.store(context, b"file")
    paths = rows.sample_paths(4)
    with context.sessions.begin() as session:
        target, reference = (rows.add_encoder(session, name) for name in ("target", "reference"))
        dataset = rows.add_dataset(session, paths)
        role_set = rows.add_roles(session, dataset, paths)
    hook = client.post("/v1/webhooks", json={"url": "https://1.1.1.1/"}).json()["id"]
    audit = {
        "target_ids": [str(target.id)],
        "reference_ids": [str(reference.id)],
        "dataset_id": str(dataset.id),
        "role_set_id": str(role_set.id),
    }
    table = materials.roles_csv(dict.fromkeys(paths, "shared"))
    return {
        "put encoder": lambda h, w: client.put("/v1/encoders", content=w.encode(), headers=h),
        "post encoder": lambda h, w: client.post(
            "/v1/encoders", json={"name": w, "artifact_digest": stored}, headers=h
        ),
        "put dataset": lambda h, w: client.put("/v1/datasets", params={"name": w}, content=b"zip", headers=h),
        "post dataset": lambda h, w: client.post(
            "/v1/datasets", json={"name": w, "artifact_digest": stored}, headers=h
        ),
        "roles": lambda h, w: client.put(
            f"/v1/datasets/{dataset.id}/roles", params={"name": w}, content=table, headers=h
        ),
        "audit": lambda h, w: client.post("/v1/audits", json={**audit, "name": w, "force": True}, headers=h),
        "webhook": lambda h, w: client.post("/v1/webhooks", json={"url": f"https://1.1.1.1/{w}"}, headers=h),
        "ping": lambda h, w: client.post(
            f"/v1/webhooks/{hook}/test", headers=h | ({"Idempotency-Key": w} if w == "other" else {})
        ),
    }


def num_keys(context: Context) -> int:
    with context.sessions.begin() as session:
        return session.scalar(select(func.count()).select_from(IdempotencyKey)) or 0


@pytest.mark.parametrize("what", CREATING)
def test_same_request_with_its_key_gives_what_the_first_made(
    sends: dict[str, Send], context: Context, what: str
) -> None:
    first, second = (sends[what](KEY, "word") for _ in range(2))
    assert first.status_code in (201, 202), first.text
    assert second.status_code == 200
    assert second.json()["id"] == first.json()["id"]
    assert second.headers.get("Location") == first.headers.get("Location")
    assert num_keys(context) == 1


@pytest.mark.parametrize("what", [what for what in CREATING if what != "ping"])  # which has no fields
def test_key_with_another_request_is_refused_and_makes_nothing(
    sends: dict[str, Send], context: Context, what: str
) -> None:
    first = sends[what](KEY, "word")
    problem(sends[what](KEY, "other"), 422, "idempotency-key-reused")
    assert sends[what](KEY, "word").json()["id"] == first.json()["id"]
    assert num_keys(context) == 1


def test_key_of_one_kind_of_request_is_refused_for_another(sends: dict[str, Send]) -> None:
    sends["post encoder"](KEY, "word")
    problem(sends["post dataset"](KEY, "word"), 422, "idempotency-key-reused")


def test_key_is_the_same_in_quotes_and_without(sends: dict[str, Send]) -> None:
    first = sends["audit"]({"Idempotency-Key": '"abc"'}, "word").json()["id"]
    assert sends["audit"]({"Idempotency-Key": "abc"}, "word").json()["id"] == first


def test_other_keys_make_others(sends: dict[str, Send]) -> None:
    ids = {sends["audit"]({"Idempotency-Key": key}, "word").json()["id"] for key in "abb"}
    assert len(ids) == 2


def test_key_of_a_request_that_failed_may_be_used_again(client: TestClient, context: Context) -> None:
    body = {"name": "x", "artifact_digest": rows.digest_of("late")}
    problem(client.post("/v1/encoders", json=body, headers=KEY), 404, "artifact-not-found")
    rows.store(context, b"late")
    assert client.post("/v1/encoders", json=body, headers=KEY).status_code == 201


def test_what_was_deleted_is_not_made_again(sends: dict[str, Send], client: TestClient) -> None:
    made = sends["put encoder"](KEY, "word").json()
    client.delete(made["links"]["self"])
    problem(sends["put encoder"](KEY, "word"), 410, "idempotency-key-spent")
    assert sends["put encoder"]({"Idempotency-Key": "another"}, "word").status_code == 201


def test_two_requests_at_once_with_one_key_make_one(
    sends: dict[str, Send], context: Context, database_url: str
) -> None:
    """Both stand before the key's lock when it is released; the second finds what the first made."""
    responses: list[httpx.Response] = []
    threads = [threading.Thread(target=lambda: responses.append(sends["audit"](KEY, "word"))) for _ in range(2)]
    with psycopg.connect(database_url, autocommit=True) as observer:
        observer.execute("SELECT pg_advisory_lock(hashtextextended('test 8e03978e', 0))")
        for thread in threads:
            thread.start()
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        eventually(lambda: observer.execute(waiting).fetchone() == (2,))
        observer.execute("SELECT pg_advisory_unlock_all()")
        for thread in threads:
            thread.join()
    assert sorted(response.status_code for response in responses) == [200, 202]
    assert len({response.json()["id"] for response in responses}) == 1
    assert num_keys(context) == 1


def test_key_of_another_project_is_another_key(sends: dict[str, Send], context: Context) -> None:
    made = rows.request_audit(context)
    with context.sessions.begin() as session:
        other = IdempotencyKey(project="other", key="8e03978e", request_digest="", resource_id=made.id)
        session.add(other)
    assert sends["audit"](KEY, "word").status_code == 202


def test_keys_are_kept_for_a_week(sends: dict[str, Send], context: Context) -> None:
    def age(days: float) -> int:
        with context.sessions.begin() as session:
            older = {"created_at": IdempotencyKey.created_at - seconds(days * 24 * 3600)}
            session.execute(update(IdempotencyKey).values(older))
            idempotency.forget(session)
        return num_keys(context)

    sends["audit"](KEY, "word")
    assert [age(6.9), age(0.2)] == [1, 0]
    assert sends["audit"](KEY, "word").status_code == 202


@pytest.mark.parametrize("key", ["", "x" * 201])
def test_key_that_is_none_is_refused(sends: dict[str, Send], key: str) -> None:
    response: Any = sends["audit"]({"Idempotency-Key": key}, "word")
    problem(response, 422, "request-invalid")
