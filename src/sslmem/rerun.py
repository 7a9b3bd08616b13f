"""Stored scores, checked: of the right samples? does the evidence follow from them? do they come out again?

Nothing that the scores' file says of itself decides how much it may be wrong: whoever forged it wrote that, too.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from sslmem.datasets.source import Dataset
from sslmem.encoders.encoder import Encoder
from sslmem.encoders.load import load_checkpoint
from sslmem.encoders.sanity import suspicions
from sslmem.errors import StatementError
from sslmem.gate.case import Case, EncoderUsed, order_seed
from sslmem.gate.decide import decide
from sslmem.gate.report import Report
from sslmem.gate.statement import file_digest
from sslmem.local import as_row, census
from sslmem.merge import StoredScores
from sslmem.report.checks import EncoderQuality, check_images
from sslmem.report.evidence import Metric, gather_evidence
from sslmem.report.quality import measure_quality
from sslmem.report.rows import ScoreRow
from sslmem.roles import ROLES, Role, roles_digest
from sslmem.samples import read_samples
from sslmem.scoring import Scorer
from sslmem.sequential import drawn, plan
from sslmem.spec import ScoreSpec
from sslmem.stopping import confidence_of, is_certain, rounds

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


def check_samples(report: Report, scores: StoredScores, roles: Mapping[str, Role]) -> None:
    """Checks that the scores are of the samples that have roles, all of them or those that were drawn, in their roles.

    Where scoring could stop early: that it stopped at one of the looks there are, with the confidence of that look, and
    only because the verdict was certain; and that the samples are those whose turn it was.

    Raises:
        StatementError: they are not.
    """
    case, expected = report.case, set(roles)
    if case.drawn is not None:
        seed = order_seed(roles_digest(roles), case.target_digests, case.reference_digests)
        expected = drawn(roles, case.drawn.share, seed)
        _check_stop(report, scores.summary.spec, roles)
    found = {row.sample for row in scores.rows}
    if missing := sorted(expected - found):
        raise StatementError(f"{len(missing)} samples have a role and no score, such as {missing[0]}")
    if added := sorted(found - expected):
        raise StatementError(f"{len(added)} scores are of samples that were not to be scored, such as {added[0]}")
    for row in scores.rows:
        if row.role != roles[row.sample]:
            raise StatementError(f"{row.sample} is {roles[row.sample]} by the roles, and {row.role} in the scores")


def _check_stop(report: Report, spec: ScoreSpec, roles: Mapping[str, Role]) -> None:
    case, policy = report.case, report.policy.content
    if case.drawn is None:
        return
    stages = rounds(spec.model_copy(update={"views": case.drawn.views}), policy)
    if spec.views not in {stage.views for stage in stages}:
        raise StatementError(f"a gate that may stop early does not score with {spec.views} of {case.drawn.views} views")
    sizes = {role: list(roles.values()).count(role) for role in ROLES}
    planned = plan(sizes, confidence=confidence_of(stages, policy), least=policy.minimum.samples)
    levels = [level for share, _, level in planned if math.isclose(share, case.drawn.share, **EXACT)]
    if not levels:
        raise StatementError(f"there is no look at {case.drawn.share:g} of the samples")
    if any(not math.isclose(measure.confidence, levels[0], **EXACT) for measure in case.metrics.values()):
        raise StatementError(f"at this look metrics have confidence {levels[0]:.6g}; the report has another")
    all_samples = case.drawn.share == 1
    last = all_samples and spec.views == case.drawn.views
    if not last and not is_certain(report.decision, policy, all_samples=all_samples):
        raise StatementError("scoring stopped before the verdict was certain")


def check_evidence(
    report: Report,
    scores: StoredScores,
    *,
    roles: Mapping[str, Role] | None = None,
    quality: EncoderQuality | None = None,
    dataset: Dataset | None = None,
) -> None:
    """Checks that all of a case that scores tell follows from them: metrics, counts, memorized samples, checks.

    Args:
        report: of the gate.
        scores: of the same gate.
        roles: of the samples.
        quality: of the encoders, measured again; without it, the checks that rest on it are left out.
        dataset: with the images; without it, the checks that compare images are left out.

    Raises:
        StatementError: something does not follow, or the scores are of other encoders or another spec.
    """
    case, summary = report.case, scores.summary
    _check_names(case, scores)
    confidences = {measure.confidence for measure in case.metrics.values()} or {0.95}  # of no metric, any will do
    if len(confidences) != 1:
        raise StatementError(f"expected metrics of one confidence; the report has {sorted(confidences)}")
    anew = dataset is not None and case.drawn is not None and roles is not None  # as the gate made them
    try:
        found = gather_evidence(
            scores.rows,
            summary,
            confidence=confidences.pop(),
            fdr=case.fdr,
            quality=quality,
            read_image=None if dataset is None or anew else dataset.read,
            checked_before=check_images(census(dataset, roles), dataset.read) if anew else (),  # type: ignore[arg-type,union-attr]
            suspicions=[doubt for encoder in case.encoders for doubt in encoder.doubts],
        )
    except (ValueError, IndexError, TypeError) as error:
        raise StatementError(f"no evidence can be had of such scores at such levels ({error})") from error
    _check_metrics(case, found.metrics)
    _check_counts(case, scores)
    listed, computed = (
        {one.sample: (one.score, one.p_value, one.q_value) for one in part}
        for part in (case.significant, found.significant)
    )
    if listed.keys() != computed.keys() or any(
        not _same(kept, value) for name in listed for kept, value in zip(listed[name], computed[name], strict=True)
    ):
        raise StatementError(f"by the scores {len(computed)} samples are memorized, and not the {len(listed)} listed")
    if quality is not None and case.audit is None and list(found.limits) != list(case.limits):
        raise StatementError("the limits that the report states are not those of such evidence")
    statuses = {check.id: check.status for check in found.checks}
    if case.audit is None:
        _check_checks(case, statuses, images=dataset is not None, quality=quality)
    else:
        _check_with_all(report, statuses)


def _check_names(case: Case, scores: StoredScores) -> None:
    """Checks that scores and report are of the same encoders and spec, and that no sample is there twice."""
    summary = scores.summary
    for name in ("spec_digest", "target_digests", "reference_digests"):
        if getattr(summary, name) != getattr(case, name):
            raise StatementError(f"the scores' {name} is not the report's")
    if summary.spec.digest != case.spec_digest:
        raise StatementError("the digest of the score spec is not that of the spec that the scores have")
    if (case.num_targets, case.num_references) != (len(case.target_digests), len(case.reference_digests)):
        raise StatementError("the report counts other encoders than it names")
    if twice := [name for name, count in Counter(row.sample for row in scores.rows).items() if count > 1]:
        raise StatementError(f"the scores have {twice[0]} more than once")


def _check_with_all(report: Report, statuses: Mapping[str, str]) -> None:
    """A service makes its checks with less at hand: the verdict must be the same with what fails here besides."""
    stated = report.case.checks
    if {check.id for check in stated} != statuses.keys():
        raise StatementError("the report's validity checks are not those that are made")
    now = [
        check.model_copy(update={"status": "failed"}) if statuses[check.id] == "failed" else check for check in stated
    ]
    case = report.case.model_copy(update={"checks": now})
    verdict = decide(case, report.policy.content, report.day, report.baselines).verdict
    if verdict != report.decision.verdict:
        failed = ", ".join(name for name, status in statuses.items() if status == "failed")
        raise StatementError(f"with all checks made the verdict is {verdict}: {failed} failed")


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
    complete = {
        "few-twins": images,
        "roles-apart": images or case.drawn is None,
        "reference-matches": quality is not None,
        "not-collapsed": quality is not None,
        "encoders-plausible": quality is not None,
    }
    stated = {check.id: check.status for check in case.checks}
    if stated.keys() != computed.keys():
        raise StatementError("the report's validity checks are not those that are made")
    for name, status in computed.items():
        if status != stated[name] and complete.get(name, True):
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
    if unused := [path for digest, path in given.items() if digest not in {encoder.file for encoder in used}]:
        raise StatementError(f"the {part} {unused[0]} was not scored")
    loaded = [_load(encoder, given[encoder.file], device, representation) for encoder in used]
    if [encoder.weights_digest for encoder in loaded] != digests:
        raise StatementError(f"the weights of a {part} are not those that were scored")
    for stated, one in zip(used, loaded, strict=True):
        if not stated.suspicions and (found := suspicions(one)):
            raise StatementError(f"a {part} is suspect, which the report does not say: {found[0]}")
    return loaded


def _load(encoder: EncoderUsed, path: Path, device: torch.device, representation: str) -> Encoder:
    return load_checkpoint(
        path,
        architecture=encoder.architecture,
        input_size=encoder.input_size,
        mean=encoder.mean,
        std=encoder.std,
        representation=representation,
        branch=encoder.branch,
        options=encoder.options,
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
) -> tuple[list[Rerun], list[ScoreRow]]:
    """Computes scores again.

    Args:
        scores: as they were stored.
        names: of the samples.
        targets: of these scores.
        references: likewise.
        dataset: with the images.
        device: where the encoders are.

    Returns:
        What agrees, and the rows that came out.

    Raises:
        StatementError: a sample has no stored score.
    """
    rows = {row.sample: row for row in scores.rows}
    if missing := [name for name in names if name not in rows]:
        raise StatementError(f"the scores have no sample {missing[0]}")
    spec = scores.summary.spec.model_copy(update={"refine": None})
    scorer = Scorer(targets, references, spec, device=device)
    batches = scorer.score(read_samples(dataset, names))
    found = [as_row(one, rows[one.name].role) for batch in batches for one in batch]
    lower = spec.precision != "float32"
    return [
        Rerun(now.sample, rows[now.sample].score, now.score, _agrees(rows[now.sample], now, lower)) for now in found
    ], found


def decide_again(report: Report, scores: StoredScores, rows: Sequence[ScoreRow]) -> None:
    """Checks that the verdict is the same by all scores as they came out now: small differences may add up.

    Raises:
        StatementError: it is another.
    """
    case, summary = report.case, scores.summary
    confidence = next(iter(case.metrics.values())).confidence if case.metrics else report.policy.content.confidence
    doubts = [doubt for encoder in case.encoders for doubt in encoder.doubts]
    evidence = gather_evidence(rows, summary, confidence=confidence, fdr=case.fdr, suspicions=doubts)
    metrics = json.loads(evidence.model_dump_json())["metrics"]
    now = Case.model_validate({**case.model_dump(mode="json"), "metrics": metrics})
    verdict = decide(now, report.policy.content, report.day, report.baselines).verdict
    if verdict != report.decision.verdict:
        raise StatementError(f"by the scores that came out now the verdict is {verdict}")


def _agrees(was: ScoreRow, now: ScoreRow, lower: bool) -> bool:
    """Whether a stored row is what came out; the tolerance rests on what came out alone."""
    if was.sample_key != now.sample_key or (was.skipped is None) != (now.skipped is None):
        return False
    if now.score is None or now.alignment_target is None or now.alignment_reference is None:
        return was.score is None
    both = now.alignment_target + now.alignment_reference
    allowed = TOLERANCE * both + (LOW_PRECISION_ERRORS * (now.standard_error or 0.0) if lower else 0.0)
    pairs = [
        (was.score, now.score, allowed),
        (was.alignment_target, now.alignment_target, allowed),
        (was.alignment_reference, now.alignment_reference, allowed),
        (was.score_bounded, now.score_bounded, 2 * allowed / both if both else 0.0),
        (was.standard_error, now.standard_error, allowed),
        (was.reference_spread, now.reference_spread, 2 * allowed),
        (was.num_views, now.num_views, 0.0),
    ]
    lists = ((was.alignment_targets, now.alignment_targets), (was.alignment_references, now.alignment_references))
    for before, after in lists:
        if len(before or ()) != len(after or ()):
            return False
        pairs += [(a, b, 2 * allowed) for a, b in zip(before or (), after or (), strict=True)]
    return all(
        (kept is None and computed is None)
        or (kept is not None and computed is not None and abs(kept - computed) <= bound)
        for kept, computed, bound in pairs
    )
