"""``sslmem verify``: whether a statement, a report, files and scores belong together, and who signed it."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from sslmem.cli.options import stderr
from sslmem.errors import SpecError, StatementError
from sslmem.gate.decide import VIOLATED
from sslmem.gate.report import Report, read_report
from sslmem.gate.signature import open_statement
from sslmem.gate.statement import file_digest, read_statement, verify_statement


def verify(
    statement: Annotated[Path, typer.Argument(help="That sslmem gate --statement wrote.")],
    report: Annotated[Path, typer.Option(help="That sslmem gate --json wrote with it.")],
    key: Annotated[list[Path] | None, typer.Option(help="Public keys in PEM; one must have signed it.")] = None,
    target: Annotated[list[Path] | None, typer.Option(help="Checkpoints that it must be about.")] = None,
    scores: Annotated[Path | None, typer.Option(help="That sslmem gate --scores wrote with it.")] = None,
    reference: Annotated[list[Path] | None, typer.Option(help="To score again: the references.")] = None,
    data: Annotated[Path | None, typer.Option(help="To score again: the dataset.")] = None,
    sample: Annotated[list[str] | None, typer.Option(help="To score again; without it, some at random.")] = None,
    rerun: Annotated[int, typer.Option(min=1, help="How many samples to score again at random.")] = 10,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda, to score again.")] = "auto",
) -> None:
    """Decides again from the report, and compares all that is given with the statement: 0 it holds, 1 it does not."""
    text, kept = read_statement(statement), read_report(report)
    try:
        verify_statement(open_statement(text, key or ()), kept, target or ())
        said = ["signed by a key that was given"] if key else []
        if scores is not None:
            said += _verify_scores(kept, scores, _Again(target, reference, data, sample, rerun, device))
        elif reference or data or sample:
            raise SpecError("to score again, the stored scores are needed; expected --scores as well")
    except StatementError as error:
        stderr.print(f"does not hold: {error.detail}", highlight=False, soft_wrap=True, markup=False)
        raise typer.Exit(VIOLATED) from error
    headline = kept.decision.headline
    print("holds: " + "; ".join([headline.rstrip("."), *said] if said else [headline]))


@dataclass(frozen=True)
class _Again:
    """What to score again, if anything."""

    targets: list[Path] | None
    references: list[Path] | None
    data: Path | None
    samples: list[str] | None
    number: int
    device: str

    @property
    def wanted(self) -> bool:
        """Whether anything is to be scored again.

        Raises:
            SpecError: something is missing for it.
        """
        if not (self.references or self.data or self.samples):
            return False
        if not (self.targets and self.references and self.data):
            raise SpecError("to score again, expected --target, --reference and --data")
        return True


def _verify_scores(report: Report, path: Path, again: _Again) -> list[str]:
    case = report.case
    if (digest := file_digest(path)) != case.files.get("scores"):
        raise StatementError(f"the report is not about the scores {path}, whose digest is {digest}")
    wanted = again.wanted

    from sslmem.datasets.source import open_dataset  # noqa: PLC0415  numpy, and below torch, take seconds to load
    from sslmem.merge import read_scores  # noqa: PLC0415
    from sslmem.rerun import check_evidence, load_used, rerun  # noqa: PLC0415
    from sslmem.scoring import pick_device  # noqa: PLC0415

    stored = read_scores(path)
    check_evidence(case, stored)
    said = [f"its metrics follow from {len(stored.rows)} scores"]
    if not wanted or again.data is None:
        return said
    if not again.data.is_dir() and (digest := file_digest(again.data)) != case.files.get("dataset"):
        raise StatementError(f"the statement is not about the dataset {again.data}, whose digest is {digest}")
    device, tensor = pick_device(again.device), stored.summary.spec.representation
    targets = load_used(case, "target", again.targets or (), device, tensor)
    references = load_used(case, "reference", again.references or (), device, tensor)
    names = [row.sample for row in stored.rows]
    chosen = again.samples or random.SystemRandom().sample(names, min(again.number, len(names)))
    with open_dataset(again.data) as dataset:
        results = rerun(stored, chosen, targets, references, dataset, device=device)
    for one in results:
        was, now = ("no score" if value is None else f"{value:+.6f}" for value in (one.was, one.now))
        mark = "agrees" if one.agrees else "DIFFERS"
        stderr.print(f"{one.sample}: {was}, now {now}: {mark}", highlight=False, soft_wrap=True, markup=False)
    if differing := [one.sample for one in results if not one.agrees]:
        raise StatementError(f"{len(differing)} of {len(results)} scores do not come out again, such as {differing[0]}")
    return [*said, f"{len(results)} of them came out again"]
