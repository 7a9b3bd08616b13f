"""The HTTP client, against a small server in this process that records what it is asked."""

import base64
import hashlib
import json
import os
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sslmem.client.http import Client, zip_folder
from sslmem.errors import RequestRefused, ServiceUnreachable, UnreadableDataset

READY = {"id": "1", "name": "x", "state": "ready", "links": {"self": "/v1/encoders/1"}}

HANGS_UP = 0  # a status: the request arrived, and the answer is lost
LIMITS = {"encoder_bytes": 10_000_000, "dataset_bytes": 10_000_000}


@dataclass
class Server:
    """Answers in the order given, per method and path; records the requests."""

    answers: dict[tuple[str, str], list[tuple[int, bytes]]] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""

    def will(self, method: str, path: str, status: int, content: object) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.answers.setdefault((method, path), []).append((status, data))


@pytest.fixture
def server() -> Iterator[Server]:
    recorded = Server()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            recorded.requests.append((self.command, self.path, dict(self.headers), body))
            status, data = recorded.answers[self.command, self.path.split("?")[0]].pop(0)
            if status == HANGS_UP:
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        recorded.url = f"http://127.0.0.1:{http.server_port}"
        yield recorded
        http.shutdown()
        thread.join()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url + "/", "secret") as client:
        yield client


def test_token_is_sent(server: Server, client: Client) -> None:
    server.will("GET", "/v1/x", 200, {"a": 1})
    assert client.get("/v1/x", page=2) == {"a": 1}
    method, path, headers, _ = server.requests[0]
    assert (method, path) == ("GET", "/v1/x?page=2")
    assert headers["Authorization"] == "Bearer secret"


def test_refusal_of_the_service_is_shown_with_its_code(server: Server, client: Client) -> None:
    server.will("GET", "/v1/x", 409, {"detail": "an audit uses it", "code": "encoder-in-use"})
    with pytest.raises(RequestRefused, match=r"^an audit uses it \[encoder-in-use, HTTP 409\]$"):
        client.get("/v1/x")


@pytest.mark.parametrize("content", [b"<html>Bad gateway</html>", b"[]", b"{}", b""])
def test_refusal_of_something_else_is_shown_by_its_status(server: Server, client: Client, content: bytes) -> None:
    server.will("GET", "/v1/x", 502, content)
    with pytest.raises(RequestRefused, match="the service answered HTTP 502 to GET /v1/x"):
        client.get("/v1/x")


def test_service_that_does_not_answer_is_unreachable() -> None:
    with Client("http://127.0.0.1:1", "t") as client, pytest.raises(ServiceUnreachable, match="make run"):
        client.get("/v1/x")


def test_checkpoint_is_uploaded_with_its_digest_and_settings(server: Server, client: Client, tmp_path: Path) -> None:
    content = os.urandom(3 * 2**20)
    (tmp_path / "encoder.pt").write_bytes(content)
    digest = hashlib.sha256(content)
    server.will("GET", "/v1/limits", 200, LIMITS)
    server.will("HEAD", f"/v1/artifacts/sha256:{digest.hexdigest()}", 404, b"")
    server.will("PUT", "/v1/encoders", 202, {**READY, "state": "checking"})
    server.will("GET", "/v1/encoders/1", 200, READY)
    sent: list[int] = []
    resource = client.push_encoder(
        tmp_path / "encoder.pt", input_size=32, mean=(0.5, 0.5, 0.25), std=None, advance=sent.append
    )
    assert resource == READY
    assert sum(sent) == len(content)
    _, path, headers, body = server.requests[2]
    assert path == "/v1/encoders?name=encoder&input_size=32&mean=0.5%2C0.5%2C0.25"
    assert headers["Content-Digest"] == f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
    assert body == content


def test_file_that_the_service_holds_is_not_sent_again(server: Server, client: Client, tmp_path: Path) -> None:
    (tmp_path / "encoder.pt").write_bytes(b"weights")
    digest = f"sha256:{hashlib.sha256(b'weights').hexdigest()}"
    server.will("GET", "/v1/limits", 200, LIMITS)
    server.will("HEAD", f"/v1/artifacts/{digest}", 200, b"")
    server.will("POST", "/v1/encoders", 201, READY)
    client.push_encoder(tmp_path / "encoder.pt", name="mine", architecture="resnet18")
    assert json.loads(server.requests[2][3]) == {
        "name": "mine",
        "architecture": "resnet18",
        "artifact_digest": digest,
    }


def test_checkpoint_that_is_refused_is_an_error_with_the_reason(server: Server, client: Client, tmp_path: Path) -> None:
    (tmp_path / "encoder.pt").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    refused = {**READY, "state": "refused", "failure": {"code": "checkpoint-unreadable", "detail": "it is damaged"}}
    server.will("GET", "/v1/limits", 200, LIMITS)
    server.will("HEAD", f"/v1/artifacts/sha256:{digest}", 200, b"")
    server.will("POST", "/v1/encoders", 201, refused)
    with pytest.raises(RequestRefused, match=r"x was refused: it is damaged \[checkpoint-unreadable\]"):
        client.push_encoder(tmp_path / "encoder.pt")


def test_file_larger_than_the_service_takes_is_not_sent(server: Server, client: Client, tmp_path: Path) -> None:
    (tmp_path / "encoder.pt").write_bytes(bytes(11))
    server.will("GET", "/v1/limits", 200, {**LIMITS, "encoder_bytes": 10})
    with pytest.raises(RequestRefused, match=r"encoder\.pt has 11 bytes; the service takes at most 10 bytes"):
        client.push_encoder(tmp_path / "encoder.pt")
    assert len(server.requests) == 1


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sslmem.client.http.PAUSE_SECONDS", 0.01)


@pytest.mark.usefixtures("patient")
def test_request_whose_answer_was_lost_is_sent_again_with_its_key(server: Server, client: Client) -> None:
    for status in (HANGS_UP, 503, HANGS_UP, 202):
        server.will("POST", "/v1/audits", status, {"id": "7", "detail": "away", "code": "x"})
    server.will("POST", "/v1/audits", 202, {"id": "8"})
    assert client.request_audit(name="a") == {"id": "7", "detail": "away", "code": "x"}
    assert client.request_audit(name="a") == {"id": "8"}
    keys = [headers["Idempotency-Key"] for _, _, headers, _ in server.requests]
    assert len(set(keys[:4])) == 1
    assert keys[4] != keys[0]
    assert len({body for *_, body in server.requests}) == 1


@pytest.mark.usefixtures("patient")
def test_upload_whose_answer_was_lost_is_sent_again_whole(server: Server, client: Client, tmp_path: Path) -> None:
    content = os.urandom(2 * 2**20)
    (tmp_path / "encoder.pt").write_bytes(content)
    server.will("GET", "/v1/limits", 200, LIMITS)
    server.will("HEAD", f"/v1/artifacts/sha256:{hashlib.sha256(content).hexdigest()}", 404, b"")
    for status in (HANGS_UP, 201):
        server.will("PUT", "/v1/encoders", status, READY)
    sent: list[int] = []
    assert client.push_encoder(tmp_path / "encoder.pt", advance=sent.append) == READY
    assert [body for method, *_, body in server.requests if method == "PUT"] == [content, content]
    assert sum(sent) == len(content)


def test_service_that_is_away_from_the_start_is_an_error_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sslmem.client.http.PAUSE_SECONDS", 3600)
    with Client("http://127.0.0.1:1", "t") as client, pytest.raises(ServiceUnreachable, match="make run"):
        client.request_audit(name="a")


@pytest.mark.usefixtures("patient")
def test_service_that_stays_away_is_an_error_in_the_end(
    server: Server, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sslmem.client.http.PATIENCE_SECONDS", 0)
    server.will("POST", "/v1/audits", HANGS_UP, b"")
    server.will("POST", "/v1/audits", HANGS_UP, b"")
    with pytest.raises(ServiceUnreachable, match="no answer"):
        client.request_audit(name="a")


def test_file_that_was_deleted_since_it_was_asked_for_is_sent(server: Server, client: Client, tmp_path: Path) -> None:
    (tmp_path / "encoder.pt").write_bytes(b"weights")
    server.will("GET", "/v1/limits", 200, LIMITS)
    server.will("HEAD", f"/v1/artifacts/sha256:{hashlib.sha256(b'weights').hexdigest()}", 200, b"")
    server.will("POST", "/v1/encoders", 404, {"detail": "there is no file", "code": "artifact-not-found"})
    server.will("PUT", "/v1/encoders", 201, READY)
    sent: list[int] = []
    assert client.push_encoder(tmp_path / "encoder.pt", advance=sent.append) == READY
    assert (server.requests[-1][3], sum(sent)) == (b"weights", 7)


def test_audit_is_followed_to_its_end(server: Server, client: Client) -> None:
    for state in ("queued", "running", "succeeded"):
        server.will("GET", "/v1/audits/7", 200, {"state": state})
    assert [audit["state"] for audit in client.follow("7")] == ["queued", "running", "succeeded"]


def test_download_is_written_to_the_file(server: Server, client: Client, tmp_path: Path) -> None:
    server.will("GET", "/v1/audits/7/scores.csv", 200, b"a,b\n" * 1000)
    client.download("/v1/audits/7/scores.csv", tmp_path / "scores.csv")
    assert (tmp_path / "scores.csv").read_bytes() == b"a,b\n" * 1000


def test_refused_download_writes_no_file(server: Server, client: Client, tmp_path: Path) -> None:
    server.will("GET", "/v1/audits/7/scores.csv", 404, {"detail": "there is none", "code": "audit-not-found"})
    with pytest.raises(RequestRefused, match="there is none"):
        client.download("/v1/audits/7/scores.csv", tmp_path / "scores.csv")
    assert not (tmp_path / "scores.csv").exists()


# Folders as archives


def test_folder_is_packed_with_its_paths(tmp_path: Path) -> None:
    (tmp_path / "data/a").mkdir(parents=True)
    (tmp_path / "data/a/x.png").write_bytes(b"x")
    (tmp_path / "data/b.png").write_bytes(b"y")
    with zipfile.ZipFile(zip_folder(tmp_path / "data", tmp_path / "data.zip")) as archive:
        assert archive.namelist() == ["a/x.png", "b.png"]
        assert archive.read("a/x.png") == b"x"


def test_same_files_give_the_same_archive(tmp_path: Path) -> None:
    for folder, names in (("one", ["a.png", "b.png"]), ("two", ["b.png", "a.png"])):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_bytes(name.encode())
            os.utime(tmp_path / folder / name, (len(folder) * 10_000, 86_400 * 365))
    os.utime(tmp_path / "two/a.png", (0, 0))
    first, second = (zip_folder(tmp_path / f, tmp_path / f"{f}.zip").read_bytes() for f in ("one", "two"))
    assert first == second


def test_folder_without_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnreadableDataset, match="holds no files"):
        zip_folder(tmp_path / "empty", tmp_path / "x.zip")


def test_file_whose_name_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "data") + b"/caf\xe9.png")).write_bytes(b"x")
    with pytest.raises(UnreadableDataset, match="is not UTF-8"):
        zip_folder(tmp_path / "data", tmp_path / "x.zip")
