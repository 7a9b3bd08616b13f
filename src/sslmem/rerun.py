"""Scores that were stored, checked: whether the evidence follows from them, and whether they come out again."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from sslmem.datasets.source import Dataset
from sslmem.encoders.encoder import Encoder
from sslmem.encoders.load import load_checkpoint
from sslmem.errors import StatementError
from sslmem.gate.case import Case, EncoderUsed
from sslmem.gate.statement import file_digest
from sslmem.merge import StoredScores
from sslmem.report.evidence import gather_evidence
from sslmem.report.rows import ScoreRow
from sslmem.samples import read_samples
from sslmem.scoring import SampleScore, Scorer

# Of both alignments together: other machines, batches and devices round differently (docs/numerics.md).
TOLERANCE = 1e-4
# With a lower precision the error of a score may be a tenth of its standard error, root mean square over samples.
LOW_PRECISION_ERRORS = 0.5


@dataclass(frozen=True)
class Rerun:
    """A score that was computed again.

    Attributes:
        sample: its path.
        was: the score as it was stored; None if the sample was skipped.
        now: the score that came out.
        agrees: whether they are the same but for rounding, and of the same image.
    """

    sample: str
    was: float | None
    now: float | None
    agrees: bool


def check_evidence(case: Case, scores: StoredScores) -> None:
    """Checks that a case's metrics follow from the scores.

    Raises:
        StatementError: one does not, or the scores are of other encoders or another spec.
    """
    summary = scores.summary
    for name in ("spec_digest", "target_digests", "reference_digests"):
        if getattr(summary, name) != getattr(case, name):
            raise StatementError(f"the scores' {name} is not the report's")
    if not case.metrics:
        return
    confidence = next(iter(case.metrics.values())).confidence
    found = gather_evidence(scores.rows, summary, confidence=confidence, fdr=case.fdr).metrics
    for name, measure in case.metrics.items():
        metric = found.get(name)
        if metric is None:
            raise StatementError(f"the report has {name}, which does not follow from the scores")
        for kept, computed in (
            (measure.low, metric.low),
            (measure.estimate, metric.estimate),
            (measure.high, metric.high),
        ):
            if kept is not None and not math.isclose(kept, computed, rel_tol=1e-9, abs_tol=1e-12):
                raise StatementError(f"{name} is {computed:.6g} by the scores, and {kept:.6g} in the report")


def load_used(case: Case, part: str, paths: Sequence[Path], device: torch.device, representation: str) -> list[Encoder]:
    """Loads the encoders of a case from their files, as they were read then, in the case's order.

    Raises:
        StatementError: the files given are not those of the case, or the case does not say how they were read.
    """
    given = {file_digest(path): path for path in paths}
    used = [encoder for encoder in case.encoders if encoder.part == part]
    if not used:
        raise StatementError(f"the report does not say how its {part}s were read; it cannot be scored again")
    for encoder in used:
        if encoder.file not in given:
            raise StatementError(f"expected the {part} with digest {encoder.file} among the files")
    return [_load(encoder, given[encoder.file], device, representation) for encoder in used]


def _load(encoder: EncoderUsed, path: Path, device: torch.device, representation: str) -> Encoder:
    return load_checkpoint(
        path,
        architecture=encoder.architecture,
        input_size=encoder.input_size,
        mean=encoder.mean,
        std=encoder.std,
        representation=representation,
        device=str(device),
    )


def rerun(
    scores: StoredScores,
    names: Sequence[str],
    targets: Sequence[Encoder],
    references: Sequence[Encoder],
    dataset: Dataset,
    *,
    device: torch.device,
) -> list[Rerun]:
    """Computes scores again.

    Args:
        scores: as they were stored.
        names: of the samples.
        targets: of these scores.
        references: likewise.
        dataset: with the images.
        device: where the encoders are.

    Raises:
        StatementError: a sample has no stored score.
    """
    rows = {row.sample: row for row in scores.rows}
    if missing := [name for name in names if name not in rows]:
        raise StatementError(f"the scores have no sample {missing[0]}")
    spec, found = scores.summary.spec, []
    exact = all(condition.precision == "float32" for condition in scores.summary.conditions)
    for views in sorted({rows[name].num_views or spec.views for name in names}):  # those of a second stage had more
        stage = spec.model_copy(update={"views": views, "refine": None})
        wanted = [name for name in names if (rows[name].num_views or spec.views) == views]
        for batch in Scorer(targets, references, stage, device=device).score(read_samples(dataset, wanted)):
            found += [_compare(rows[score.name], score, exact=exact) for score in batch]
    return found


def _compare(row: ScoreRow, score: SampleScore, *, exact: bool) -> Rerun:
    agrees = score.key == row.sample_key
    if row.score is None or score.score is None:
        agrees = agrees and row.score is score.score
    else:
        both = (row.alignment_target or 0.0) + (row.alignment_reference or 0.0)
        allowed = TOLERANCE * both if exact else LOW_PRECISION_ERRORS * (row.standard_error or 0.0) + TOLERANCE * both
        agrees = agrees and abs(score.score - row.score) <= allowed
    return Rerun(row.sample, row.score, score.score, agrees)
