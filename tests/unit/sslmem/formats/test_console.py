"""The terminal shows each rule and ends with the verdict."""

import io

from rich.console import Console

from sslmem.formats.console import print_report
from sslmem.gate.report import Report
from tests.unit.cases import FAILING, a_case, a_report, a_waiver


def shown(report: Report) -> list[str]:
    buffer = io.StringIO()
    print_report(report, Console(file=buffer, width=140, highlight=False))
    return [line.rstrip() for line in buffer.getvalue().splitlines()]


def test_last_line_is_the_verdict_with_its_reason() -> None:
    assert shown(a_report())[-1] == "Passed: the rule holds."
    assert shown(a_report(a_case(FAILING)))[-1].startswith("Failed: separation: candidate.auc is 0.72 ")


def test_each_rule_is_one_line_with_what_was_required_and_measured() -> None:
    (line,) = (line for line in shown(a_report(a_case(FAILING))) if line.startswith("separation"))
    assert line.split() == ["separation", "failed", "candidate.auc", "<=", "0.6", "0.72", "(0.7", "to", "0.74)"]


def test_doubts_warnings_waivers_and_limits_are_told_apart() -> None:
    waivers = [a_waiver(reason="Known [bold]since[/bold] March, see ticket 7."), a_waiver(days=-1)]
    lines = shown(a_report(a_case(FAILING), waivers=waivers, minimum={"references": 2}))
    assert lines[0] == "limit: It rests on one reference."
    assert "waived: separation by Ada until 2026-12-24: Known [bold]since[/bold] March, see ticket 7." in lines
    assert "doubt: number of references: 1; the policy asks for 2" in lines
    assert any(line.startswith("warning: the waiver of separation by Ada does not count") for line in lines)
