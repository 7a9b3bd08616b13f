"""Errors are problem details with stable codes."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from api.main import create_app
from service.context import Context
from service.embedded.process import free_port
from service.settings import Settings
from tests.support import rows
from tests.support.problems import problem


def test_unknown_route_is_not_found(client: TestClient) -> None:
    problem(client.get("/v2/nothing"), 404, "not-found")


def test_method_that_a_route_does_not_have_names_those_it_has(client: TestClient) -> None:
    response = client.patch("/v1/audits")
    problem(response, 405, "method-not-allowed")
    assert set(response.headers["Allow"].split(", ")) <= {"GET", "POST"}


def test_invalid_parameters_are_all_named(client: TestClient) -> None:
    body = problem(client.get("/v1/encoders", params={"limit": 0, "cursor": "x" * 501}), 422, "request-invalid")
    assert [error["where"] for error in body["errors"]] == ["query.limit", "query.cursor"]
    assert "query.limit: " in body["detail"]


def test_id_that_is_none_is_invalid(client: TestClient) -> None:
    problem(client.get("/v1/audits/not-a-uuid"), 422, "request-invalid")


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[]", b'"text"', b"null", b"[" * 100_000])
def test_body_that_is_no_json_object_is_a_clients_mistake(client: TestClient, body: bytes) -> None:
    response = client.post("/v1/encoders", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code in (400, 422)
    problem(response, response.status_code, response.json()["code"])


def test_unknown_field_is_named(client: TestClient) -> None:
    body = {"name": "a", "artifact_digest": rows.digest_of("a"), "surprise": 1}
    found = problem(client.post("/v1/datasets", json=body), 422, "request-invalid")
    assert found["errors"][0]["where"] == "body.surprise"


def test_unexpected_error_tells_no_secrets(settings: Settings, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr("api.routes.operations.list_workers", fail)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        response = client.get("/v1/workers", headers={"Authorization": f"Bearer {token}"})
    problem(response, 500, "internal-error")
    assert "secret" not in response.text


@pytest.fixture
def stranded(context: Context) -> Iterator[TestClient]:
    """The application, when its servers are away."""
    nowhere = f"127.0.0.1:{free_port()}"
    settings = rows.with_settings(
        context,
        database_url=SecretStr(f"postgresql://sslmem:x@{nowhere}/sslmem"),
        broker_url=SecretStr(f"redis://:x@{nowhere}/0"),
    )
    with TestClient(create_app(settings), headers={"Authorization": "Bearer sslmem_x"}) as client:
        yield client


def test_database_that_is_away_is_a_passing_trouble(stranded: TestClient) -> None:
    response = stranded.get("/v1/encoders")
    problem(response, 503, "database-unavailable")
    assert response.headers["Retry-After"] == "5"


def test_health_tells_what_is_away(stranded: TestClient) -> None:
    response = stranded.get("/v1/health")
    assert response.status_code == 503
    assert response.json() | {"version": ""} == {
        "status": "degraded",
        "database": False,
        "broker": False,
        "sweeper": False,
        "version": "",
    }
