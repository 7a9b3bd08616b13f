"""Encoders over HTTP: upload, register, show, list, delete."""

import base64
import hashlib
import json
import math
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from api.main import create_app
from models.encoder import Encoder
from service.context import Context
from service.queue import CHECK_ENCODER
from service.settings import Settings
from tests.support import rows
from tests.support.problems import problem
from tests.support.queue import messages

DATA = b"not a checkpoint, but the check comes later"
DIGEST = "sha256:" + hashlib.sha256(DATA).hexdigest()


def content_digest(data: bytes, algorithm: str = "sha-256") -> dict[str, str]:
    return {"Content-Digest": f"{algorithm}=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"}


def in_parts(data: bytes) -> Iterator[bytes]:
    """A body that does not announce its length."""
    for start in range(0, len(data), 7):
        yield data[start : start + 7]


def stored(settings: Settings) -> list[Path]:
    return [path for path in settings.artifact_root.rglob("*") if path.is_file()]


# Uploading


def test_upload_is_registered_and_its_check_announced(client: TestClient, settings: Settings) -> None:
    response = client.put("/v1/encoders", content=DATA, params={"name": "mine"})
    assert response.status_code == 201
    encoder = response.json()
    assert response.headers["Location"] == encoder["links"]["self"] == f"/v1/encoders/{encoder['id']}"
    assert (encoder["name"], encoder["state"], encoder["num_bytes"]) == ("mine", "received", len(DATA))
    assert encoder["artifact_digest"] == DIGEST
    assert [encoder[key] for key in ("failure", "architecture", "input_size", "weights_digest")] == [None] * 4
    assert messages(settings) == [(CHECK_ENCODER, encoder["id"])]
    assert client.get(response.headers["Location"]).json() == encoder


def test_settings_of_the_upload_are_kept(client: TestClient) -> None:
    params: dict[str, str | int] = {
        "name": "mine",
        "architecture": "resnet18",
        "input_size": 32,
        "mean": "0.1, 0.2,0.3",
        "std": "1,2,3",
    }
    encoder = client.put("/v1/encoders", content=DATA, params=params).json()
    assert (encoder["architecture"], encoder["input_size"]) == ("resnet18", 32)
    assert (encoder["mean"], encoder["std"]) == ([0.1, 0.2, 0.3], [1.0, 2.0, 3.0])


def test_branch_and_options_are_kept_and_tell_registrations_apart(client: TestClient) -> None:
    def register(**params: str) -> tuple[int, dict[str, object]]:
        response = client.put("/v1/encoders", content=DATA, params=params)
        return response.status_code, response.json()

    options = {"options": '{"num_heads": 6, "norm_eps": 1e-6}'}
    status, first = register(branch="student", **options)
    assert (status, first["branch"], first["options"]) == (201, "student", {"num_heads": 6, "norm_eps": 1e-6})
    assert register(branch="student", options='{"norm_eps": 1e-6, "num_heads": 6}') == (200, first)
    others = [register(**options)[1], register(branch="student")[1], register(branch="teacher", **options)[1]]
    assert len({first["id"], *(other["id"] for other in others)}) == 4
    assert (
        client.post(
            "/v1/encoders",
            json={"name": "encoder", "artifact_digest": DIGEST, "branch": "student", "options": first["options"]},
        ).json()
        == first
    )


def test_normalisation_that_is_not_told_is_left_to_the_file(client: TestClient) -> None:
    first = client.put("/v1/encoders", content=DATA).json()
    assert (first["mean"], first["std"], first["settings"], first["suspect"]) == (None, None, None, None)
    half = client.put("/v1/encoders", content=DATA, params={"mean": "0.5,0.5,0.5"}).json()
    assert (half["mean"], half["std"]) == ([0.5] * 3, [0.229, 0.224, 0.225])
    assert half["id"] != first["id"]


def test_upload_without_announced_length_is_streamed(client: TestClient) -> None:
    response = client.put("/v1/encoders", content=in_parts(DATA))
    assert response.status_code == 201
    assert response.json()["artifact_digest"] == DIGEST


def test_same_file_twice_gives_200_and_the_same_id(client: TestClient, settings: Settings) -> None:
    first = client.put("/v1/encoders", content=DATA)
    second = client.put("/v1/encoders", content=DATA)
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json()
    assert second.headers["Location"] == first.headers["Location"]
    assert len(stored(settings)) == 1
    assert len(messages(settings)) == 1


def test_announced_digest_that_fits_is_accepted(client: TestClient) -> None:
    assert client.put("/v1/encoders", content=DATA, headers=content_digest(DATA)).status_code == 201


def test_announced_digest_that_does_not_fit_is_refused(client: TestClient, settings: Settings) -> None:
    response = client.put("/v1/encoders", content=DATA, headers=content_digest(b"else"))
    assert DIGEST in problem(response, 400, "digest-mismatch")["detail"]
    assert stored(settings) == []
    assert client.get("/v1/encoders").json()["items"] == []


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"sha-256",
        b"sha-256=::",
        b"sha-256=:abc:",
        b"sha-256=:\xc3\xa4:",
        b"sha-256=:" + base64.b64encode(b"short") + b":",
        b"md5=:" + base64.b64encode(b"0" * 32) + b":",
    ],
)
def test_malformed_digest_is_refused(client: TestClient, settings: Settings, header: bytes) -> None:
    problem(client.put("/v1/encoders", content=DATA, headers={b"Content-Digest": header}), 400, "invalid-request")
    assert stored(settings) == []


def test_one_of_several_announced_digests_is_enough(client: TestClient) -> None:
    """A dictionary of RFC 9530; a digest that we do not know is the client's own business."""
    ours = content_digest(DATA)["Content-Digest"]
    for header in (f"{ours}, sha-512=:AAAA:", f"md5=:AAAA:,{ours}"):
        assert client.put("/v1/encoders", content=DATA, headers={"Content-Digest": header}).status_code in (200, 201)
    wrong = f"sha-512=:AAAA:, {content_digest(b'else')['Content-Digest']}"
    problem(client.put("/v1/encoders", content=DATA, headers={"Content-Digest": wrong}), 400, "digest-mismatch")


def test_empty_body_is_refused(client: TestClient, settings: Settings) -> None:
    assert "empty" in problem(client.put("/v1/encoders"), 400, "invalid-request")["detail"]
    assert stored(settings) == []


@pytest.fixture
def narrow(settings: Settings, token: str) -> Iterator[TestClient]:
    """The application with a limit of ten bytes for everything."""
    limits = {"max_encoder_bytes": 10, "max_dataset_bytes": 10, "max_roles_bytes": 10}
    app = create_app(settings.model_copy(update=limits))
    with TestClient(app, headers={"Authorization": f"Bearer {token}"}) as client:
        yield client


@pytest.mark.parametrize("path", ["/v1/encoders", "/v1/datasets"])
def test_upload_over_the_limit_is_refused_whether_announced_or_not(
    narrow: TestClient, settings: Settings, path: str
) -> None:
    assert "announces 43" in problem(narrow.put(path, content=DATA), 413, "upload-too-large")["detail"]
    assert "more arrived" in problem(narrow.put(path, content=in_parts(DATA)), 413, "upload-too-large")["detail"]
    lie = {"Content-Length": "5"}
    problem(narrow.put(path, content=in_parts(DATA), headers=lie), 413, "upload-too-large")
    assert stored(settings) == []
    assert narrow.put(path, content=DATA[:10]).status_code == 201


def test_absurd_content_length_is_refused(narrow: TestClient) -> None:
    problem(
        narrow.put("/v1/encoders", content=in_parts(b"x"), headers={"Content-Length": "9" * 5000}),
        413,
        "upload-too-large",
    )


@pytest.mark.parametrize(
    ("params", "status", "code"),
    [
        ({"name": ""}, 422, "request-invalid"),
        ({"name": "x" * 201}, 422, "request-invalid"),
        ({"name": "a\0b"}, 422, "request-invalid"),
        ({"architecture": "resnet\0"}, 422, "request-invalid"),
        ({"input_size": 0}, 422, "request-invalid"),
        ({"input_size": 10**30}, 422, "request-invalid"),
        ({"mean": "a,b,c"}, 400, "invalid-request"),
        ({"mean": "1,2"}, 400, "invalid-request"),
        ({"mean": "nan,0,0"}, 400, "invalid-request"),
        ({"mean": "1e999,0,0"}, 400, "invalid-request"),
        ({"std": "1,1,0"}, 400, "invalid-request"),
        ({"std": "nan,1,1"}, 400, "invalid-request"),
        ({"std": "inf,1,1"}, 400, "invalid-request"),
        ({"branch": "a\0b"}, 422, "request-invalid"),
        ({"options": "num_heads=6"}, 400, "invalid-request"),
        ({"options": "[1]"}, 400, "invalid-request"),
        ({"options": "[" * 5000}, 400, "invalid-request"),
        ({"options": '{"num_heads": [6]}'}, 400, "spec-invalid"),
        ({"options": '{"num_heads": "6"}'}, 400, "spec-invalid"),
        ({"options": '{"heads": 6}'}, 400, "spec-invalid"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    client: TestClient, settings: Settings, params: dict[str, str | int], status: int, code: str
) -> None:
    problem(client.put("/v1/encoders", content=DATA, params=params), status, code)
    assert stored(settings) == []


# Registering


def test_file_that_the_service_holds_is_registered_without_sending_it(client: TestClient, context: Context) -> None:
    body = {"name": "mine", "artifact_digest": rows.store(context, DATA), "architecture": "resnet18"}
    first, second = (client.post("/v1/encoders", json=body) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json()
    assert first.json()["num_bytes"] == len(DATA)


def test_file_that_the_service_does_not_hold_is_not_found(client: TestClient) -> None:
    problem(client.post("/v1/encoders", json={"name": "mine", "artifact_digest": DIGEST}), 404, "artifact-not-found")


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "a\0b"},
        {"name": "\ud800"},
        {"name": None},
        {"artifact_digest": "sha256:abc"},
        {"artifact_digest": DIGEST + "\n"},
        {"mean": [1, 2]},
        {"mean": [math.nan, 0, 0]},
        {"std": [0, 1, 1]},
        {"std": [math.inf, 1, 1]},
        {"input_size": 10**30},
        {"input_size": 1.5},
        {"architecture": "a\0"},
        {"architecture": 5},
    ],
)
def test_body_that_makes_no_sense_is_refused(client: TestClient, context: Context, changes: dict[str, object]) -> None:
    body = {"name": "mine", "artifact_digest": rows.store(context, DATA), **changes}
    # Python's own JSON knows NaN and lone surrogates.
    response = client.post("/v1/encoders", content=json.dumps(body), headers={"Content-Type": "application/json"})
    problem(response, 422, "request-invalid")


# Showing and listing


def test_ready_encoder_shows_what_the_check_found(client: TestClient, context: Context) -> None:
    with context.sessions.begin() as session:
        encoder = rows.add_encoder(session, load_report={"architecture": "resnet18"})
    shown = client.get(f"/v1/encoders/{encoder.id}").json()
    assert (shown["state"], shown["failure"]) == ("ready", None)
    assert (shown["representation_dim"], shown["views_per_second"]) == (512, 1000.0)
    assert shown["load_report"] == {"architecture": "resnet18"}


def test_refused_encoder_shows_why(client: TestClient, context: Context) -> None:
    with context.sessions.begin() as session:
        encoder = rows.add_encoder(session, state="refused", failure_code="odd", failure_detail="Something odd.")
    failure = client.get(f"/v1/encoders/{encoder.id}").json()["failure"]
    assert failure == {"code": "odd", "detail": "Something odd."}


def test_failure_of_an_earlier_attempt_is_not_shown(client: TestClient, context: Context) -> None:
    with context.sessions.begin() as session:
        encoder = rows.add_encoder(session, state="received", failure_code="odd", failure_detail="Something odd.")
    assert client.get(f"/v1/encoders/{encoder.id}").json()["failure"] is None


@pytest.mark.parametrize("collection", ["encoders", "datasets", "audits"])
def test_unknown_id_is_not_found(client: TestClient, collection: str) -> None:
    path = f"/v1/{collection}/{uuid.uuid4()}"
    code = f"{collection[:-1]}-not-found"
    problem(client.get(path), 404, code)
    problem(client.delete(path), 404, code)


def test_list_is_paged_while_encoders_are_added(client: TestClient, context: Context) -> None:
    def add(*names: str) -> None:
        for name in names:
            with context.sessions.begin() as session:
                rows.add_encoder(session, name)

    add("a", "b", "c")
    first = client.get("/v1/encoders", params={"limit": 2}).json()
    add("d")
    second = client.get("/v1/encoders", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [item["name"] for item in first["items"] + second["items"]] == ["c", "b", "a"]
    assert second["next_cursor"] is None


@pytest.mark.parametrize("collection", ["encoders", "datasets", "audits"])
def test_hostile_cursor_is_a_clients_mistake(client: TestClient, collection: str) -> None:
    for cursor in ("!", "AAAA", "bnVsbA", "WzEsMl0", "\0", "ä", "x" * 500):
        problem(client.get(f"/v1/{collection}", params={"cursor": cursor}), 400, "invalid-request")


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "1.5", "x", "9" * 5000])
def test_page_size_has_bounds(client: TestClient, limit: str) -> None:
    problem(client.get("/v1/encoders", params={"limit": limit}), 422, "request-invalid")


# Deleting


def test_deleted_encoder_is_gone_with_its_file(client: TestClient) -> None:
    encoder = client.put("/v1/encoders", content=DATA).json()
    response = client.delete(encoder["links"]["self"])
    assert (response.status_code, response.content) == (204, b"")
    problem(client.get(encoder["links"]["self"]), 404, "encoder-not-found")
    assert client.head(f"/v1/artifacts/{DIGEST}").status_code == 404


def test_file_of_another_encoder_is_not_deleted_along(client: TestClient) -> None:
    first = client.put("/v1/encoders", content=DATA, params={"name": "first"}).json()
    second = client.put("/v1/encoders", content=DATA, params={"name": "second"}).json()
    client.delete(first["links"]["self"])
    assert client.head(f"/v1/artifacts/{DIGEST}").status_code == 200
    client.delete(second["links"]["self"])
    assert client.head(f"/v1/artifacts/{DIGEST}").status_code == 404


def test_encoder_of_an_audit_is_in_use(client: TestClient, context: Context) -> None:
    audit = rows.request_audit(context)
    target = client.get(f"/v1/audits/{audit.id}").json()["target_ids"][0]
    problem(client.delete(f"/v1/encoders/{target}"), 409, "in-use")
    problem(client.delete(f"/v1/datasets/{audit.dataset_id}"), 409, "in-use")


def test_encoder_that_is_being_checked_can_be_deleted(client: TestClient, context: Context) -> None:
    encoder = client.put("/v1/encoders", content=DATA).json()
    with context.sessions.begin() as session:
        session.execute(update(Encoder).values(state="checking", lease_owner="a"))
    assert client.delete(encoder["links"]["self"]).status_code == 204
