"""Audits over HTTP: request, show, list, cancel, delete."""

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service import chunks
from service.context import Context
from service.queue import SCORE_CHUNK
from service.settings import Settings
from service.tokens import create_token
from tests.support import rows
from tests.support.problems import problem
from tests.support.queue import messages


@pytest.fixture
def body(context: Context) -> dict[str, Any]:
    """A request that is accepted."""
    paths = rows.sample_paths(40)
    with context.sessions.begin() as session:
        target, reference = (rows.add_encoder(session, name) for name in ("target", "reference"))
        dataset = rows.add_dataset(session, paths)
        return {
            "name": "mine",
            "target_ids": [str(target.id)],
            "reference_ids": [str(reference.id)],
            "dataset_id": str(dataset.id),
            "role_set_id": str(rows.add_roles(session, dataset, paths).id),
            "spec": {"views": 4, "seed": 7},
        }


def test_request_is_accepted_and_says_where_to_follow(
    client: TestClient, body: dict[str, Any], settings: Settings
) -> None:
    response = client.post("/v1/audits", json=body)
    assert response.status_code == 202
    audit = response.json()
    assert response.headers["Location"] == audit["links"]["self"] == f"/v1/audits/{audit['id']}"
    assert response.headers["Retry-After"] == "2"
    assert (audit["name"], audit["state"]) == ("mine", "queued")
    assert audit["progress"] == {"samples_done": 0, "samples_total": 40, "seconds_left": None}
    assert audit["reason"] == "no worker has connected in the last week; start one with python -m worker"
    assert {key: audit[key] for key in body if key.endswith(("_id", "_ids"))} == {
        key: value for key, value in body.items() if key.endswith(("_id", "_ids"))
    }
    assert (audit["spec"]["views"], audit["spec"]["seed"], audit["spec"]["input_size"]) == (4, 7, 16)
    assert [task for task, _ in messages(settings)] == [SCORE_CHUNK]
    assert client.get(response.headers["Location"]).json() == audit


def test_spec_has_defaults(client: TestClient, body: dict[str, Any]) -> None:
    spec = client.post("/v1/audits", json={**body, "spec": {}}).json()["spec"]
    assert (spec["views"], spec["pairing"], spec["distance"], spec["normalize"]) == (10, "views", "l2", True)


def test_recipe_is_a_name_or_a_list(client: TestClient, body: dict[str, Any]) -> None:
    named = client.post("/v1/audits", json={**body, "spec": {"recipe": "paper-weak"}}).json()
    listed = client.post("/v1/audits", json={**body, "spec": {"recipe": named["spec"]["recipe"]}}).json()
    assert named["spec_digest"] == listed["spec_digest"]


def test_chunks_are_listed_with_who_has_them_and_what_failed(client: TestClient, context: Context) -> None:
    audit = rows.request_audit(context, 16 * 3)
    first, second, _ = rows.chunks_of(context, audit.id)
    rows.record(context, rows.claim(context, first.id))
    plan = rows.claim(context, second.id, "host:1:abc")
    path = f"/v1/audits/{audit.id}/chunks"
    done, running, queued = client.get(path).json()["items"]
    assert (done["state"], done["attempts"], done["samples_done"], done["worker"]) == ("done", 1, 16, None)
    assert (running["state"], running["start"], running["stop"], running["worker"]) == ("running", 16, 32, "host:1")
    assert running["lease_expires_at"] is not None
    assert (queued["state"], queued["attempts"], queued["failure"]) == ("queued", 0, None)
    with context.sessions.begin() as session:
        chunks.fail_chunk(session, plan, "host:1:abc", code="odd", detail="Something odd.", max_attempts=3)
    page = client.get(path, params={"limit": 2}).json()
    assert page["items"][1]["failure"] == {"code": "odd", "detail": "Something odd."}
    rest = client.get(path, params={"cursor": page["next_cursor"]}).json()
    assert ([chunk["number"] for chunk in rest["items"]], rest["next_cursor"]) == ([2], None)
    problem(client.get(path, params={"cursor": "x"}), 400, "invalid-request")
    problem(client.get(f"/v1/audits/{uuid.uuid4()}/chunks"), 404, "audit-not-found")


def test_audit_has_a_deadline_until_it_has_ended(client: TestClient, body: dict[str, Any]) -> None:
    audit = client.post("/v1/audits", json=body).json()
    assert audit["deadline_at"] > audit["created_at"]
    assert client.post(f"/v1/audits/{audit['id']}/cancel").json()["deadline_at"] is None


def test_queue_is_default_or_gpu(client: TestClient, body: dict[str, Any]) -> None:
    assert client.post("/v1/audits", json=body).json()["queue"] == "default"
    assert client.post("/v1/audits", json={**body, "queue": "gpu", "force": True}).json()["queue"] == "gpu"
    problem(client.post("/v1/audits", json={**body, "queue": "tpu"}), 422, "request-invalid")


def test_the_same_request_again_gives_the_audit_there_is(client: TestClient, body: dict[str, Any]) -> None:
    first, second = (client.post("/v1/audits", json={**body, "name": name}) for name in ("first", "second"))
    assert (first.status_code, second.status_code) == (202, 200)
    assert first.json()["id"] == second.json()["id"]
    assert second.headers["Location"] == first.headers["Location"]
    other = client.post("/v1/audits", json={**body, "spec": {**body["spec"], "seed": 8}})
    assert other.status_code == 202
    assert other.json()["id"] != first.json()["id"]


def test_the_same_request_again_raises_the_priority_and_never_lowers_it(
    client: TestClient, body: dict[str, Any]
) -> None:
    first = client.post("/v1/audits", json={**body, "priority": 1}).json()
    for asked, expected in ((5, 5), (2, 5)):
        again = client.post("/v1/audits", json={**body, "priority": asked}).json()
        assert (again["id"], again["priority"]) == (first["id"], expected)


def test_the_same_request_again_gives_a_new_audit_when_asked_for(client: TestClient, body: dict[str, Any]) -> None:
    first, second = (client.post("/v1/audits", json={**body, "force": True}) for _ in range(2))
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json()["id"] != second.json()["id"]
    assert first.json()["spec_digest"] == second.json()["spec_digest"]


@pytest.mark.parametrize("end", ["cancel", "fail"])
def test_the_same_request_after_a_failure_gives_a_new_audit(
    client: TestClient, context: Context, body: dict[str, Any], end: str
) -> None:
    first = client.post("/v1/audits", json=body).json()
    if end == "cancel":
        client.post(f"/v1/audits/{first['id']}/cancel")
    else:
        rows.fail_first_chunk(context, uuid.UUID(first["id"]))
    second = client.post("/v1/audits", json=body)
    assert second.status_code == 202
    assert second.json()["id"] != first["id"]


def test_requests_at_the_same_time_make_one_audit(client: TestClient, body: dict[str, Any]) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: client.post("/v1/audits", json=body), range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 202]
    assert len({answer.json()["id"] for answer in answers}) == 1


def test_a_key_gives_the_same_audit_even_after_it_failed(
    client: TestClient, context: Context, body: dict[str, Any]
) -> None:
    key = {"Idempotency-Key": "release 7"}
    first = client.post("/v1/audits", json={**body, "force": True}, headers=key)
    rows.fail_first_chunk(context, uuid.UUID(first.json()["id"]))
    again = client.post("/v1/audits", json={**body, "force": True}, headers=key)
    assert (first.status_code, again.status_code) == (202, 200)
    assert (again.json()["id"], again.json()["state"]) == (first.json()["id"], "failed")
    other = client.post("/v1/audits", json={**body, "force": True}, headers={"Idempotency-Key": "release 8"})
    assert other.json()["id"] != first.json()["id"]


def test_a_key_with_another_request_is_refused(client: TestClient, body: dict[str, Any]) -> None:
    key = {"Idempotency-Key": "release 7"}
    client.post("/v1/audits", json=body, headers=key)
    refused = client.post("/v1/audits", json={**body, "spec": {"views": 6}}, headers=key)
    assert "came with another request before" in problem(refused, 422, "idempotency-key-reused")["detail"]


def test_keys_of_other_projects_are_other_keys(client: TestClient, context: Context, body: dict[str, Any]) -> None:
    key = {"Idempotency-Key": "release 7"}
    first = client.post("/v1/audits", json=body, headers=key).json()
    with context.sessions.begin() as session:
        client.headers["Authorization"] = f"Bearer {create_token(session, 'another project')}"
    second = client.post("/v1/audits", json=body, headers=key)
    assert second.status_code == 202
    assert (first["project"], second.json()["project"]) == ("test", "another project")


def test_audit_is_paused_and_resumed(client: TestClient, body: dict[str, Any]) -> None:
    here = client.post("/v1/audits", json=body).json()["links"]["self"]
    for _ in range(2):
        paused = client.post(f"{here}/pause")
        assert (paused.status_code, paused.json()["state"]) == (200, "paused")
    assert paused.json()["reason"] == "paused; no further chunk begins until it is resumed"
    for _ in range(2):
        resumed = client.post(f"{here}/resume")
        assert (resumed.status_code, resumed.json()["state"]) == (200, "queued")


@pytest.mark.parametrize("action", ["pause", "resume", "retry"])
def test_actions_that_do_not_go_with_the_state_are_refused(client: TestClient, context: Context, action: str) -> None:
    audit = rows.succeeded_audit(context)
    problem(client.post(f"/v1/audits/{audit.id}/{action}"), 409, "invalid-move")
    problem(client.post(f"/v1/audits/{uuid.uuid4()}/{action}"), 404, "audit-not-found")


def test_failed_audit_is_tried_again(client: TestClient, context: Context) -> None:
    audit = rows.request_audit(context)
    rows.fail_first_chunk(context, audit.id)
    again = client.post(f"/v1/audits/{audit.id}/retry")
    assert (again.status_code, again.json()["state"]) == (200, "queued")
    assert again.json()["failure"] is None
    assert again.json()["finished_at"] is None


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        ({"views": 1}, "spec-invalid"),
        ({"recipe": "sepia"}, "recipe-invalid"),
        ({"recipe": []}, "recipe-invalid"),
        ({"recipe": [{}]}, "recipe-invalid"),
        ({"recipe": ["horizontal_flip", "sepia"]}, "recipe-invalid"),
        ({"recipe": [{"horizontal_flip": {"p": 2}}]}, "recipe-invalid"),
        ({"recipe": [{"horizontal_flip": {"p": "\0"}}]}, "recipe-invalid"),
        ({"recipe": [{"random_resized_crop": {"size": 32}}]}, "recipe-invalid"),
        ({"recipe": [{"a\0": None}]}, "recipe-invalid"),
    ],
)
def test_unusable_spec_is_refused_with_its_fault(
    client: TestClient, body: dict[str, Any], spec: dict[str, Any], code: str
) -> None:
    problem(client.post("/v1/audits", json={**body, "spec": spec}), 400, code)


@pytest.mark.parametrize(
    "spec",
    [
        {"views": 0},
        {"views": 1025},
        {"views": "many"},
        {"seed": -1},
        {"seed": 2**63},
        {"seed": 10**40},
        {"distance": "l3"},
        {"pairing": "all"},
        {"input_size": 16},
        {"recipe": 5},
        {"recipe": [5]},
    ],
)
def test_malformed_spec_is_invalid(client: TestClient, body: dict[str, Any], spec: dict[str, Any]) -> None:
    problem(client.post("/v1/audits", json={**body, "spec": spec}), 422, "request-invalid")


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"name": "a\0"},
        {"target_ids": []},
        {"reference_ids": [str(uuid.uuid4())] * 65},
        {"dataset_id": "x"},
        {"target_ids": [None]},
        {"surprise": 1},
    ],
)
def test_malformed_request_is_invalid(client: TestClient, body: dict[str, Any], changes: dict[str, Any]) -> None:
    problem(client.post("/v1/audits", json={**body, **changes}), 422, "request-invalid")


def test_unknown_parts_are_named(client: TestClient, body: dict[str, Any]) -> None:
    unknown = str(uuid.uuid4())
    for change, code in (
        ({"target_ids": [unknown]}, "encoder-not-found"),
        ({"reference_ids": [unknown]}, "encoder-not-found"),
        ({"dataset_id": unknown}, "dataset-not-found"),
        ({"role_set_id": unknown}, "role-set-not-found"),
    ):
        assert unknown in problem(client.post("/v1/audits", json={**body, **change}), 404, code)["detail"]


def test_encoder_that_was_not_checked_yet_is_a_conflict(
    client: TestClient, context: Context, body: dict[str, Any]
) -> None:
    with context.sessions.begin() as session:
        new = rows.add_encoder(session, "new", state="received")
    problem(client.post("/v1/audits", json={**body, "target_ids": [str(new.id)]}), 409, "not-ready")


def test_encoder_on_both_sides_is_refused(client: TestClient, body: dict[str, Any]) -> None:
    both = {**body, "reference_ids": body["target_ids"]}
    problem(client.post("/v1/audits", json=both), 400, "invalid-request")


def test_list_is_newest_first_and_paged(client: TestClient, body: dict[str, Any]) -> None:
    body["force"] = True
    ids = [client.post("/v1/audits", json=body).json()["id"] for _ in range(3)]
    first = client.get("/v1/audits", params={"limit": 2}).json()
    client.post("/v1/audits", json=body)
    second = client.get("/v1/audits", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [item["id"] for item in first["items"] + second["items"]] == ids[::-1]


def test_failed_audit_shows_code_and_sentence(client: TestClient, context: Context) -> None:
    audit = rows.request_audit(context)
    rows.fail_first_chunk(context, audit.id)
    shown = client.get(f"/v1/audits/{audit.id}").json()
    assert shown["state"] == "failed"
    assert shown["failure"] == {"code": "odd", "detail": "Something odd."}
    assert shown["finished_at"] is not None
    problem(client.get(f"/v1/audits/{audit.id}/summary"), 409, "audit-not-succeeded")


def test_cancelling_is_repeatable_and_ends_the_audit(client: TestClient, body: dict[str, Any]) -> None:
    here = client.post("/v1/audits", json=body).json()["links"]["self"]
    first, second = (client.post(f"{here}/cancel") for _ in range(2))
    assert (first.status_code, first.json()["state"]) == (200, "cancelled")
    assert first.json() == second.json()


def test_audit_is_deleted_only_when_it_has_ended(client: TestClient, body: dict[str, Any]) -> None:
    here = client.post("/v1/audits", json=body).json()["links"]["self"]
    problem(client.delete(here), 409, "audit-not-ended")
    client.post(f"{here}/cancel")
    assert client.delete(here).status_code == 204
    problem(client.get(here), 404, "audit-not-found")
    problem(client.delete(here), 404, "audit-not-found")


def test_deleted_audit_sets_its_encoders_and_dataset_free(client: TestClient, body: dict[str, Any]) -> None:
    here = client.post("/v1/audits", json=body).json()["links"]["self"]
    problem(client.delete(f"/v1/datasets/{body['dataset_id']}"), 409, "in-use")
    client.post(f"{here}/cancel")
    client.delete(here)
    for path in (f"/v1/datasets/{body['dataset_id']}", f"/v1/encoders/{body['target_ids'][0]}"):
        assert client.delete(path).status_code == 204


def test_everything_below_an_unknown_audit_is_not_found(client: TestClient) -> None:
    here = f"/v1/audits/{uuid.uuid4()}"
    for below in ("", "/summary", "/scores", "/scores.csv", "/scores.parquet", "/report"):
        problem(client.get(here + below), 404, "audit-not-found")
    problem(client.post(f"{here}/cancel"), 404, "audit-not-found")


def test_results_of_an_audit_that_has_not_succeeded_are_a_conflict(client: TestClient, body: dict[str, Any]) -> None:
    here = client.post("/v1/audits", json=body).json()["links"]["self"]
    for below in ("/summary", "/scores.csv", "/scores.parquet", "/report"):
        problem(client.get(here + below), 409, "audit-not-succeeded")
    assert client.get(f"{here}/scores").json() == {"items": [], "next_cursor": None}


@pytest.mark.parametrize(
    "recipe",
    [
        '[{"horizontal_flip": {"p": NaN}}]',
        '[{"color_jitter": {"brightness": Infinity}}]',
        '[{"color_jitter": {"hue": 1e400}}]',
        '[{"gaussian_blur": {"kernel_size": 5, "sigma": [NaN, 1]}}]',
        '[{"random_resized_crop": {"scale": [0.2, NaN]}}]',
        '[{"random_resized_crop": {"scale": ' + "[" * 500 + "]" * 500 + "}}]",
        '"\\ud800"',
    ],
)
def test_recipe_that_is_no_recipe_is_a_clients_mistake(client: TestClient, body: dict[str, Any], recipe: str) -> None:
    text = json.dumps({**body, "spec": {"recipe": "RECIPE"}}).replace('"RECIPE"', recipe)
    response = client.post("/v1/audits", content=text, headers={"Content-Type": "application/json"})
    assert response.status_code in (400, 422), response.text
    problem(response, response.status_code, response.json()["code"])
