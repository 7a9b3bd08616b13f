"""How far apart the scores of two roles are: effect size, detection at few false positives, and two tests."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, ndtr, ndtri, stdtr, stdtrit
from scipy.stats import binom, mannwhitneyu

from sslmem.report.statistics import Interval, degrees_of_freedom

Floats = NDArray[np.float64]
CERTAIN = 30.0  # standard deviations: what a difference without any error gets


@dataclass(frozen=True)
class Difference:
    """A difference of means of two samples ``[n]`` and ``[m]``, n, m >= 2, corrected for skew.

    Few, strongly memorized candidates skew their scores, and Student's t then says too often that there is little:
    at 40 candidates its upper limit is too low more than twice as often as stated. The cubic transformation of t
    that Hall (1992, JRSS B 54(1)) gave for one sample and Zhou and Dinh (Biostatistics 6(2), 2005) for two undoes
    the effect of skew to first order (docs/statistics.md, coverage).

    Attributes:
        estimate: mean of the first minus mean of the second.
        error: its standard error.
        degrees: of freedom (Welch 1947).
        skew: third central moment of the estimate over the cube of its error.
    """

    estimate: float
    error: float
    degrees: float
    skew: float

    @classmethod
    def of(cls, a: Floats, b: Floats) -> "Difference":
        """From the two samples."""
        parts = [(float(values.var(ddof=1)) / len(values), len(values) - 1) for values in (a, b)]
        error = sum(variance for variance, _ in parts) ** 0.5
        third = _third_moment(a) / len(a) ** 2 - _third_moment(b) / len(b) ** 2
        skew = third / error**3 if error > 0 else 0.0
        return cls(float(a.mean() - b.mean()), error, degrees_of_freedom(*parts), skew)

    def interval(self, confidence: float) -> Interval:
        """The interval at a two-sided level."""
        t = float(stdtrit(self.degrees, (1 + confidence) / 2))
        low, high = (self.estimate - self.error * self._untransformed(x) for x in (t, -t))
        return Interval(estimate=self.estimate, low=min(low, self.estimate), high=max(high, self.estimate))

    def z(self, bound: float) -> float:
        """The difference minus a bound as a standard normal deviate."""
        if self.error == 0:
            return float(np.sign(self.estimate - bound)) * CERTAIN
        t = (self.estimate - bound) / self.error
        x = t + self.skew / 3 * t**2 + self.skew**2 / 27 * t**3 + self.skew / 6
        tail = max(float(stdtr(self.degrees, -abs(x))), float(ndtr(-CERTAIN)))
        return -float(np.sign(x)) * float(ndtri(tail))

    def _untransformed(self, x: float) -> float:
        if abs(self.skew) < 1e-6:
            return x
        return float(3 / self.skew * (np.cbrt(1 + self.skew * (x - self.skew / 6)) - 1))


def _third_moment(values: Floats) -> float:
    num = len(values)
    if num < 3:
        return 0.0
    return float(num * ((values - values.mean()) ** 3).sum() / ((num - 1) * (num - 2)))


def hedges_interval(a: Floats, b: Floats, confidence: float) -> Interval | None:
    """Hedges' g, the difference of means in pooled standard deviations, corrected for small samples (Hedges 1981).

    The interval rests on the influence function of the standardized difference, not on normal scores of equal
    variance: memorization makes candidates vary more than externals do. Each value x of ``a`` moves g by
    (x - mean) / s - g w (((x - mean) / s)^2 - v) / 2, with s the pooled deviation, w the weight of ``a`` in it, and
    v the variance of ``a`` over s^2.

    Args:
        a: ``[n]``, n >= 2.
        b: ``[m]``, m >= 2.
        confidence: two-sided level.

    Returns:
        None where neither sample varies.
    """
    weights = np.array([len(a) - 1, len(b) - 1]) / (len(a) + len(b) - 2)
    pooled = float(np.sqrt(weights @ [a.var(ddof=1), b.var(ddof=1)]))
    if pooled == 0:
        return None
    effect = float(a.mean() - b.mean()) / pooled
    parts = []
    for values, sign, weight in ((a, 1, weights[0]), (b, -1, weights[1])):
        z = (values - values.mean()) / pooled
        influence = sign * z - effect * weight / 2 * (z**2 - (z**2).mean())
        parts.append((float(influence.var(ddof=1)) / len(values), len(values) - 1))
    degrees = len(a) + len(b) - 2
    small = 1 - 3 / (4 * degrees - 1)
    error = float(np.sqrt(sum(variance for variance, _ in parts)))
    half = float(stdtrit(degrees_of_freedom(*parts), (1 + confidence) / 2)) * error
    return Interval(estimate=small * effect, low=small * (effect - half), high=small * (effect + half))


def share_interval(count: int, total: int, confidence: float) -> Interval:
    """A share with the interval of Clopper and Pearson (1934): at least the stated coverage for any share."""
    tail = (1 - confidence) / 2
    low = 0.0 if count == 0 else float(betaincinv(count, total - count + 1, tail))
    high = 1.0 if count == total else float(betaincinv(count + 1, total - count, 1 - tail))
    return Interval(estimate=count / total, low=low, high=high)


def detection_interval(positives: Floats, null: Floats, rate: float, confidence: float) -> Interval | None:
    """Share of ``positives`` above the threshold that a share ``rate`` of the null exceeds.

    The estimate's threshold leaves at most that share of the given null above it. The interval is free of
    distributions: order statistics of the null enclose the true threshold with one half of the error, Clopper and
    Pearson's limits of the share above each of them take the other half.

    Args:
        positives: ``[n]``, n >= 1.
        null: ``[m]``.
        rate: of false positives.
        confidence: two-sided level.

    Returns:
        None where the null is too small to tell: fewer than 1 / rate.
    """
    num = len(null)
    if num * rate < 1 - 1e-9:
        return None
    falling = np.concatenate([[np.inf], np.sort(null)[::-1], [-np.inf]])
    tail = (1 - confidence) / 4
    # Of num values, about Binomial(num, rate) lie above the true threshold.
    fewest, most = int(binom.ppf(tail, num, rate)), int(binom.ppf(1 - tail, num, rate))
    allowed = int(np.floor(num * rate + 1e-9))
    above = [int((positives > falling[rank]).sum()) for rank in (fewest, allowed + 1)]
    above.append(int((positives >= falling[most + 1]).sum()))
    low, high = (share_interval(count, len(positives), (1 + confidence) / 2) for count in (above[0], above[2]))
    return Interval(estimate=above[1] / len(positives), low=low.low, high=high.high)


def welch_p_value(a: Floats, b: Floats) -> float:
    """One-sided p-value of mean a > mean b for samples ``[n]`` and ``[m]``, n, m >= 2 (Welch 1947)."""
    va, vb = float(a.var(ddof=1)) / len(a), float(b.var(ddof=1)) / len(b)
    difference = float(a.mean() - b.mean())
    if va + vb == 0:
        return 0.0 if difference > 0 else 1.0
    degrees = degrees_of_freedom((va, len(a) - 1), (vb, len(b) - 1))
    return float(stdtr(degrees, -difference / np.sqrt(va + vb)))


def mann_whitney_p_value(a: Floats, b: Floats) -> float:
    """One-sided p-value of a tending to lie above b (Mann and Whitney 1947, normal approximation with ties)."""
    if np.ptp(np.concatenate([a, b])) == 0:
        return 1.0
    return float(mannwhitneyu(a, b, alternative="greater", method="asymptotic").pvalue)
