"""The verdict as JUnit XML, a case per rule: what GitLab, Jenkins and others show as tests."""

import re
from xml.etree import ElementTree as ET

from sslmem.gate.decide import RuleResult
from sslmem.gate.report import Report

# XML 1.0 has no way to write these, escaped or not.
_FORBIDDEN = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render_junit(report: Report) -> str:
    """Renders a report.

    A violated rule is a failure; one that could not be decided is an error, as is evidence that bears no verdict; a
    waived one is skipped, with the waiver as the message.
    """
    decision = report.decision
    suite = ET.Element("testsuite", name="sslmem gate", timestamp=f"{report.day}T00:00:00", time="0")
    evidence = _case(suite, "evidence")
    if decision.doubts:
        _add(evidence, "error", "doubt", "\n".join(decision.doubts))
    for result in decision.rules:
        _outcome(_case(suite, result.rule), result)
    if decision.warnings:
        ET.SubElement(suite, "system-out").text = _clean("\n".join(decision.warnings))
    counts = {
        "tests": len(suite.findall("testcase")),
        "failures": len(suite.findall("testcase[failure]")),
        "errors": len(suite.findall("testcase[error]")),
        "skipped": len(suite.findall("testcase[skipped]")),
    }
    root = ET.Element("testsuites", name="sslmem gate", time="0")
    root.append(suite)
    for name, count in counts.items():
        suite.set(name, str(count))
        if name != "skipped":
            root.set(name, str(count))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def render_junit_error(reason: str) -> str:
    """Says that there is no verdict, and why."""
    root = ET.Element("testsuites", name="sslmem gate", time="0", tests="1", failures="0", errors="1")
    suite = ET.SubElement(
        root, "testsuite", name="sslmem gate", time="0", tests="1", failures="0", errors="1", skipped="0"
    )
    _add(_case(suite, "evidence"), "error", "not-evaluated", reason)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _outcome(case: ET.Element, result: RuleResult) -> None:
    match result.outcome:
        case "failed":
            _add(case, "failure", "violated", result.reason)
        case "undecided" | "unknown":
            _add(case, "error", result.outcome, result.reason)
        case "waived":
            who = "; ".join(f"waived by {w.approved_by} until {w.expires}: {w.reason}" for w in result.waivers)
            ET.SubElement(case, "skipped", message=_clean(f"{who} ({result.reason})"))
        case "passed":
            ET.SubElement(case, "system-out").text = _clean(result.reason)


def _case(suite: ET.Element, name: str) -> ET.Element:
    return ET.SubElement(suite, "testcase", classname="sslmem.gate", name=name, time="0")


def _add(case: ET.Element, kind: str, reason: str, message: str) -> None:
    ET.SubElement(case, kind, type=reason, message=_clean(message)).text = _clean(message)


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
