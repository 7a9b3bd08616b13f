"""The verdict as Markdown: the job summary of GitHub, or a comment."""

import re

from sslmem.gate.report import Report

SHOWN = 10
SIGNS = {
    "passed": "✅", "failed": "❌", "inconclusive": "❔", "undecided": "❔", "unknown": "❔", "waived": "⚠️"
}  # fmt: skip


def render_markdown(report: Report) -> str:
    """Renders a report for people who read a job's page."""
    decision, case = report.decision, report.case
    lines = [
        f"## {SIGNS[decision.verdict]} Memorization gate: {decision.verdict}",
        "",
        _text(decision.headline),
        "",
        "| rule | outcome | metric | required | measured |",
        "|---|---|---|---|---|",
    ]
    for result in decision.rules:
        measured = "-"
        if result.estimate is not None:
            measured = f"{result.estimate:.4g} ({result.low:.4g} to {result.high:.4g})"
        cells = (
            result.rule, f"{SIGNS[result.outcome]} {result.outcome}", result.metric, result.requirement, measured
        )  # fmt: skip
        lines.append("| " + " | ".join(map(_text, cells)) + " |")
    lines.append("")
    for result in decision.rules:
        lines += [
            f"* Waived: {_text(result.rule)} by {_text(waiver.approved_by)} until {waiver.expires}: "
            f"{_text(waiver.reason)}"
            for waiver in result.waivers
        ]
    lines += [f"* Doubt: {_text(doubt)}" for doubt in decision.doubts]
    lines += [f"* Warning: {_text(warning)}" for warning in decision.warnings]
    lines += [f"* Limit: {_text(limit)}" for limit in case.notes]
    if case.significant:
        rate = f"{case.fdr:.3g}"
        lines += ["", f"### {len(case.significant)} candidates memorized at a false discovery rate of {rate}", ""]
        lines += ["| sample | score | q-value |", "|---|---|---|"]
        first = sorted(case.significant, key=lambda sample: (sample.q_value, -sample.score))[:SHOWN]
        lines += [f"| {_text(row.sample)} | {row.score:+.4f} | {row.q_value:.3g} |" for row in first]
    origin = f"Policy {_text(report.policy.name)}, {report.policy.digest}; score spec {case.spec_digest}"
    lines += ["", f"{origin}; report {report.digest}; sslmem {report.sslmem_version}, {report.day}."]
    return "\n".join(lines) + "\n"


def render_not_evaluated(reason: str) -> str:
    """Says that there is no verdict, and why."""
    return f"## {SIGNS['failed']} Memorization gate: not evaluated\n\n{_text(reason)}\n"


def _text(text: str) -> str:
    """Text that stays text: names of samples and waivers come from others, and could hold links or tables."""
    return re.sub(r"([\\`*_{}\[\]()<>#|~!@])", r"\\\1", " ".join(text.split())).replace("&", "&amp;")
