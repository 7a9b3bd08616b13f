"""The report carries its digest, and all that it takes to decide again."""

import json
from pathlib import Path

import pytest

from sslmem.errors import EvidenceError
from sslmem.gate.decide import decide
from sslmem.gate.report import read_report
from tests.unit.cases import AUC, FAILING, a_case, a_report, a_waiver


def test_report_comes_back_as_it_was_written(tmp_path: Path) -> None:
    report = a_report(a_case(FAILING), waivers=[a_waiver()])
    path = tmp_path / "report.json"
    path.write_text(report.to_json())
    assert read_report(path) == report


def test_verdict_follows_from_the_report_alone(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(a_report(a_case(FAILING)).to_json())
    kept = read_report(path)
    assert decide(kept.case, kept.policy.content, kept.day, kept.baselines) == kept.decision


def test_json_has_version_verdict_and_digest() -> None:
    report = a_report(a_case(FAILING))
    content = json.loads(report.to_json())
    assert (content["schema_version"], content["decision"]["verdict"]) == (1, "failed")
    assert content["digest"] == report.digest
    assert content["policy"]["name"] == "ci/policy.yaml"
    assert content["case"]["metrics"][AUC]["estimate"] == 0.72


def test_same_case_has_the_same_digest_and_another_has_another() -> None:
    assert a_report().digest == a_report().digest != a_report(a_case(FAILING)).digest


def test_changed_report_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(a_report(a_case(FAILING)).to_json().replace('"failed"', '"passed"'))
    with pytest.raises(EvidenceError, match="was changed since it was written"):
        read_report(path)


@pytest.mark.parametrize("text", ["", "[]", "5", "{}", '{"digest": "sha256:0"}', '{"digest": 1, "schema_version": 9}'])
def test_what_is_no_report_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(EvidenceError, match="expected a report of sslmem gate --json"):
        read_report(path)


def test_missing_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match="not readable"):
        read_report(tmp_path / "report.json")
