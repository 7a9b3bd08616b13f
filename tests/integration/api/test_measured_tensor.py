"""What an audit measures: the tensor, the precision, and the published conventions, over HTTP."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.context import Context
from tests.support import rows
from tests.support.problems import problem

MEAN, POOLED = ({"default_representation": name} for name in ("mean", "pooled"))


def request(context: Context, reports: list[dict[str, str] | None], spec: dict[str, Any]) -> dict[str, Any]:
    """The body of a request for encoders with these load reports."""
    paths = rows.sample_paths(20)
    with context.sessions.begin() as session:
        encoders = [rows.add_encoder(session, f"e{i}", load_report=report) for i, report in enumerate(reports)]
        dataset = rows.add_dataset(session, paths)
        return {
            "target_ids": [str(encoders[0].id)],
            "reference_ids": [str(encoder.id) for encoder in encoders[1:]],
            "dataset_id": str(dataset.id),
            "role_set_id": str(rows.add_roles(session, dataset, paths).id),
            "spec": spec,
        }


def test_tensor_is_the_one_that_the_encoders_method_asks_for(client: TestClient, context: Context) -> None:
    audit = client.post("/v1/audits", json=request(context, [MEAN, MEAN], {})).json()
    assert audit["spec"]["representation"] == "mean"


def test_tensor_can_be_named(client: TestClient, context: Context) -> None:
    body = request(context, [MEAN, MEAN], {"representation": "layer:blocks.3"})
    assert client.post("/v1/audits", json=body).json()["spec"]["representation"] == "layer:blocks.3"


def test_methods_that_ask_for_different_tensors_are_a_conflict_to_be_settled(
    client: TestClient, context: Context
) -> None:
    body = request(context, [MEAN, POOLED], {})
    detail = problem(client.post("/v1/audits", json=body), 400, "invalid-request")["detail"]
    assert "(mean, pooled)" in detail
    assert client.post("/v1/audits", json={**body, "spec": {"representation": "cls"}}).status_code == 202


@pytest.mark.parametrize("name", ["", "layer:", "layer:a b", "everything"])
def test_tensor_of_no_known_kind_is_refused(client: TestClient, context: Context, name: str) -> None:
    body = request(context, [POOLED, POOLED], {"representation": name})
    problem(client.post("/v1/audits", json=body), 422, "request-invalid")


def test_convention_fixes_the_spec_and_refuses_what_contradicts_it(client: TestClient, context: Context) -> None:
    body = request(context, [MEAN, MEAN], {"compat": "official-code"})
    spec = client.post("/v1/audits", json=body).json()["spec"]
    assert (spec["views"], spec["pairing"], spec["representation"]) == (5, "original", "tokens")
    body["spec"] = {"compat": "paper", "views": 10}
    detail = problem(client.post("/v1/audits", json=body), 400, "spec-invalid")["detail"]
    assert "fixes views to 2; found 10" in detail


def test_method_is_kept_with_the_encoder_and_makes_it_another(client: TestClient, context: Context) -> None:
    digest = rows.store(context, b"a checkpoint")
    body = {"name": "f", "artifact_digest": digest}
    plain = client.post("/v1/encoders", json=body)
    trained = client.post("/v1/encoders", json={**body, "method": "mae"})
    assert (plain.status_code, trained.status_code) == (201, 201)
    assert (plain.json()["method"], trained.json()["method"]) == (None, "mae")
    assert client.post("/v1/encoders", json={**body, "method": "mae"}).json()["id"] == trained.json()["id"]
    problem(client.post("/v1/encoders", json={**body, "method": "not a name"}), 422, "request-invalid")
