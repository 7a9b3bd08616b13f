"""Problem details (RFC 9457) as tests look at them."""

from typing import Any

import httpx2 as httpx


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Checks that a response is a complete problem of this kind, and returns it."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert (body["status"], body["code"], body["type"]) == (status, code, f"urn:sslmem:problem:{code}")
    assert body["instance"] == response.request.url.path
    assert body["title"]
    assert body["detail"]
    return body
