"""The statement says in in-toto's words what the report says; whatever differs is found."""

import hashlib
import json
from pathlib import Path

import pytest
from google.protobuf.json_format import ParseDict
from in_toto_attestation.predicates.test_result.v0.test_result_pb2 import TestResult as Result
from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as StatementProto

from sslmem.errors import EvidenceError, StatementError
from sslmem.gate.case import make_case
from sslmem.gate.report import Report, make_report
from sslmem.gate.statement import file_digest, make_statement, verify_statement
from tests.unit.cases import (
    FAILING,
    FILE,
    OTHER,
    SPEC,
    STRADDLING,
    TODAY,
    a_case,
    a_policy_file,
    a_report,
    a_rule,
    a_waiver,
    evidence,
    summary,
)


def test_statement_is_an_in_toto_test_result_about_the_targets_file() -> None:
    report = a_report()
    statement = json.loads(make_statement(report))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    assert statement["subject"] == [{"name": "f.pth", "digest": {"sha256": FILE.removeprefix("sha256:")}}]
    predicate = statement["predicate"]
    assert (predicate["result"], predicate["passedTests"]) == ("PASSED", ["separation"])
    assert predicate["warnedTests"] == predicate["failedTests"] == []


@pytest.mark.parametrize("report", [a_report(), a_report(a_case(FAILING)), a_report(a_case(STRADDLING))])
def test_statement_is_read_by_in_totos_own_library(report: Report) -> None:
    statement = json.loads(make_statement(report))
    Statement.copy_from_pb(ParseDict(statement, StatementProto())).validate()
    result = ParseDict(statement["predicate"], Result())
    assert result.result == statement["predicate"]["result"]
    for part in result.configuration:
        ResourceDescriptor.copy_from_pb(part).validate()


def test_statement_names_all_that_the_verdict_rests_on() -> None:
    report = a_report()
    found = {
        part["name"]: part["digest"]["sha256"]
        for part in json.loads(make_statement(report))["predicate"]["configuration"]
    }
    assert found == {
        "policy": report.policy.digest.removeprefix("sha256:"),
        "score-spec": SPEC.removeprefix("sha256:"),
        "report": report.digest.removeprefix("sha256:"),
        "reference:g.pth": OTHER.removeprefix("sha256:"),
        "dataset": SPEC.removeprefix("sha256:"),
        "roles": SPEC.removeprefix("sha256:"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("report", "result", "tests"),
    [
        (a_report(a_case(FAILING)), "FAILED", "failedTests"),
        (a_report(a_case(STRADDLING)), "FAILED", "failedTests"),
        (a_report(a_case(STRADDLING), on_inconclusive="warn"), "WARNED", "failedTests"),
        (a_report(a_case(FAILING), waivers=[a_waiver()]), "WARNED", "warnedTests"),
    ],
)
def test_only_a_plain_pass_is_stated_as_passed(report: Report, result: str, tests: str) -> None:
    predicate = json.loads(make_statement(report))["predicate"]
    assert predicate["result"] == result
    assert predicate[tests] == ["separation"]
    assert predicate["passedTests"] == []


def test_statement_needs_the_digests_of_the_files() -> None:
    with pytest.raises(EvidenceError, match="digests of the targets' files are not known"):
        make_statement(a_report(a_case(files={})))


def test_statement_holds_for_its_report_and_its_file(tmp_path: Path) -> None:
    target = tmp_path / "f.pth"
    target.write_bytes(b"weights")
    digest = "sha256:" + hashlib.sha256(b"weights").hexdigest()
    report = a_report(a_case(files={"target:f.pth": digest}))
    verify_statement(make_statement(report), report, [target])
    target.write_bytes(b"other weights")
    with pytest.raises(StatementError, match=f"is not about .*f.pth, whose digest is {file_digest(target)}"):
        verify_statement(make_statement(report), report, [target])


def test_statement_of_another_report_does_not_hold() -> None:
    with pytest.raises(StatementError, match="predicate is not what the report says"):
        verify_statement(make_statement(a_report()), a_report(a_case(FAILING)))


@pytest.mark.parametrize("key", ["_type", "subject", "predicateType", "predicate"])
def test_statement_with_any_part_changed_does_not_hold(key: str) -> None:
    statement = json.loads(make_statement(a_report()))
    with pytest.raises(StatementError, match=key):
        verify_statement(json.dumps({**statement, key: "x"}), a_report())
    with pytest.raises(StatementError, match=key):
        verify_statement(json.dumps({name: value for name, value in statement.items() if name != key}), a_report())


def test_statement_that_another_tool_made_of_the_predicate_holds() -> None:
    """cosign writes the older type, and a name of its own."""
    statement = json.loads(make_statement(a_report()))
    statement["_type"] = "https://in-toto.io/Statement/v0.1"
    statement["subject"][0]["name"] = "somewhere/f.pth"
    verify_statement(json.dumps(statement), a_report())
    statement["subject"][0]["digest"]["sha256"] = "0" * 64
    with pytest.raises(StatementError, match="subject is not what the report says"):
        verify_statement(json.dumps(statement), a_report())


def test_baselines_are_in_the_statement() -> None:
    rules = {"rules": [a_rule(value=0.1, baseline="last.json")]}
    report = make_report(a_case(), a_policy_file(**rules), TODAY, {"last.json": a_case()})
    names = [part["name"] for part in json.loads(make_statement(report))["predicate"]["configuration"]]
    assert "baseline:last.json" in names


@pytest.mark.parametrize("digest", ["md5:00", "sha256:00", ""])
def test_digest_that_is_none_is_refused(digest: str) -> None:
    with pytest.raises(EvidenceError, match="not of the expected form"):
        make_case(evidence({}), summary(), files={"target:f.pth": digest})


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_what_is_no_statement_does_not_hold(text: str) -> None:
    with pytest.raises(StatementError, match="expected a"):
        verify_statement(text, a_report())


def test_verdict_that_does_not_follow_from_the_evidence_does_not_hold() -> None:
    honest, better = a_report(a_case(FAILING)), a_report()
    forged = honest.model_copy(update={"decision": better.decision})
    with pytest.raises(StatementError, match="does not follow from its evidence and policy"):
        verify_statement(make_statement(forged), forged)
