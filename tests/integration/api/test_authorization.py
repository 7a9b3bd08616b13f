"""Who may ask."""

import re

import pytest
from fastapi.testclient import TestClient

from tests.support.problems import problem


def routes(client: TestClient) -> list[tuple[str, str]]:
    """Every documented operation, with some id in its path."""
    paths = client.get("/openapi.json").json()["paths"]
    some_id = "00000000-0000-0000-0000-000000000000"
    return [(method.upper(), re.sub(r"{\w+}", some_id, path)) for path, item in paths.items() for method in item]


def test_every_request_but_health_needs_a_token(anonymous: TestClient) -> None:
    found = routes(anonymous)
    assert len(found) > 20
    for method, path in found:
        response = anonymous.request(method, path)
        if path == "/v1/health":
            assert response.status_code == 200
            continue
        assert response.status_code == 401, path
        assert response.headers["WWW-Authenticate"] == "Bearer"
        if method != "HEAD":
            problem(response, 401, "unauthorized")


def test_documentation_needs_no_token(anonymous: TestClient) -> None:
    assert anonymous.get("/openapi.json").status_code == 200
    assert "swagger" in anonymous.get("/docs").text


@pytest.mark.parametrize("header", ["sslmem_guess", "Bearer sslmem_guess", "Basic c3NsbWVtOg==", "Bearer \xfc"])
def test_unknown_token_is_refused(client: TestClient, header: str) -> None:
    response = client.get("/v1/encoders", headers={b"Authorization": header.encode("latin-1")})
    problem(response, 401, "unauthorized")


def test_scheme_is_matched_in_any_case(client: TestClient, token: str) -> None:
    assert client.get("/v1/encoders", headers={"Authorization": f"bEARER {token}"}).status_code == 200


def test_stranger_learns_nothing_about_the_body(anonymous: TestClient) -> None:
    """The token is checked before anything of the request is read."""
    problem(
        anonymous.post("/v1/audits", content=b"{", headers={"Content-Type": "application/json"}), 401, "unauthorized"
    )
    problem(anonymous.post("/v1/audits", json={"unknown": 1}), 401, "unauthorized")
    problem(anonymous.get("/v1/audits/not-a-uuid"), 401, "unauthorized")
