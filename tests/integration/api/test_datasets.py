"""Datasets and their roles over HTTP."""

import uuid
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from api.main import create_app
from models.dataset import Dataset, DatasetSample
from service.context import Context
from service.queue import CHECK_DATASET
from service.settings import Settings
from tests.support import rows
from tests.support.problems import problem
from tests.support.queue import messages

ROLES = "sample,role\na.png,candidate\nb.png,external\n"


@pytest.fixture
def dataset(context: Context) -> Dataset:
    with context.sessions.begin() as session:
        return rows.add_dataset(session, ["a.png", "b.png", "c.png"])


def test_upload_is_registered_and_its_check_announced(client: TestClient, settings: Settings) -> None:
    response = client.put("/v1/datasets", content=b"PK...", params={"name": "images"})
    assert response.status_code == 201
    dataset = response.json()
    assert response.headers["Location"] == dataset["links"]["self"]
    assert (dataset["name"], dataset["state"], dataset["num_samples"]) == ("images", "received", None)
    assert messages(settings) == [(CHECK_DATASET, dataset["id"])]
    again = client.put("/v1/datasets", content=b"PK...", params={"name": "images"})
    assert (again.status_code, again.json()["id"]) == (200, dataset["id"])


def test_archive_that_the_service_holds_is_registered_without_sending_it(client: TestClient, context: Context) -> None:
    body = {"name": "images", "artifact_digest": rows.store(context, b"PK...")}
    assert client.post("/v1/datasets", json=body).status_code == 201
    missing = {"name": "images", "artifact_digest": rows.digest_of("never")}
    problem(client.post("/v1/datasets", json=missing), 404, "artifact-not-found")


def test_empty_archive_is_refused(client: TestClient) -> None:
    problem(client.put("/v1/datasets", content=b""), 400, "invalid-request")


def test_name_that_the_database_cannot_hold_is_refused(client: TestClient) -> None:
    problem(client.put("/v1/datasets", content=b"PK", params={"name": "a\0"}), 422, "request-invalid")


def test_datasets_are_shown_listed_and_deleted(client: TestClient, dataset: Dataset) -> None:
    shown = client.get(f"/v1/datasets/{dataset.id}").json()
    assert (shown["state"], shown["num_samples"]) == ("ready", 3)
    assert client.get("/v1/datasets").json() == {"items": [shown], "next_cursor": None}
    assert client.delete(f"/v1/datasets/{dataset.id}").status_code == 204
    problem(client.get(f"/v1/datasets/{dataset.id}"), 404, "dataset-not-found")


def test_roles_are_registered_once(client: TestClient, dataset: Dataset) -> None:
    path = f"/v1/datasets/{dataset.id}/roles"
    first = client.put(path, content=ROLES, params={"name": "mine"})
    second = client.put(path, content="\ufeff" + ROLES.replace("\n", "\r\n"), params={"name": "other"})
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json()
    assert first.json()["counts"] == {"candidate": 1, "external": 1}
    assert (first.json()["name"], first.json()["num_samples"]) == ("mine", 2)
    assert client.get(path).json()["items"] == [first.json()]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (b"", "columns sample,role"),
        (b"sample,role\n", "no rows"),
        (b"sample,role\nnowhere.png,candidate\n", "nowhere.png"),
        (b"sample,role\na.png,member\n", "line 2"),
        (b"sample,role\na.png\0,candidate\n", "not in the dataset"),
        (b"sample,role\na.png,candidate\na.png,external\n", "line 3"),
        (b"\0" * 100, "columns sample,role"),
    ],
)
def test_faults_of_a_table_are_named(client: TestClient, dataset: Dataset, table: bytes, words: str) -> None:
    response = client.put(f"/v1/datasets/{dataset.id}/roles", content=table)
    assert words in problem(response, 400, "roles-invalid")["detail"]


def test_table_that_is_no_utf8_is_refused(client: TestClient, dataset: Dataset) -> None:
    response = client.put(f"/v1/datasets/{dataset.id}/roles", content=b"sample,role\n\xff.png,candidate\n")
    assert "UTF-8" in problem(response, 400, "roles-invalid")["detail"]


def test_field_longer_than_any_path_is_a_clients_mistake(client: TestClient, dataset: Dataset) -> None:
    table = "sample,role\n" + "x" * 200_000 + ",candidate\n"
    response = client.put(f"/v1/datasets/{dataset.id}/roles", content=table)
    problem(response, 400, "roles-invalid")


def test_roles_need_a_dataset_that_was_checked(client: TestClient, context: Context) -> None:
    problem(client.put(f"/v1/datasets/{uuid.uuid4()}/roles", content=ROLES), 404, "dataset-not-found")
    problem(client.get(f"/v1/datasets/{uuid.uuid4()}/roles"), 404, "dataset-not-found")
    with context.sessions.begin() as session:
        dataset = rows.add_dataset(session, [], "new", state="received")
    problem(client.put(f"/v1/datasets/{dataset.id}/roles", content=ROLES), 409, "not-ready")


@pytest.fixture
def narrow(settings: Settings, token: str) -> Iterator[TestClient]:
    app = create_app(settings.model_copy(update={"max_roles_bytes": len(ROLES)}))
    with TestClient(app, headers={"Authorization": f"Bearer {token}"}) as client:
        yield client


def test_table_over_the_limit_is_refused(narrow: TestClient, dataset: Dataset) -> None:
    path = f"/v1/datasets/{dataset.id}/roles"
    problem(narrow.put(path, content=ROLES + "\n"), 413, "upload-too-large")
    problem(narrow.put(path, content=iter([ROLES.encode(), b"\n"])), 413, "upload-too-large")
    assert narrow.put(path, content=ROLES).status_code == 201


def test_samples_are_listed_in_pages_and_the_skipped_ones_alone(client: TestClient, context: Context) -> None:
    with context.sessions.begin() as session:
        dataset = rows.add_dataset(session, [f"{i}.png" for i in range(5)], "many")
        for path in ("1.png", "3.png"):
            statement = update(DatasetSample).where(DatasetSample.path == path)
            session.execute(statement.values(skipped="image-undecodable: no image", label="cat"))
    path = client.get(f"/v1/datasets/{dataset.id}").json()["links"]["samples"]
    first = client.get(path, params={"limit": 3}).json()
    second = client.get(path, params={"limit": 3, "cursor": first["next_cursor"]}).json()
    assert [item["path"] for item in first["items"] + second["items"]] == [f"{i}.png" for i in range(5)]
    assert second["next_cursor"] is None
    skipped = client.get(path, params={"skipped": True}).json()["items"]
    assert [(item["path"], item["label"], item["skipped"]) for item in skipped] == [
        ("1.png", "cat", "image-undecodable: no image"),
        ("3.png", "cat", "image-undecodable: no image"),
    ]
    problem(client.get(path, params={"cursor": "x"}), 400, "invalid-request")
    problem(client.get(f"/v1/datasets/{uuid.uuid4()}/samples"), 404, "dataset-not-found")


def test_twins_across_roles_are_shown_with_the_table(client: TestClient, context: Context) -> None:
    keys = {"a.png": "sha256:x", "b.png": "sha256:x", "c.png": "sha256:z"}
    with context.sessions.begin() as session:
        dataset = rows.add_dataset(session, list(keys), "twins", keys)
    shown = client.put(f"/v1/datasets/{dataset.id}/roles", content=ROLES).json()["twins"]
    assert [(pair["role"], pair["other"], pair["num_exact"], pair["examples"]) for pair in shown] == [
        ("candidate", "external", 1, [["a.png", "b.png"]]),
        ("external", "candidate", 1, [["b.png", "a.png"]]),
    ]
