"""Where the uncertainty of the candidate excess comes from: views, samples, encoders; apart and together.

The excess is linear in samples and in encoders: mean over candidates minus mean over externals of (mean over
references minus mean over targets of the alignment distance). A hierarchical bootstrap draws encoders, samples
within roles, or both, with replacement (Efron and Tibshirani 1993, chapter 8; for models and samples, Bouthillier
et al. 2021, arXiv 2103.03098).
"""

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy.special import stdtrit

from sslmem.report.columns import ScoreColumns, Scores
from sslmem.report.statistics import Interval, degrees_of_freedom

Floats = NDArray[np.float64]
NUM_DRAWS = 1000
MAX_DRAWN = 2_000_000  # values in memory at once


class Uncertainty(BaseModel):
    """Standard errors of the candidate excess.

    Attributes:
        views: from the choice of augmented views; None with too few views to tell.
        samples: from the choice of images, without the part of views; None where ``views`` is.
        views_and_samples: both, with the encoders held fixed: what ``candidate.excess`` uses.
        models: from the choice of encoders, with the samples held fixed; None with one target and one reference.
        combined: all of them; None where ``models`` is.
    """

    model_config = ConfigDict(frozen=True)

    views: float | None
    samples: float | None
    views_and_samples: float
    models: float | None
    combined: float | None


def uncertainty_of(
    candidates: Scores, externals: Scores, *, confidence: float, seed: int
) -> tuple[Uncertainty, Interval | None]:
    """Standard errors of the excess, and its interval over models and samples.

    Args:
        candidates: scored rows, at least 2.
        externals: likewise.
        confidence: two-sided level of the interval.
        seed: of the bootstrap.

    Returns:
        The standard errors, and the interval; None where one target and one reference say nothing of others.
    """
    both = [ScoreColumns.of(rows) for rows in (candidates, externals)]
    parts = [(float(one.score.var(ddof=1)) / len(one), len(one) - 1) for one in both]
    fixed = sum(variance for variance, _ in parts)
    views = _variance_of_views(both)
    drawn = _bootstrap(both[0], both[1], seed)
    apart = {
        "views": None if views is None else views**0.5,
        "samples": None if views is None else max(0.0, fixed - views) ** 0.5,
        "views_and_samples": fixed**0.5,
    }
    if drawn is None:
        return Uncertainty(**apart, models=None, combined=None), None
    variances, combined = drawn
    uncertainty = Uncertainty(**apart, models=sum(v for v, _ in variances) ** 0.5, combined=combined**0.5)
    excess = float(both[0].score.mean() - both[1].score.mean())
    # Few encoders tell little of their own spread; Student's t with Satterthwaite's degrees of freedom says so.
    half = 0.0
    if combined > 0:
        half = float(stdtrit(degrees_of_freedom(*parts, *variances), (1 + confidence) / 2)) * combined**0.5
    return uncertainty, Interval(estimate=excess, low=excess - half, high=excess + half)


def _variance_of_views(roles: list[ScoreColumns]) -> float | None:
    if any(np.isnan(one.standard_error).any() for one in roles):
        return None
    return sum(float(np.square(one.standard_error).sum()) / len(one) ** 2 for one in roles)


def _bootstrap(
    candidates: ScoreColumns, externals: ScoreColumns, seed: int
) -> tuple[list[tuple[float, int]], float] | None:
    """Variances of the excess with their degrees of freedom over targets and references, and over everything.

    A bootstrap over K encoders gives (K - 1) / K of their variance; deviations are scaled to undo that.
    """
    generator = np.random.default_rng(seed)
    kinds = [_alignments(candidates, externals, name) for name in ("alignment_targets", "alignment_references")]
    if any(kind is None for kind in kinds) or all(kind is not None and kind[0].shape[1] < 2 for kind in kinds):
        return None
    variances: list[tuple[float, int]] = []
    total = np.zeros(NUM_DRAWS)
    # All encoders see the same images: columns are those of the targets, then of the references.
    sides = [np.concatenate([kind[side] for kind in kinds if kind is not None], axis=1) for side in (0, 1)]
    excesses = _drawn_means(sides[0], generator) - _drawn_means(sides[1], generator)  # [B, K]
    for sign, kind in zip((-1, 1), kinds, strict=True):
        assert kind is not None  # noqa: S101  checked above
        num = kind[0].shape[1]
        drawn, excesses = excesses[:, :num], excesses[:, num:]
        whole = kind[0].mean(axis=0) - kind[1].mean(axis=0)  # [K]
        if num == 1:
            total += sign * drawn[:, 0]
            continue
        weights = generator.multinomial(num, np.full(num, 1 / num), NUM_DRAWS) / num
        scale = (num / (num - 1)) ** 0.5
        weights = 1 / num + scale * (weights - 1 / num)
        variances.append((float((weights @ whole).var()), num - 1))
        total += sign * (weights * drawn).sum(axis=1)
    return variances, float(total.var())


def _drawn_means(values: Floats, generator: np.random.Generator) -> Floats:
    """Means ``[B, K]`` of values ``[n, K]`` over samples drawn with replacement."""
    num, part = len(values), max(1, MAX_DRAWN // values.size)
    parts = [
        values[generator.integers(num, size=(min(part, NUM_DRAWS - start), num))].mean(axis=1)
        for start in range(0, NUM_DRAWS, part)
    ]
    return np.concatenate(parts)


def _alignments(candidates: ScoreColumns, externals: ScoreColumns, name: str) -> tuple[Floats, Floats] | None:
    """Alignment distances ``[n, K]`` of candidates and ``[m, K]`` of externals; None where rows lack them."""
    ours, theirs = getattr(candidates, name), getattr(externals, name)
    if not (ours.shape[1] and theirs.shape[1]) or np.isnan(ours).any() or np.isnan(theirs).any():
        return None
    return ours, theirs
