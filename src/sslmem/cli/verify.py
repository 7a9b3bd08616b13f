"""``sslmem verify``: whether a statement, a report and files belong together."""

from pathlib import Path
from typing import Annotated

import typer

from sslmem.cli.options import stderr
from sslmem.errors import StatementError
from sslmem.gate.decide import VIOLATED
from sslmem.gate.report import read_report
from sslmem.gate.statement import read_statement, verify_statement


def verify(
    statement: Annotated[Path, typer.Argument(help="That sslmem gate --statement wrote.")],
    report: Annotated[Path, typer.Option(help="That sslmem gate --json wrote with it.")],
    target: Annotated[list[Path] | None, typer.Option(help="Checkpoints that it must be about.")] = None,
) -> None:
    """Decides again from the report, and compares statement and files with it: 0 it holds, 1 it does not."""
    text, kept = read_statement(statement), read_report(report)
    try:
        verify_statement(text, kept, target or ())
    except StatementError as error:
        stderr.print(f"does not hold: {error.detail}", highlight=False, soft_wrap=True, markup=False)
        raise typer.Exit(VIOLATED) from error
    print(f"holds: {kept.decision.headline}")
