"""Stored scores, checked: of the right samples? does the evidence follow from them? do they come out again?

Nothing that the scores' file says of itself decides how much it may be wrong: whoever forged it wrote that, too.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from sslmem.datasets.source import Dataset
from sslmem.encoders.encoder import Encoder
from sslmem.encoders.load import load_checkpoint
from sslmem.errors import StatementError
from sslmem.gate.case import Case, EncoderUsed
from sslmem.gate.statement import file_digest
from sslmem.local import as_row, census
from sslmem.merge import StoredScores
from sslmem.report.checks import EncoderQuality, check_images
from sslmem.report.evidence import Metric, gather_evidence
from sslmem.report.quality import measure_quality
from sslmem.report.rows import ScoreRow
from sslmem.roles import Role
from sslmem.samples import read_samples
from sslmem.scoring import Scorer
from sslmem.sequential import drawn

# Of both alignments together: other machines, batches and devices round differently (docs/numerics.md).
TOLERANCE = 1e-4
# With a lower precision the error of a score may be a tenth of its standard error, root mean square over samples.
LOW_PRECISION_ERRORS = 0.5
EXACT = {"rel_tol": 1e-9, "abs_tol": 1e-12}


@dataclass(frozen=True)
class Rerun:
    """A score that was computed again.

    Attributes:
        sample: its path.
        was: the score as it was stored; None if the sample was skipped.
        now: the score that came out.
        agrees: whether the whole row is the same but for rounding, and of the same image.
    """

    sample: str
    was: float | None
    now: float | None
    agrees: bool


def check_samples(case: Case, scores: StoredScores, roles: Mapping[str, Role]) -> None:
    """Checks that the scores are of the samples that have roles, all of them or those that were drawn, in their roles.

    Raises:
        StatementError: they are not.
    """
    expected = set(roles) if case.drawn is None else drawn(roles, case.drawn.share, case.drawn.seed)
    found = {row.sample for row in scores.rows}
    if missing := sorted(expected - found):
        raise StatementError(f"{len(missing)} samples have a role and no score, such as {missing[0]}")
    if added := sorted(found - expected):
        raise StatementError(f"{len(added)} scores are of samples that were not to be scored, such as {added[0]}")
    for row in scores.rows:
        if row.role != roles[row.sample]:
            raise StatementError(f"{row.sample} is {roles[row.sample]} by the roles, and {row.role} in the scores")


def check_evidence(
    case: Case,
    scores: StoredScores,
    *,
    roles: Mapping[str, Role] | None = None,
    quality: EncoderQuality | None = None,
    dataset: Dataset | None = None,
) -> None:
    """Checks that all of a case that scores tell follows from them: metrics, counts, memorized samples, checks.

    Args:
        case: of the gate.
        scores: of the same gate.
        roles: of the samples.
        quality: of the encoders, measured again; without it, the checks that rest on it are left out.
        dataset: with the images; without it, the checks that compare images are left out.

    Raises:
        StatementError: something does not follow, or the scores are of other encoders or another spec.
    """
    summary = scores.summary
    for name in ("spec_digest", "target_digests", "reference_digests"):
        if getattr(summary, name) != getattr(case, name):
            raise StatementError(f"the scores' {name} is not the report's")
    if twice := [name for name, count in Counter(row.sample for row in scores.rows).items() if count > 1]:
        raise StatementError(f"the scores have {twice[0]} more than once")
    confidences = {measure.confidence for measure in case.metrics.values()} or {0.95}  # of no metric, any will do
    if len(confidences) != 1:
        raise StatementError(f"expected metrics of one confidence; the report has {sorted(confidences)}")
    if case.audit is not None:  # a service has no images or encoders at hand when it gathers evidence
        quality = dataset = None
    anew = dataset is not None and case.drawn is not None and roles is not None  # as the gate made them
    found = gather_evidence(
        scores.rows,
        summary,
        confidence=confidences.pop(),
        fdr=case.fdr,
        quality=quality,
        read_image=None if dataset is None or anew else dataset.read,
        checked_before=check_images(census(dataset, roles), dataset.read) if anew else (),  # type: ignore[arg-type,union-attr]
    )
    _check_metrics(case, found.metrics)
    _check_counts(case, scores)
    listed, computed = ({one.sample for one in part} for part in (case.significant, found.significant))
    if listed != computed:
        raise StatementError(f"by the scores {len(computed)} samples are memorized, and not the {len(listed)} listed")
    _check_checks(case, {check.id: check.status for check in found.checks}, images=dataset is not None, quality=quality)


def _check_metrics(case: Case, computed: Mapping[str, Metric]) -> None:
    if computed.keys() != case.metrics.keys():
        different = sorted(computed.keys() ^ case.metrics.keys())
        raise StatementError(f"the metric {different[0]} is in only one of the report and what follows from the scores")
    for name, measure in case.metrics.items():
        for end in ("low", "estimate", "high", "n"):
            kept, found = getattr(measure, end), getattr(computed[name], end)
            if not _same(kept, found):
                raise StatementError(f"{name} has {end} {found:.6g} by the scores, and {kept} in the report")


def _same(kept: float | None, computed: float) -> bool:
    if kept is None:
        return not math.isfinite(computed)
    return math.isclose(kept, computed, **EXACT)


def _check_counts(case: Case, scores: StoredScores) -> None:
    by_role = Counter(row.role for row in scores.rows if row.score is not None)
    skipped = sum(row.skipped is not None for row in scores.rows)
    found = ({name: count for name, count in case.samples.items() if count}, case.num_samples, case.num_skipped)
    expected = ({str(role): count for role, count in by_role.items()}, len(scores.rows), skipped)
    if found != expected:
        raise StatementError(
            f"the report counts {found[1]} samples, {found[2]} of them skipped, {found[0]} by role; "
            f"the scores say {expected[1]}, {expected[2]}, {expected[0]}"
        )


def _check_checks(case: Case, computed: Mapping[str, str], *, images: bool, quality: EncoderQuality | None) -> None:
    """Compares the statuses of checks as far as what they rest on is at hand."""
    resting: dict[str, Callable[[], bool]] = {
        "few-twins": lambda: images,
        "roles-apart": lambda: images or case.drawn is None,
        "reference-matches": lambda: quality is not None,
        "not-collapsed": lambda: quality is not None,
        "encoders-plausible": lambda: quality is not None,
    }
    stated = {check.id: check.status for check in case.checks}
    if stated.keys() != computed.keys():
        raise StatementError("the report's validity checks are not those that are made")
    for name, status in computed.items():
        complete = case.audit is not None or resting.get(name, lambda: True)()
        # What fails without the missing part fails with it, too.
        if status != stated[name] and (complete or status == "failed"):
            raise StatementError(f"the check {name} is {status} by the scores, and {stated[name]} in the report")


def load_used(case: Case, part: str, paths: Sequence[Path], device: torch.device, representation: str) -> list[Encoder]:
    """Loads the encoders of a case from their files, as they were read then, in the case's order.

    Raises:
        StatementError: the files given are not those of the case, or the case does not say how they were read.
    """
    given = {file_digest(path): path for path in paths}
    used = [encoder for encoder in case.encoders if encoder.part == part]
    digests = case.target_digests if part == "target" else case.reference_digests
    if len(used) != len(digests):
        raise StatementError(f"the report does not say how its {part}s were read; it cannot be scored again")
    for encoder in used:
        if encoder.file not in given:
            raise StatementError(f"expected the {part} with digest {encoder.file} among the files")
    loaded = [_load(encoder, given[encoder.file], device, representation) for encoder in used]
    if [encoder.weights_digest for encoder in loaded] != digests:
        raise StatementError(f"the weights of a {part} are not those that were scored")
    return loaded


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


def quality_of(
    scores: StoredScores,
    roles: Mapping[str, Role],
    targets: Sequence[Encoder],
    references: Sequence[Encoder],
    dataset: Dataset,
    *,
    device: torch.device,
) -> EncoderQuality | None:
    """Measures the quality of encoders as the gate did."""
    null = [name for name, role in roles.items() if role == "external"]
    return measure_quality(targets, references, read_samples(dataset, null), scores.summary.spec, device=device)


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
    spec = scores.summary.spec.model_copy(update={"refine": None})
    scorer = Scorer(targets, references, spec, device=device)
    found = [as_row(one, None) for batch in scorer.score(read_samples(dataset, names)) for one in batch]
    exact = spec.precision == "float32"
    return [
        Rerun(now.sample, rows[now.sample].score, now.score, _agrees(rows[now.sample], now, exact)) for now in found
    ]


def _agrees(was: ScoreRow, now: ScoreRow, exact: bool) -> bool:
    """Whether a stored row is what came out; the tolerance rests on what came out alone."""
    if was.sample_key != now.sample_key or (was.skipped is None) != (now.skipped is None):
        return False
    if now.score is None or now.alignment_target is None or now.alignment_reference is None:
        return was.score is None
    both = now.alignment_target + now.alignment_reference
    allowed = TOLERANCE * both + (0.0 if exact else LOW_PRECISION_ERRORS * (now.standard_error or 0.0))
    pairs = [
        (was.score, now.score, allowed),
        (was.alignment_target, now.alignment_target, allowed),
        (was.alignment_reference, now.alignment_reference, allowed),
        (was.score_bounded, now.score_bounded, 2 * allowed / both if both else 0.0),
        (was.standard_error, now.standard_error, allowed),
        (was.num_views, now.num_views, 0.0),
    ]
    return all(
        (kept is None and computed is None)
        or (kept is not None and computed is not None and abs(kept - computed) <= bound)
        for kept, computed, bound in pairs
    )
