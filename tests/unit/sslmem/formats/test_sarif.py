"""SARIF 2.1.0: valid by its schema, and with what code scanning requires besides."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import ValidationError

from sslmem.formats.sarif import render_sarif
from sslmem.gate.report import Report, make_report
from sslmem.policy import load_policy, parse_policy
from tests.support.schemas import schema_named
from tests.unit.cases import FAILING, REASON, STRADDLING, TODAY, a_case, a_report, a_rule, a_waiver, policy_text

REPORTS = {
    "passed": a_report(),
    "failed": a_report(a_case(FAILING), rules=[a_rule(id="first", value=0.9), a_rule()]),
    "undecided": a_report(a_case(STRADDLING)),
    "waived": a_report(a_case(FAILING), waivers=[a_waiver()]),
    "doubted": a_report(minimum={"references": 2}),
}


def run_of(report: Report, base: Path | None = None) -> dict[str, Any]:
    log = json.loads(render_sarif(report, base))
    assert log["version"] == "2.1.0"
    assert log["$schema"].endswith("sarif-2.1.0.json")
    (run,) = log["runs"]
    assert isinstance(run, dict)
    return run


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_log_is_valid_by_the_schema_that_it_names(report: Report) -> None:
    log = json.loads(render_sarif(report))
    schema_named(log["$schema"]).validate(log)


def test_schema_refuses_what_is_no_sarif() -> None:
    log = json.loads(render_sarif(REPORTS["failed"]))
    log["runs"][0]["results"][0]["level"] = "fatal"
    with pytest.raises(ValidationError, match="fatal"):
        schema_named(log["$schema"]).validate(log)


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_structure_is_that_of_sarif(report: Report) -> None:
    run = run_of(report)
    driver = run["tool"]["driver"]
    assert driver["name"] == "sslmem"
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", driver["semanticVersion"])
    ids = [rule["id"] for rule in driver["rules"]]
    assert len(ids) == len(set(ids)) > 0
    for rule in driver["rules"]:
        assert rule["shortDescription"]["text"]
        assert rule["fullDescription"]["text"].endswith(".")
        assert rule["defaultConfiguration"]["level"] in ("none", "note", "warning", "error")
    for invocation in run["invocations"]:
        assert isinstance(invocation["executionSuccessful"], bool)
        assert all(note["message"]["text"] for note in invocation["toolExecutionNotifications"])
    for result in run["results"]:
        assert ids[result["ruleIndex"]] == result["ruleId"]
        assert result["level"] in ("none", "note", "warning", "error")
        assert result["message"]["text"]
        assert all(isinstance(value, str) for value in result["partialFingerprints"].values())
        place = result["locations"][0]["physicalLocation"]
        assert place["artifactLocation"]["uri"]
        assert place["region"]["startLine"] >= 1
        for suppression in result.get("suppressions", []):
            assert suppression["kind"] in ("inSource", "external")
            assert suppression["status"] in ("accepted", "underReview", "rejected")
            assert suppression["justification"]


def test_rules_that_hold_give_no_results() -> None:
    assert run_of(REPORTS["passed"])["results"] == []


def test_violation_is_a_result_at_its_line_of_the_policy() -> None:
    (result,) = run_of(REPORTS["failed"])["results"]
    place = result["locations"][0]["physicalLocation"]
    assert (result["ruleId"], result["level"], place["artifactLocation"]["uri"]) == (
        "separation", "error", "ci/policy.yaml"
    )  # fmt: skip
    line = policy_text(rules=[a_rule(id="first", value=0.9), a_rule()]).splitlines()[place["region"]["startLine"] - 1]
    assert line == "- id: separation"
    assert "candidate.auc is 0.72" in result["message"]["text"]


def test_undecided_rule_is_a_warning() -> None:
    (result,) = run_of(REPORTS["undecided"])["results"]
    assert (result["level"], result["properties"]["outcome"]) == ("warning", "undecided")


def test_waiver_is_a_suppression() -> None:
    (result,) = run_of(REPORTS["waived"])["results"]
    assert result["suppressions"] == [
        {
            "kind": "external",
            "status": "accepted",
            "justification": REASON,
            "properties": {"approvedBy": "Ada", "expires": "2026-12-24"},
        }
    ]


def test_doubts_and_warnings_are_notifications() -> None:
    (invocation,) = run_of(REPORTS["doubted"])["invocations"]
    assert invocation["exitCode"] == 3
    assert [note["level"] for note in invocation["toolExecutionNotifications"]] == ["error"]


def test_fingerprint_is_of_the_rule_and_not_of_what_was_measured() -> None:
    def fingerprint(metrics: dict[str, Any], **rule: object) -> str:
        report = a_report(a_case(metrics), rules=[a_rule(**rule)])
        (result,) = run_of(report)["results"]
        return str(result["partialFingerprints"]["sslmemRule/v1"])

    assert fingerprint(FAILING) == fingerprint(STRADDLING) == fingerprint(FAILING, value=0.65)
    assert fingerprint(FAILING) != fingerprint(FAILING, id="other")


@pytest.mark.parametrize(
    ("name", "uri"),
    [
        ("/repo/ci/my policy.yaml", "ci/my%20policy.yaml"),
        ("ci/policy.yaml", "ci/policy.yaml"),
        ("/elsewhere/p.yaml", "file:///elsewhere/p.yaml"),
    ],
)
def test_place_is_told_relative_to_the_checkout(name: str, uri: str) -> None:
    report = make_report(a_case(FAILING), parse_policy(policy_text().encode(), name), TODAY)
    (result,) = run_of(report, Path("/repo"))["results"]
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == uri


def test_default_policy_has_a_place_too() -> None:
    results = run_of(make_report(a_case({}), load_policy("default"), TODAY))["results"]
    assert len(results) == 3
    assert len({result["locations"][0]["physicalLocation"]["region"]["startLine"] for result in results}) == 3
