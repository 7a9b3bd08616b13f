"""The evidence of an audit over HTTP."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from models.audit import Audit
from service.audits import encoders_of
from service.context import Context
from sslmem.gate.case import make_case
from tests.support import rows
from tests.support.problems import problem


@pytest.fixture
def audit(context: Context) -> Audit:
    return rows.succeeded_audit(context, 400)


def evidence(client: TestClient, audit: Audit, **params: float) -> dict[str, Any]:
    response = client.get(f"/v1/audits/{audit.id}/evidence", params=params)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def test_evidence_agrees_with_the_summary(client: TestClient, audit: Audit) -> None:
    summary = client.get(f"/v1/audits/{audit.id}/summary").json()
    (contrast,) = (row for row in summary["contrasts"] if row["role"] == "candidate")
    found = evidence(client, audit)["metrics"]
    for name, key in (("candidate.excess", "difference"), ("candidate.auc", "auc")):
        assert {end: found[name][end] for end in ("low", "estimate", "high")} == pytest.approx(contrast[key], abs=1e-3)
        assert found[name]["confidence"] == 0.95


def test_evidence_and_summary_are_a_case_for_the_gate(client: TestClient, audit: Audit) -> None:
    case = make_case(evidence(client, audit), client.get(f"/v1/audits/{audit.id}/summary").json())
    assert case.samples["candidate"] + case.samples["external"] > 150
    assert (case.num_samples, case.num_skipped) == (400, 20)
    assert (case.num_targets, case.num_references) == (1, 1)
    assert case.checks


def test_suspect_encoder_is_told_of_everywhere_and_fails_the_check(
    client: TestClient, context: Context, audit: Audit
) -> None:
    suspicion = "all 20 norms are exactly as initialised: the weights were never trained"
    with context.sessions.begin() as session:
        encoder = encoders_of(session, audit.id)["target"][0]
        encoder.load_report = {**(encoder.load_report or {}), "suspicions": [suspicion]}
        encoder_id = encoder.id
    shown = client.get(f"/v1/encoders/{encoder_id}").json()
    assert (shown["state"], shown["suspect"], shown["suspicions"]) == ("ready", True, [suspicion])
    said = f"a target is suspect: {suspicion}"
    assert client.get(f"/v1/audits/{audit.id}").json()["suspicions"] == [said]
    (check,) = (check for check in evidence(client, audit)["checks"] if check["id"] == "encoders-plausible")
    assert check["status"] == "failed"
    assert said in check["detail"]


def test_levels_are_the_callers(client: TestClient, audit: Audit) -> None:
    narrow, wide = (evidence(client, audit, confidence=level)["metrics"]["candidate.auc"] for level in (0.8, 0.99))
    assert (narrow["confidence"], wide["confidence"]) == (0.8, 0.99)
    assert wide["low"] < narrow["low"] < narrow["high"] < wide["high"]
    assert evidence(client, audit, fdr=0.2)["fdr"] == 0.2


@pytest.mark.parametrize(
    "params", [{"confidence": "1"}, {"confidence": "0.4"}, {"confidence": "nan"}, {"fdr": "0"}, {"fdr": "x"}]
)
def test_impossible_levels_are_invalid(client: TestClient, audit: Audit, params: dict[str, str]) -> None:
    problem(client.get(f"/v1/audits/{audit.id}/evidence", params=params), 422, "request-invalid")


def test_audit_that_has_not_succeeded_has_no_evidence(client: TestClient, context: Context) -> None:
    audit = rows.request_audit(context)
    problem(client.get(f"/v1/audits/{audit.id}/evidence"), 409, "audit-not-succeeded")


def test_audit_names_its_evidence(client: TestClient, audit: Audit) -> None:
    links = client.get(f"/v1/audits/{audit.id}").json()["links"]
    assert client.get(links["evidence"]).status_code == 200
