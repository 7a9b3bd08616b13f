"""Means, differences and areas under the curve of scores, with confidence intervals over samples."""

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy.special import ndtri, stdtrit
from scipy.stats import rankdata

Floats = NDArray[np.float64]
CONFIDENCE = 0.95


class Interval(BaseModel):
    """An estimate with the ends of its confidence interval, 95 % where nothing else is said."""

    model_config = ConfigDict(frozen=True)

    estimate: float
    low: float
    high: float


def mean(values: Floats) -> float | None:
    """The mean, or None of nothing."""
    return float(values.mean()) if len(values) else None


def standard_error(values: Floats) -> float | None:
    """Standard error of the mean, or None of fewer than two values."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None


def mean_interval(values: Floats, confidence: float = CONFIDENCE) -> Interval:
    """Mean of a sample ``[n]``, n >= 2, with Student's interval."""
    centre, error = float(values.mean()), standard_error(values) or 0.0
    half = float(stdtrit(len(values) - 1, (1 + confidence) / 2)) * error
    return Interval(estimate=centre, low=centre - half, high=centre + half)


def welch_interval(a: Floats, b: Floats, confidence: float = CONFIDENCE) -> Interval:
    """Difference of means of two samples ``[n]`` and ``[m]`` of unequal variances (Welch 1947), n, m >= 2."""
    difference = float(a.mean() - b.mean())
    va, vb = float(a.var(ddof=1)) / len(a), float(b.var(ddof=1)) / len(b)
    if va + vb == 0:
        return Interval(estimate=difference, low=difference, high=difference)
    degrees = degrees_of_freedom((va, len(a) - 1), (vb, len(b) - 1))
    half = float(stdtrit(degrees, (1 + confidence) / 2)) * float(np.sqrt(va + vb))
    return Interval(estimate=difference, low=difference - half, high=difference + half)


def degrees_of_freedom(*parts: tuple[float, int]) -> float:
    """Of a sum of independent variance estimates, each with its own (Satterthwaite 1946, Welch 1947); 1 of zeros."""
    spread = sum(variance**2 / degrees for variance, degrees in parts)
    return float(sum(variance for variance, _ in parts) ** 2 / spread) if spread > 0 else 1.0


def auc_interval(positives: Floats, negatives: Floats, confidence: float = CONFIDENCE) -> Interval:
    """P(positive > negative) + P(equal) / 2 for samples ``[n]`` and ``[m]``, n, m >= 2.

    The variance is DeLong's (1988); the interval is Wilson's with the number of observations that this variance
    corresponds to, so that it stays within [0, 1] and has a width when the samples are separated completely.
    """
    n, m = len(positives), len(negatives)
    ranks = rankdata(np.concatenate([positives, negatives]))
    # How large a part of the other sample each value exceeds.
    above = (ranks[:n] - rankdata(positives)) / m
    below = 1 - (ranks[n:] - rankdata(negatives)) / n
    area = float(above.mean())
    variance = float(above.var(ddof=1)) / n + float(below.var(ddof=1)) / m
    effective = area * (1 - area) / variance if variance > 0 and 0 < area < 1 else float(min(n, m))
    z2 = float(ndtri((1 + confidence) / 2)) ** 2
    centre = (area + z2 / (2 * effective)) / (1 + z2 / effective)
    half = np.sqrt(z2 * (area * (1 - area) / effective + z2 / (4 * effective**2))) / (1 + z2 / effective)
    return Interval(estimate=area, low=max(0.0, centre - half), high=min(1.0, centre + half))
