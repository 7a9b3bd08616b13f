"""What an audit found, in one versioned JSON object."""

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from sslmem.conditions import Conditions
from sslmem.report import statistics
from sslmem.report.columns import ScoreColumns, Scores
from sslmem.report.rows import Scales
from sslmem.report.statistics import Interval
from sslmem.roles import ROLES
from sslmem.spec import ScoreSpec

NUM_EXTREMES = 10
NUM_BINS = 48
NUM_SKIPPED_SHOWN = 20
NO_ROLE = "unassigned"
PERCENTILES = (1, 5, 25, 50, 75, 95, 99)

Floats = NDArray[np.float64]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class RoleSummary(_Frozen):
    """Scores of the samples of one role; standard errors are over samples and include the noise of views.

    Attributes:
        percentiles: of the scores, by percent; None in summaries of earlier versions and without scores.
    """

    role: str
    n: int
    num_skipped: int
    mean_score: float | None
    standard_error: float | None
    mean_score_bounded: float | None
    standard_error_bounded: float | None
    mean_alignment_target: float | None
    mean_alignment_reference: float | None
    percentiles: dict[int, float] | None = None


class Contrast(_Frozen):
    """One role against the external samples.

    Attributes:
        difference: of mean scores, role minus external, with its 95 % interval (Welch).
        auc: probability that a sample of the role scores above an external one, with its 95 % interval.
    """

    role: str
    against: str
    difference: Interval
    auc: Interval


class Null(_Frozen):
    """Scores of samples that neither encoder was trained on."""

    mean: float
    standard_deviation: float


class CompatSummary(_Frozen):
    """Scores by a published convention: divided by the range (largest minus smallest) over all scored samples.

    Attributes:
        name: of the convention.
        divisor: that range.
        mean_scores: by role.
    """

    name: str
    divisor: float
    mean_scores: dict[str, float]


class Finding(_Frozen):
    """The answer in one sentence. ``undecided`` means that the roles needed for an answer have too few samples."""

    code: Literal["memorization-found", "no-memorization-found", "undecided"]
    sentence: str


class ScoredSample(_Frozen):
    """A sample worth showing."""

    sample: str
    role: str | None
    score: float
    score_bounded: float | None
    standard_error: float | None


class SkippedSample(_Frozen):
    """A sample without a score: unknown, not absent."""

    sample: str
    role: str | None
    reason: str


class Histogram(_Frozen):
    """Counts of scores by role in common bins; there is one edge more than counts."""

    edges: list[float]
    counts: dict[str, list[int]]


class Summary(_Frozen):
    """Aggregates of an audit's scores with what determined them.

    Attributes:
        extremes_of: the role that the most and least memorized samples are taken from: candidates, since only what
            the target alone was trained on can be memorized by it; None, all samples, where there are none.
    """

    schema_version: Literal[1] = 1
    spec: ScoreSpec
    spec_digest: str
    target_digests: list[str]
    reference_digests: list[str]
    num_samples: int
    num_skipped: int
    roles: list[RoleSummary]
    contrasts: list[Contrast]
    null: Null | None
    compat: CompatSummary | None = None
    finding: Finding
    extremes_of: Literal["candidate"] | None
    most_memorized: list[ScoredSample]
    least_memorized: list[ScoredSample]
    skipped: list[SkippedSample]
    histogram: Histogram
    conditions: list[Conditions] = []

    @property
    def scales(self) -> Scales:
        """What single scores are set in relation to."""
        return Scales(
            null=None if self.null is None else (self.null.mean, self.null.standard_deviation),
            compat_range=None if self.compat is None else self.compat.divisor,
        )


def summarize(
    rows: Scores,
    spec: ScoreSpec,
    *,
    target_digests: Sequence[str],
    reference_digests: Sequence[str],
    conditions: Iterable[Conditions] = (),
) -> Summary:
    """Aggregates the rows of an audit.

    Args:
        rows: one per sample, in any order; or their columns.
        spec: how they were measured.
        target_digests: digests of the targets' loaded weights.
        reference_digests: of the references'.
        conditions: under which parts of them were computed.
    """
    columns = ScoreColumns.of(rows)
    by_role: dict[str, NDArray[np.int64]] = {role: np.flatnonzero(columns.role == role) for role in ROLES}
    by_role[NO_ROLE] = np.flatnonzero((columns.role == None) | (columns.role == ""))  # noqa: E711  an elementwise comparison
    order = [role for role in (*ROLES, NO_ROLE) if len(by_role[role])]
    scores = {role: _given(columns.score[by_role[role]]) for role in order}
    extremes_of: Literal["candidate"] | None = "candidate" if len(scores.get("candidate", ())) else None
    ours = np.arange(len(columns)) if extremes_of is None else by_role[extremes_of]
    most, least = (_extremes(columns, ours, sign) for sign in (-1, 1))
    contrasts = [
        contrast for role in ("candidate", "shared", "independent") if (contrast := _contrast(role, scores)) is not None
    ]
    external = scores.get("external", np.empty(0))
    null = None
    if len(external) > 1:
        null = Null(mean=float(external.mean()), standard_deviation=float(external.std(ddof=1)))
    skipped = np.flatnonzero(columns.skipped != None)  # noqa: E711  an elementwise comparison
    return Summary(
        spec=spec,
        spec_digest=spec.digest,
        target_digests=list(target_digests),
        reference_digests=list(reference_digests),
        num_samples=len(columns),
        num_skipped=len(skipped),
        roles=[_role(role, columns, by_role[role]) for role in order],
        contrasts=contrasts,
        null=null,
        finding=_finding(scores, contrasts),
        extremes_of=extremes_of,
        most_memorized=[_shown(columns, i) for i in most],
        least_memorized=[_shown(columns, i) for i in least],
        skipped=[
            SkippedSample(sample=columns.sample[i], role=columns.role[i], reason=columns.skipped[i])
            for i in skipped[:NUM_SKIPPED_SHOWN].tolist()
        ],
        histogram=_histogram(scores),
        compat=_compat(spec, scores),
        conditions=sorted(set(conditions), key=str),
    )


def _given(values: Floats) -> Floats:
    return values[~np.isnan(values)]


def _extremes(columns: ScoreColumns, ours: NDArray[np.int64], sign: int) -> list[int]:
    """Rows of the highest scores (sign -1) or the lowest (1), equal ones by name, without sorting them all."""
    keys = sign * columns.score[ours]
    ours, keys = ours[~np.isnan(keys)], _given(keys)
    if len(keys) > NUM_EXTREMES:
        near = keys <= np.partition(keys, NUM_EXTREMES - 1)[NUM_EXTREMES - 1]
        ours = ours[near]
    # The lowest are the end of the falling order, read backwards: equal ones by falling name.
    found = ours.tolist()[::-sign]
    found.sort(key=lambda i: columns.sample[i], reverse=sign > 0)
    return sorted(found, key=lambda i: sign * columns.score[i])[:NUM_EXTREMES]


def _role(role: str, columns: ScoreColumns, rows: NDArray[np.int64]) -> RoleSummary:
    score, bounded = _given(columns.score[rows]), _given(columns.score_bounded[rows])
    return RoleSummary(
        role=role,
        n=len(score),
        num_skipped=len(rows) - len(score),
        mean_score=statistics.mean(score),
        standard_error=statistics.standard_error(score),
        mean_score_bounded=statistics.mean(bounded),
        standard_error_bounded=statistics.standard_error(bounded),
        mean_alignment_target=statistics.mean(_given(columns.alignment_target[rows])),
        mean_alignment_reference=statistics.mean(_given(columns.alignment_reference[rows])),
        percentiles=dict(zip(PERCENTILES, np.percentile(score, PERCENTILES).tolist(), strict=True))
        if len(score)
        else None,
    )


def _contrast(role: str, scores: dict[str, Floats]) -> Contrast | None:
    ours, external = scores.get(role, np.empty(0)), scores.get("external", np.empty(0))
    if len(ours) < 2 or len(external) < 2:
        return None
    return Contrast(
        role=role,
        against="external",
        difference=statistics.welch_interval(ours, external),
        auc=statistics.auc_interval(ours, external),
    )


def _compat(spec: ScoreSpec, scores: dict[str, Floats]) -> CompatSummary | None:
    everything = np.concatenate([*scores.values(), np.empty(0)])
    if spec.compat is None or len(everything) == 0 or (divisor := float(np.ptp(everything))) == 0:
        return None
    means = {role: float(values.mean()) / divisor for role, values in scores.items() if len(values)}
    return CompatSummary(name=spec.compat, divisor=divisor, mean_scores=means)


def _finding(scores: dict[str, Floats], contrasts: Sequence[Contrast]) -> Finding:
    contrast = next((c for c in contrasts if c.role == "candidate"), None)
    if contrast is None:
        counts = [len(scores.get(role, ())) for role in ("candidate", "external")]
        return Finding(
            code="undecided",
            sentence=f"Undecided: the answer compares candidate with external samples and needs at least 2 of each; "
            f"{counts[0]} candidate and {counts[1]} external samples were scored.",
        )
    d, auc = contrast.difference, contrast.auc
    figures = (
        f"candidates minus externals {d.estimate:+.4f}, 95 % interval {d.low:+.4f} to {d.high:+.4f}; "
        f"AUC {auc.estimate:.3f} ({auc.low:.3f} to {auc.high:.3f})"
    )
    if d.low > 0:
        return Finding(
            code="memorization-found",
            sentence=f"Memorization found: the target aligns views of its candidates better than the reference "
            f"does, beyond what it does for images that neither has seen ({figures}).",
        )
    if d.high < 0:
        return Finding(
            code="no-memorization-found",
            sentence=f"No memorization found: candidates score below externals, which memorization by the target "
            f"does not explain; check the roles and whether the reference matches the target ({figures}).",
        )
    return Finding(
        code="no-memorization-found",
        sentence=f"No memorization found: the difference is not distinguishable from zero ({figures}).",
    )


def _shown(columns: ScoreColumns, i: int) -> ScoredSample:
    bounded, error = float(columns.score_bounded[i]), float(columns.standard_error[i])
    return ScoredSample(
        sample=columns.sample[i],
        role=columns.role[i],
        score=float(columns.score[i]),
        score_bounded=None if np.isnan(bounded) else bounded,
        standard_error=None if np.isnan(error) else error,
    )


def _histogram(scores: dict[str, Floats]) -> Histogram:
    everything = np.concatenate([*scores.values(), np.empty(0)])
    if len(everything) == 0:
        return Histogram(edges=[], counts={})
    low, high = float(everything.min()), float(everything.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, NUM_BINS + 1)
    counts = {role: np.histogram(values, bins=edges)[0].tolist() for role, values in scores.items()}
    return Histogram(edges=edges.tolist(), counts=counts)
