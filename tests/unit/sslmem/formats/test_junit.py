"""JUnit XML as GitLab and Jenkins read it: valid by the rules of Jenkins' schema, told anew beside this file."""

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from xmlschema import XMLSchema, XMLSchemaException

from sslmem.formats.junit import render_junit, render_junit_error
from sslmem.gate.report import Report
from tests.unit.cases import FAILING, STRADDLING, a_case, a_report, a_rule, a_waiver

SCHEMA = XMLSchema(Path(__file__).with_name("junit.xsd"))
REPORTS = {
    "passed": a_report(),
    "failed": a_report(a_case(FAILING)),
    "undecided": a_report(a_case(STRADDLING)),
    "unknown": a_report(a_case({})),
    "waived": a_report(a_case(FAILING), waivers=[a_waiver()]),
    "doubted": a_report(minimum={"references": 2, "samples": {"shared": 1}}),
}


def suite_of(report: Report) -> ET.Element:
    root = ET.fromstring(render_junit(report))
    assert root.tag == "testsuites"
    (suite,) = root
    return suite


def case_of(report: Report, name: str = "separation") -> ET.Element:
    (case,) = (case for case in suite_of(report).iter("testcase") if case.get("name") == name)
    return case


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_results_are_valid_by_the_schema(report: Report) -> None:
    SCHEMA.validate(render_junit(report))


def test_error_instead_of_a_verdict_is_valid_by_the_schema() -> None:
    text = render_junit_error("the service does not answer [service-unreachable]")
    SCHEMA.validate(text)
    (error,) = ET.fromstring(text).iter("error")
    assert error.get("message") == "the service does not answer [service-unreachable]"


@pytest.mark.parametrize(
    ("found", "instead"), [('name="separation"', ""), ("<failure", "<fault"), ('tests="2"', 'tests="x"')]
)
def test_schema_refuses_other_results(found: str, instead: str) -> None:
    text = render_junit(REPORTS["failed"])
    assert found in text
    with pytest.raises(XMLSchemaException):
        SCHEMA.validate(
            text.replace(found, instead).replace("</failure", "</fault" if "fault" in instead else "</failure")
        )


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_structure_is_that_of_junit(report: Report) -> None:
    suite = suite_of(report)
    assert suite.tag == "testsuite"
    assert {"name", "tests", "failures", "errors", "skipped", "time", "timestamp"} <= set(suite.keys())
    assert {child.tag for child in suite} <= {"testcase", "system-out"}
    for case in suite.iter("testcase"):
        assert {"classname", "name", "time"} <= set(case.keys())
        assert [child.tag for child in case] in ([], ["failure"], ["error"], ["skipped"], ["system-out"])
        for child in case:
            assert child.tag == "system-out" or child.get("message")


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_counts_are_those_of_the_cases(report: Report) -> None:
    suite = suite_of(report)
    for name, path in (("tests", ""), ("failures", "[failure]"), ("errors", "[error]"), ("skipped", "[skipped]")):
        assert int(suite.get(name, "-1")) == len(suite.findall(f"testcase{path}"))


def test_each_rule_has_a_case_and_so_has_the_evidence() -> None:
    suite = suite_of(a_report(rules=[a_rule(), a_rule(id="other")]))
    assert [case.get("name") for case in suite.iter("testcase")] == ["evidence", "separation", "other"]


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("failed", "failure"),
        ("undecided", "error"),
        ("unknown", "error"),
        ("waived", "skipped"),
        ("passed", "system-out"),
    ],
)
def test_outcome_of_a_rule(name: str, tag: str) -> None:
    (child,) = case_of(REPORTS[name])
    assert child.tag == tag
    if name == "waived":
        assert "waived by Ada until 2026-12-24: Known since March" in (child.get("message") or "")


def test_evidence_that_bears_no_verdict_is_an_error_with_all_doubts() -> None:
    (child,) = case_of(REPORTS["doubted"], "evidence")
    assert child.tag == "error"
    assert "2" in (child.text or "")
    assert "0 shared samples" in (child.text or "")


def test_characters_that_xml_does_not_have_are_replaced() -> None:
    reason = "Known \x00 since \x1b[31m March \ud800 and < & \" ' later."
    report = a_report(a_case(FAILING))
    result = report.decision.rules[0].model_copy(update={"reason": reason})
    decision = report.decision.model_copy(update={"rules": [result]})
    (child,) = case_of(report.model_copy(update={"decision": decision}))
    assert child.get("message") == "Known � since �[31m March � and < & \" ' later."
