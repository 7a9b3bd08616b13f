"""Evidence: everything about an audit's scores that a release decision may rest on, with its error and its limits.

It is computed from the rows of scores alone, without torch, so that whoever holds the rows can compute it again.
"""

from collections.abc import Callable, Sequence
from math import ceil
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from sslmem.report.checks import Check, EncoderFigures, EncoderQuality, run_checks
from sslmem.report.columns import ScoreColumns, Scores
from sslmem.report.conformal import SignificantSample, fewest_discoverable, significant_samples
from sslmem.report.effects import (
    Difference,
    detection_interval,
    hedges_interval,
    mann_whitney_p_value,
    share_interval,
    welch_p_value,
)
from sslmem.report.statistics import Interval, auc_interval, mean_interval
from sslmem.report.summary import Summary
from sslmem.report.uncertainty import Uncertainty, uncertainty_of

__all__ = [
    "Check",
    "EncoderFigures",
    "EncoderQuality",
    "Evidence",
    "Metric",
    "SignificantSample",
    "Uncertainty",
    "gather_evidence",
]

Floats = NDArray[np.float64]
COMPARED = ("shared", "candidate", "independent")  # each with the external samples
RATES = {"0.1%": 0.001, "1%": 0.01, "5%": 0.05}  # of false positives


class Metric(BaseModel):
    """A figure with its confidence interval.

    Attributes:
        name: stable; docs/statistics.md lists them.
        estimate: the figure.
        low: lower end of the interval.
        high: upper end.
        confidence: two-sided level of the interval.
        n: samples that it rests on (of the role, without those of the null).
        description: what it says.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    estimate: float
    low: float
    high: float
    confidence: float
    n: int
    description: str


class Evidence(BaseModel):
    """What an audit's scores say.

    Attributes:
        metrics: by name; one that cannot be told from these samples is absent, and ``limits`` says why.
        tests: one-sided p-values of the role scoring above external, as ``{role}.welch`` and ``{role}.mann_whitney``.
        checks: whether the figures may be relied on.
        significant: candidates that are memorized at the false discovery rate ``fdr``, most significant first.
        uncertainty: standard errors of ``candidate.excess``; None without two candidates and two externals.
        limits: what the audit does not tell, in sentences.
    """

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1] = 1
    metrics: dict[str, Metric]
    tests: dict[str, float]
    checks: list[Check]
    significant: list[SignificantSample]
    fdr: float
    num_references: int
    num_targets: int
    uncertainty: Uncertainty | None
    limits: list[str]
    spec_digest: str
    target_digests: list[str]
    reference_digests: list[str]


def gather_evidence(
    rows: Scores,
    summary: Summary,
    *,
    confidence: float = 0.95,
    fdr: float = 0.05,
    quality: EncoderQuality | None = None,
    read_image: Callable[[str], bytes] | None = None,
    checked_before: Sequence[Check] = (),
    suspicions: Sequence[str] = (),
    seed: int = 0,
) -> Evidence:
    """Turns the rows of an audit into evidence; the same rows in any order give the same evidence.

    Args:
        rows: one per sample, skipped ones included; or their columns.
        summary: of these rows.
        confidence: two-sided level of all intervals, in (0, 1).
        fdr: false discovery rate of the list of memorized candidates, in (0, 1).
        quality: of the encoders, where it was measured; without it a weak reference shows in alignment alone.
        read_image: returns a sample's encoded bytes by its path, to look for near duplicates; raises
            UndecodableImage if it cannot.
        checked_before: checks that were made on more than these rows, and stand in for those of the same name.
        suspicions: what the probe of the encoders found, as sentences; see :mod:`sslmem.encoders.sanity`.
        seed: of the bootstrap over encoders.

    Raises:
        ValueError: confidence or fdr is not between 0 and 1, or a score is not finite.
    """
    if not (0 < confidence < 1 and 0 < fdr < 1):
        raise ValueError(f"expected confidence and fdr between 0 and 1; found {confidence} and {fdr}")
    columns = ScoreColumns.of(rows)
    columns = columns.take(np.argsort(columns.sample, kind="stable"))
    if (strange := columns.sample[np.isinf(columns.score)]).size:
        raise ValueError(f"expected finite scores; that of {strange[0]} is not (a sample without a score has None)")
    scored = {role: columns.take((columns.role == role) & columns.has_score()) for role in _ROLES}
    external = scored["external"].score
    metrics: list[Metric] = []
    tests: dict[str, float] = {}
    if len(external) > 1:
        offset = mean_interval(external, confidence)
        metrics.append(_metric("external.mean_score", offset, confidence, len(external), _OFFSET))
    for role in COMPARED:
        ours = scored[role].score
        metrics += _of_role(role, ours, scored[role], confidence) + _against_null(role, ours, external, confidence)
        if len(ours) > 1 and len(external) > 1:
            tests[f"{role}.welch"] = welch_p_value(ours, external)
            tests[f"{role}.mann_whitney"] = mann_whitney_p_value(ours, external)
    candidates = scored["candidate"]
    significant = significant_samples(candidates.sample, candidates.score, external, fdr=fdr)
    if len(candidates) and len(external):
        fewest = fewest_discoverable(len(candidates), len(external), fdr)
        metrics += _of_discoveries(len(significant), len(candidates), confidence, fdr, fewest)
    known = {check.id: check for check in checked_before}
    uncertainty = None
    if len(candidates) > 1 and len(external) > 1:
        uncertainty, over_models = uncertainty_of(candidates, scored["external"], confidence=confidence, seed=seed)
        if over_models is not None:
            name = "candidate.excess_over_models"
            metrics.append(_metric(name, over_models, confidence, len(candidates), _OVER_MODELS))
    return Evidence(
        metrics={metric.name: metric for metric in metrics},
        tests=tests,
        checks=[known.get(check.id, check) for check in run_checks(columns, summary, quality, read_image, suspicions)],
        significant=list(significant),
        fdr=fdr,
        num_references=len(summary.reference_digests),
        num_targets=len(summary.target_digests),
        uncertainty=uncertainty,
        limits=_limits(summary, len(candidates), len(external), fdr, uncertainty, quality),
        spec_digest=summary.spec_digest,
        target_digests=list(summary.target_digests),
        reference_digests=list(summary.reference_digests),
    )


_ROLES = (*COMPARED, "external")
_OFFSET = "mean score of the external samples: the offset between target and reference, which every excess is free of"
_OVER_MODELS = "candidates minus externals, with an interval over encoders trained alike as well as over samples"


def _metric(name: str, interval: Interval, confidence: float, n: int, description: str) -> Metric:
    return Metric(name=name, **interval.model_dump(), confidence=confidence, n=n, description=description)


def _of_role(role: str, ours: Floats, rows: ScoreColumns, confidence: float) -> list[Metric]:
    bounded = rows.score_bounded[~np.isnan(rows.score_bounded)]
    columns = (("mean_score", ours, "mean score"), ("mean_score_bounded", bounded, "mean bounded score"))
    return [
        _metric(f"{role}.{name}", mean_interval(values, confidence), confidence, len(values), f"{what} of {role}")
        for name, values, what in columns
        if len(values) > 1
    ]


def _against_null(role: str, ours: Floats, external: Floats, confidence: float) -> list[Metric]:
    if len(ours) < 2 or len(external) < 2:
        return []
    found: dict[str, tuple[Interval | None, str]] = {
        "excess": (Difference.of(ours, external).interval(confidence), f"mean score of {role} minus that of external"),
        "hedges_g": (hedges_interval(ours, external, confidence), f"{role} against external in standard deviations"),
        "auc": (auc_interval(ours, external, confidence), f"chance that a {role} sample scores above an external one"),
    }
    for label, rate in RATES.items():
        what = f"share of {role} above the score that {label} of externals exceed"
        found[f"tpr_at_fpr_{label}"] = (detection_interval(ours, external, rate, confidence), what)
    return [
        _metric(f"{role}.{name}", interval, confidence, len(ours), what)
        for name, (interval, what) in found.items()
        if interval is not None
    ]


def _of_discoveries(num: int, num_candidates: int, confidence: float, fdr: float, fewest: int) -> list[Metric]:
    rate = f"at a false discovery rate of {fdr:.3g}"
    share = share_interval(num, num_candidates, confidence)
    # So many may be memorized, however strongly, without any being found: too few externals to tell them from chance.
    unseen = min(1.0, (fewest - 1) / num_candidates)
    share = share.model_copy(update={"high": max(share.high, unseen)})
    exact = Interval(estimate=num, low=num, high=max(num, fewest - 1))
    return [
        _metric(
            "candidate.share_significant",
            share,
            confidence,
            num_candidates,
            f"share found memorized {rate}; the upper end is at least what so many externals cannot find",
        ),
        _metric(
            "candidate.num_significant",
            exact,
            confidence,
            num_candidates,
            f"number found memorized {rate}; the rate is its error, the upper end at least what cannot be found",
        ),
    ]


def _limits(
    summary: Summary,
    num_candidates: int,
    num_external: int,
    fdr: float,
    uncertainty: Uncertainty | None,
    quality: EncoderQuality | None,
) -> list[str]:
    limits = []
    if len(summary.reference_digests) == 1:
        limits.append("It rests on one reference: it says nothing about other training runs of the reference.")
    if len(summary.target_digests) == 1:
        limits.append("It is about this target; other training runs of the same recipe may memorize other images.")
    if num_external < 2 or num_candidates < 2:
        limits.append(
            f"There are {num_candidates} candidate and {num_external} external scores: too few to compare any."
        )
        return limits
    if uncertainty is not None and uncertainty.views is None:
        limits.append("The part of the views in the error cannot be told: some samples have too few views.")
    coarse = [label for label, rate in RATES.items() if num_external * rate < 1 - 1e-9]
    if coarse:
        limits.append(
            f"Detection at {' and '.join(coarse)} false positives cannot be told from {num_external} external samples; "
            f"it needs {round(1 / RATES[coarse[0]])}."
        )
    fewest = fewest_discoverable(num_candidates, num_external, fdr)
    if fewest > num_candidates:
        limits.append(
            f"With {num_external} external samples no candidate can be found memorized by itself; that takes "
            f"{ceil(1 / fdr) - 1} or more."
        )
    elif fewest > 1:
        limits.append(
            f"With {num_external} external samples a candidate is found memorized only if at least {fewest} of "
            f"{num_candidates} score above all of them; more external samples would resolve single ones."
        )
    if quality is None:
        limits.append("The quality of the encoders was not measured beyond their alignment on external images.")
    limits.append(
        "P-values assume that a candidate which is not memorized is like an external image; "
        "candidates that were chosen for being unusual are not."
    )
    return limits
