"""What only shows on a real socket: bodies that are not read, break off, or are lied about."""

import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2 as httpx
import pytest

from service.settings import Settings
from tests.support.live import served
from tests.support.waiting import eventually


@pytest.fixture
def small(settings: Settings) -> Settings:
    return settings.model_copy(update={"max_encoder_bytes": 3 * 2**20})


@pytest.fixture
def url(small: Settings) -> Iterator[str]:
    with served(small) as url:
        yield url


def send(url: str, *lines: str, body: bytes = b"", end: bool = False) -> bytes:
    """Sends a request as written, and returns what comes back until the server or we hang up."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
        connection.sendall("\r\n".join([*lines, "Host: x", "Connection: close", "", ""]).encode() + body)
        if end:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        while block := connection.recv(2**16):
            answer += block
        return answer


def stored(settings: Settings) -> list[Path]:
    return [path for path in settings.artifact_root.rglob("*") if path.is_file()]


def test_upload_that_announces_too_much_is_refused_before_it_is_sent(url: str, token: str) -> None:
    answer = send(url, "PUT /v1/encoders HTTP/1.1", f"Authorization: Bearer {token}", f"Content-Length: {2**40}")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"upload-too-large" in answer


def test_upload_of_a_stranger_is_refused_before_it_is_sent(url: str) -> None:
    answer = send(url, "PUT /v1/encoders HTTP/1.1", "Content-Length: 1000000")
    assert answer.startswith(b"HTTP/1.1 401 ")


def test_request_of_a_stranger_is_refused_before_its_json_is_sent(url: str) -> None:
    answer = send(url, "POST /v1/audits HTTP/1.1", "Content-Type: application/json", "Content-Length: 1000000000")
    assert answer.startswith(b"HTTP/1.1 401 ")


def test_upload_that_breaks_off_leaves_nothing(url: str, small: Settings, token: str) -> None:
    head = ("PUT /v1/encoders HTTP/1.1", f"Authorization: Bearer {token}", "Content-Length: 1000000")
    send(url, *head, body=b"x" * 1000, end=True)
    eventually(lambda: stored(small) == [])
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}) as client:
        assert client.get("/v1/encoders").json()["items"] == []


def test_more_bytes_than_announced_are_not_part_of_the_upload(url: str, token: str) -> None:
    head = ("PUT /v1/encoders HTTP/1.1", f"Authorization: Bearer {token}", "Content-Length: 3")
    answer = send(url, *head, body=b"abcdefgh")
    assert answer.startswith(b"HTTP/1.1 201 ")
    assert b'"num_bytes":3' in answer


@pytest.mark.parametrize("length", ["-1", "abc", "1, 2", "9" * 100])
def test_length_that_is_no_number_is_refused(url: str, token: str, length: str) -> None:
    answer = send(url, "PUT /v1/encoders HTTP/1.1", f"Authorization: Bearer {token}", f"Content-Length: {length}")
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 413 "))


def blocks(count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield b"x" * 2**18


def test_upload_without_announced_length_stops_at_the_limit(url: str, small: Settings, token: str) -> None:
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=20) as client:
        assert client.put("/v1/encoders", content=blocks(12)).status_code == 201
        response = client.put("/v1/encoders", content=blocks(13), params={"name": "too large"})
        assert (response.status_code, response.json()["code"]) == (413, "upload-too-large")
    assert len(stored(small)) == 1
