"""The client as people's programs use it."""

import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file
from sqlalchemy import null, select, update

from models.audit import Audit
from models.encoder import Encoder
from service import lifecycle
from service.context import Context
from service.embedded.process import free_port
from service.settings import Settings
from sslmem.client.http import Client, zip_folder
from sslmem.errors import RequestRefused, ServiceUnreachable, UnreadableDataset
from tests.support import rows
from tests.support.driver import working
from tests.support.live import served
from tests.support.materials import EncoderFile, Material
from tests.unit.sslmem.encoders import test_producers as producers


def test_encoder_is_pushed_and_checked(client: Client, settings: Settings, target_file: EncoderFile) -> None:
    sent: list[int] = []
    with working(settings):
        encoder = client.push_encoder(
            target_file.path,
            architecture=target_file.architecture,
            input_size=16,
            mean=(0.1, 0.2, 0.3),
            std=(1, 2, 3),
            advance=sent.append,
        )
    assert (encoder["state"], encoder["name"]) == ("ready", target_file.path.stem)
    assert (encoder["mean"], encoder["std"]) == ([0.1, 0.2, 0.3], [1.0, 2.0, 3.0])
    assert encoder["artifact_digest"] == target_file.digest
    assert sum(sent) == target_file.path.stat().st_size


def test_folder_is_pushed_as_one_archive_and_read_with_what_it_says(
    client: Client, settings: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    save_file(
        {f"encoder.{name}": tensor for name, tensor in producers.state(producers.vit()).items()},
        folder / "model.safetensors",
    )
    said = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    with working(settings):
        encoder = client.push_encoder(folder, options={"num_heads": 6})
        again = client.push_encoder(folder, options={"num_heads": 6})
    assert (encoder["state"], encoder["name"], encoder["id"]) == ("ready", "mine", again["id"])
    assert (encoder["mean"], encoder["std"]) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    assert encoder["settings"]["mean"] == {"value": [0.1, 0.2, 0.3], "source": "file"}
    assert encoder["settings"]["num_heads"] == {"value": 6, "source": "told"}
    assert encoder["options"]["num_heads"] == 6
    assert encoder["load_report"]["loaded"]["cls_token"] == ["encoder.cls_token"]
    (listed,) = client.items("/v1/encoders")
    assert "loaded" not in listed["load_report"]


def test_file_that_the_service_holds_is_not_sent_again(
    client: Client, settings: Settings, target_file: EncoderFile
) -> None:
    with working(settings):
        first = client.push_encoder(target_file.path, architecture=target_file.architecture, input_size=16)
        sent: list[int] = []
        second = client.push_encoder(
            target_file.path, name="other", architecture=target_file.architecture, input_size=16, advance=sent.append
        )
        third = client.push_encoder(target_file.path, architecture=target_file.architecture, input_size=16)
    assert first["id"] == third["id"] != second["id"]
    assert sent == [target_file.path.stat().st_size]


def test_refused_encoder_is_an_error_with_its_reason(client: Client, settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "garbage.pt"
    path.write_bytes(b"nothing of the kind")
    with working(settings), pytest.raises(RequestRefused, match=r"garbage was refused: .*\[checkpoint-unreadable\]"):
        client.push_encoder(path)


def test_folder_and_archive_of_the_same_files_are_datasets(
    client: Client, settings: Settings, material: Material
) -> None:
    with working(settings):
        archive = client.push_dataset(material.archive)
        folder = client.push_dataset(material.folder)
        again = client.push_dataset(material.folder)
    assert (archive["num_samples"], folder["num_samples"]) == (40, 40)
    assert again["id"] == folder["id"]
    assert folder["name"] == "images"


def test_packing_a_folder_twice_gives_the_same_bytes(material: Material, tmp_path: Path) -> None:
    first, second = (zip_folder(material.folder, tmp_path / f"{i}.zip").read_bytes() for i in range(2))
    assert first == second


def test_folder_without_files_is_no_dataset(client: Client, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnreadableDataset):
        client.push_dataset(tmp_path / "empty")


def test_roles_are_pushed(client: Client, context: Context) -> None:
    with context.sessions.begin() as session:
        dataset = rows.add_dataset(session, ["a.png"])
    answer = client.push_roles(str(dataset.id), "sample,role\na.png,candidate\n", name="mine")
    assert (answer["name"], answer["counts"]) == ("mine", {"candidate": 1})
    with pytest.raises(RequestRefused, match=r"nowhere.png.*\[roles-invalid, HTTP 400\]"):
        client.push_roles(str(dataset.id), "sample,role\nnowhere.png,candidate\n")


def test_listing_goes_on_beyond_the_first_page(client: Client, context: Context) -> None:
    with context.sessions.begin() as session:
        for i in range(250):
            rows.add_encoder(session, f"encoder {i}")
    items = list(client.items("/v1/encoders"))
    assert len({item["id"] for item in items}) == len(items) == 250
    with context.sessions.begin() as session:
        assert {item["name"] for item in items} == set(session.scalars(select(Encoder.name)))


def test_audit_is_followed_to_its_end(client: Client, context: Context) -> None:
    audit = rows.request_audit(context)
    states: list[str] = []
    for state in client.follow(str(audit.id)):
        if not states:
            rows.score_all(context, audit.id)
            rows.finalise(context, audit.id)
        states.append(state["state"])
    assert states[0] == "queued"
    assert states[-1] == "succeeded"


def test_following_outlasts_a_restart_of_the_service(
    settings: Settings, context: Context, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sslmem.client.http.PAUSE_SECONDS", 0.05)
    audit, port = rows.succeeded_audit(context), free_port()
    with context.sessions.begin() as session:
        rows.without_rules(session)
        session.execute(update(Audit).values(state="running", summary=null()))
    with Client(f"http://127.0.0.1:{port}", token) as client:
        states = client.follow(str(audit.id))
        with served(settings, port):
            assert next(states)["state"] == "running"
        with context.sessions.begin() as session:
            lifecycle.cancel(session, audit.id)
        found: list[str] = []
        thread = threading.Thread(target=lambda: found.extend(state["state"] for state in states))
        thread.start()
        with served(settings, port):
            thread.join()
    assert found == ["cancelled"]


def test_following_gives_up_in_the_end(
    settings: Settings, context: Context, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sslmem.client.http.PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr("sslmem.client.http.PAUSE_SECONDS", 0.02)
    audit, port = rows.request_audit(context), free_port()
    with Client(f"http://127.0.0.1:{port}", token) as client:
        states = client.follow(str(audit.id))
        with served(settings, port):
            next(states)
        with pytest.raises(ServiceUnreachable):
            next(states)


@pytest.mark.parametrize("path", ["audit", "encoder"])
def test_long_poll_outlasts_a_restart_in_its_middle(
    settings: Settings, context: Context, token: str, path: str
) -> None:
    audit, port = rows.request_audit(context), free_port()
    with context.sessions.begin() as session:
        encoder = rows.add_encoder(session, "waits", state="received")
    resource = {"audit": f"/v1/audits/{audit.id}", "encoder": f"/v1/encoders/{encoder.id}"}[path]
    found: list[dict[str, Any]] = []
    with Client(f"http://127.0.0.1:{port}", token) as client:

        def wait() -> None:
            state = first = client.get(resource)["state"]
            while state == first:
                answer = client._poll(resource, wait=30)
                state = answer["state"]
            found.append(answer)

        with served(settings, port):
            thread = threading.Thread(target=wait)
            thread.start()
            time.sleep(1)  # it is in the middle of its poll
        with served(settings, port):
            with context.sessions.begin() as session:
                lifecycle.cancel(session, audit.id)
                session.execute(update(Encoder).where(Encoder.id == encoder.id).values(state="checking"))
            thread.join(30)
    assert [answer["state"] for answer in found] == [{"audit": "cancelled", "encoder": "checking"}[path]]


def test_events_go_on_after_a_restart_however_long_it_was_quiet_before(
    settings: Settings, context: Context, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit, port = rows.request_audit(context), free_port()
    monkeypatch.setattr("sslmem.client.http.PATIENCE_SECONDS", 8.0)
    seen: list[str] = []
    with Client(f"http://127.0.0.1:{port}", token) as client:
        thread = threading.Thread(target=lambda: seen.extend(event["type"] for event in client.events(str(audit.id))))
        with served(settings, port):
            thread.start()
            time.sleep(9)  # quiet for longer than a service may be away
        with served(settings, port):
            with context.sessions.begin() as session:
                lifecycle.cancel(session, audit.id)
            thread.join(30)
    assert seen[-1] == "audit.cancelled"


def test_downloads_are_written_to_files(client: Client, context: Context, tmp_path: Path) -> None:
    audit = rows.succeeded_audit(context)
    client.download(f"/v1/audits/{audit.id}/scores.csv", tmp_path / "scores.csv")
    assert (tmp_path / "scores.csv").read_text().count("\n") == 41


def test_refused_download_leaves_no_file(client: Client, context: Context, tmp_path: Path) -> None:
    audit = rows.request_audit(context)
    with pytest.raises(RequestRefused, match="audit-not-succeeded"):
        client.download(f"/v1/audits/{audit.id}/scores.csv", tmp_path / "scores.csv")
    assert list(tmp_path.glob("scores*")) == []


# What can be in the way


def test_nobody_at_the_address_is_said_in_one_sentence() -> None:
    with Client(f"http://127.0.0.1:{free_port()}", "token") as client, pytest.raises(ServiceUnreachable) as caught:
        client.get("/v1/encoders")
    assert "expected a running service" in caught.value.detail


@pytest.mark.parametrize("url", ["not a url", "http://[", "ftp://127.0.0.1", "", "http://127.0.0.1:99999"])
def test_address_that_is_none_is_said_in_one_sentence(url: str) -> None:
    with pytest.raises(ServiceUnreachable), Client(url, "token") as client:
        client.get("/v1/encoders")


@pytest.mark.parametrize("token", ["sslmem_ü", "a\nb", ""])
def test_token_that_is_none_is_refused(url: str, token: str) -> None:
    with pytest.raises(RequestRefused), Client(url, token) as client:
        client.get("/v1/encoders")


def test_wrong_token_is_noticed_before_anything_is_sent(url: str, tmp_path: Path) -> None:
    path = tmp_path / "encoder.pt"
    path.write_bytes(b"x" * 2**22)
    sent: list[int] = []
    with Client(url, "sslmem_guess") as client, pytest.raises(RequestRefused, match=r"\[unauthorized, HTTP 401\]"):
        client.push_encoder(path, advance=sent.append)
    assert sent == []


def test_file_that_is_too_large_is_noticed_before_anything_is_sent(
    settings: Settings, token: str, tmp_path: Path
) -> None:
    path = tmp_path / "encoder.pt"
    path.write_bytes(b"x" * 2**22)
    sent: list[int] = []
    narrow = settings.model_copy(update={"max_encoder_bytes": 2**20, "max_dataset_bytes": 2**21})
    with served(narrow) as url, Client(url, token) as client:
        with pytest.raises(RequestRefused, match="at most 1048576 bytes"):
            client.push_encoder(path, advance=sent.append)
        with pytest.raises(RequestRefused, match="at most 2097152 bytes"):
            client.push_dataset(path, advance=sent.append)
    assert sent == []


class Stranger(http.server.BaseHTTPRequestHandler):
    """Some other web server."""

    def do_GET(self) -> None:
        self.send_response(302 if self.path == "/v1/limits" else 200)
        self.send_header("Location", "/elsewhere")
        self.end_headers()
        self.wfile.write(b"<html>welcome</html>")

    def log_message(self, *_: object) -> None:
        """Not to standard error."""


@pytest.fixture
def stranger() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("path", ["/v1/audits", "/v1/limits"])
def test_some_other_server_is_told_from_the_service(stranger: str, path: str) -> None:
    with Client(stranger, "token") as client, pytest.raises(ServiceUnreachable, match="is not an sslmem service"):
        client.get(path)


class Breaking(http.server.BaseHTTPRequestHandler):
    """Sends less than it announces."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"sample,role\n")

    def log_message(self, *_: object) -> None:
        """Not to standard error."""


def test_download_that_breaks_off_leaves_no_half_file(tmp_path: Path) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Breaking) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with (
            Client(f"http://127.0.0.1:{server.server_port}", "token") as client,
            pytest.raises(ServiceUnreachable, match="broke off"),
        ):
            client.download("/v1/audits/x/scores.csv", tmp_path / "scores.csv")
        server.shutdown()
        thread.join()
    assert list(tmp_path.iterdir()) == []
