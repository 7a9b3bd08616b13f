"""The verdict for somebody who looks at a terminal or a CI log: why, in ten seconds."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sslmem.gate.report import Report
from sslmem.gate.rules import Outcome

STYLES: dict[Outcome, str] = {
    "passed": "green",
    "failed": "bold red",
    "undecided": "yellow",
    "unknown": "yellow",
    "waived": "cyan",
}
VERDICTS = {"passed": "bold green", "failed": "bold red", "inconclusive": "bold yellow"}


def print_report(report: Report, console: Console) -> None:
    """Prints what limits the audit, each rule, what is doubtful, what to look at, and last the verdict."""
    decision = report.decision
    for limit in report.case.notes:
        console.print(f"limit: {limit}", style="dim", markup=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    for heading in ("rule", "outcome", "metric", "required", "measured"):
        table.add_column(heading, overflow="fold")
    for result in decision.rules:
        measured = "-"
        if result.estimate is not None:
            measured = f"{result.estimate:.4g} ({result.low:.4g} to {result.high:.4g})"
        outcome = f"[{STYLES[result.outcome]}]{result.outcome}[/]"
        table.add_row(escape(result.rule), outcome, result.metric, result.requirement, measured)
    console.print(table)
    for result in decision.rules:
        for waiver in result.waivers:
            text = f"waived: {result.rule} by {waiver.approved_by} until {waiver.expires}: {waiver.reason}"
            console.print(text, style="cyan", markup=False, soft_wrap=True)
    for doubt in decision.doubts:
        console.print(f"doubt: {doubt}", style="yellow", markup=False, soft_wrap=True)
    for warning in decision.warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False, soft_wrap=True)
    console.print(decision.headline, style=VERDICTS[decision.verdict], markup=False, soft_wrap=True)
