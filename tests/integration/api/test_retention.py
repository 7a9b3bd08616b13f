"""Keeping and deleting over HTTP, and what is said of what is stored."""

import uuid

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from models.encoder import Encoder
from service.context import Context
from tests.support import rows
from tests.support.problems import problem


def test_scores_are_deleted_and_what_follows_from_them_is_gone(client: TestClient, context: Context) -> None:
    audit = rows.succeeded_audit(context)
    here = f"/v1/audits/{audit.id}"
    assert client.get(here).json()["scores_deleted_at"] is None
    assert client.delete(f"{here}/scores").status_code == 204
    for what in ("scores", "scores.csv", "scores.parquet", "evidence", "report"):
        detail = problem(client.get(f"{here}/{what}"), 410, "scores-deleted")["detail"]
        assert "its summary is still there" in detail
    assert client.get(f"{here}/summary").json()["num_samples"] == 40
    assert client.get(here).json()["scores_deleted_at"] is not None
    assert client.delete(f"{here}/scores").status_code == 204
    assert client.delete(here).status_code == 204
    problem(client.delete(f"{here}/scores"), 404, "audit-not-found")


def test_audit_that_is_kept_is_not_deleted_until_it_is_released(client: TestClient, context: Context) -> None:
    here = f"/v1/audits/{rows.succeeded_audit(context).id}"
    kept_at = client.post(f"{here}/keep").json()["kept_at"]
    assert kept_at is not None
    assert client.post(f"{here}/keep").json()["kept_at"] == kept_at
    for path in (here, f"{here}/scores"):
        assert "release it first" in problem(client.delete(path), 409, "audit-kept")["detail"]
    assert client.delete(f"{here}/keep").json()["kept_at"] is None
    assert client.delete(here).status_code == 204
    problem(client.post(f"{here}/keep"), 404, "audit-not-found")


def test_what_an_audit_uses_is_counted_and_not_deleted(client: TestClient, context: Context) -> None:
    audit = rows.succeeded_audit(context)
    dataset = f"/v1/datasets/{audit.dataset_id}"
    with context.sessions.begin() as session:
        encoder = f"/v1/encoders/{session.scalars(select(Encoder.id)).first()}"
    role_set = f"{dataset}/roles/{audit.role_set_id}"
    for path, listing in ((dataset, "/v1/datasets"), (encoder, "/v1/encoders"), (role_set, f"{dataset}/roles")):
        assert client.get(path).json()["num_audits"] == 1
        assert {item["num_audits"] for item in client.get(listing).json()["items"]} == {1}
        assert problem(client.delete(path), 409, "in-use")["audits"] == [str(audit.id)]
    assert client.delete(f"/v1/audits/{audit.id}").status_code == 204
    for path in (role_set, dataset, encoder):
        assert client.get(path).json()["num_audits"] == 0
        assert client.delete(path).status_code == 204
        assert client.get(path).status_code == 404


def test_files_are_listed_in_pages(client: TestClient, context: Context) -> None:
    digests = sorted(rows.store(context, f"{n}".encode()) for n in range(5))
    found, cursor = [], None
    while True:
        page = client.get("/v1/artifacts", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        found += [item["digest"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert found == digests


@pytest.mark.parametrize("cursor", ["x", "WyJhIl0", ""])
def test_cursor_of_something_else_is_refused(client: TestClient, cursor: str) -> None:
    response = client.get("/v1/artifacts", params={"cursor": cursor})
    if cursor:
        problem(response, 400, "invalid-request")
    else:
        assert response.json() == {"items": [], "next_cursor": None}


def test_storage_and_retention_are_shown(client: TestClient, context: Context) -> None:
    digest = rows.store(context, b"left over")
    storage = client.get("/v1/storage").json()
    assert {"kind": "unnamed", "num_files": 1, "num_bytes": 9} in storage["files"]
    assert storage["free_bytes"] > 0
    retention = client.get("/v1/retention").json()
    assert retention["keep_scores_days"] is None
    assert retention["keep_unnamed_files_days"] == 1
    assert [(item["kind"], item["id"]) for item in retention["items"]] == [("file", digest)]


def test_table_of_roles_that_is_not_there_is_named(client: TestClient, context: Context) -> None:
    audit = rows.succeeded_audit(context)
    for path in (
        f"/v1/datasets/{audit.dataset_id}/roles/{uuid.uuid4()}",
        f"/v1/datasets/{uuid.uuid4()}/roles/{audit.role_set_id}",
    ):
        for method in ("GET", "DELETE"):
            problem(client.request(method, path), 404, "role-set-not-found")
