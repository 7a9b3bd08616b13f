"""How often the intervals cover what is true, for scores of distributions whose truth is known."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sslmem.report.effects import Difference, detection_interval, hedges_interval
from sslmem.report.statistics import Interval, auc_interval, welch_interval

Floats = NDArray[np.float64]
DRAWS = 1000
CONFIDENCE = 0.95
NUM_NULL = 300

# Memorized candidates: shifted, more spread, skewed to the right.
CASES = {
    "normal, equal spread": stats.norm(0.5, 1),
    "normal, twice the spread": stats.norm(0.5, 2),
    "skewed (gamma, shape 4)": stats.gamma(4, scale=0.5, loc=-1.5),
    "very skewed (exponential)": stats.expon(loc=-0.5),
}
NULL = stats.norm(0, 1)


def coverage_table() -> list[str]:
    """A row for each distribution and number of candidates, in Markdown."""
    names = list(INTERVALS)
    lines = [
        "| candidates' scores | n | " + " | ".join(f"`{name}`" for name in names) + " |",
        "|---" * (len(names) + 2) + "|",
    ]
    for case, ours in CASES.items():
        for num in (10, 20, 40, 100):
            generator = np.random.default_rng(num)
            truths = _truths(ours, num)
            covered = dict.fromkeys(names, 0)
            for _ in range(DRAWS):
                a = ours.rvs(num, random_state=generator)
                b = NULL.rvs(NUM_NULL, random_state=generator)
                for name, interval in INTERVALS.items():
                    found = interval(a, b)
                    covered[name] += found is not None and found.low <= truths[name] <= found.high
            cells = " | ".join(f"{covered[name] / DRAWS:.1%}" for name in names)
            lines.append(f"| {case} | {num} | {cells} |")
    return lines


INTERVALS: dict[str, Callable[[Floats, Floats], Interval | None]] = {
    "excess": lambda a, b: Difference.of(a, b).interval(CONFIDENCE),
    "hedges_g": lambda a, b: hedges_interval(a, b, CONFIDENCE),
    "auc": lambda a, b: auc_interval(a, b, CONFIDENCE),
    "tpr_at_fpr_1%": lambda a, b: detection_interval(a, b, 0.01, CONFIDENCE),
    "tpr_at_fpr_5%": lambda a, b: detection_interval(a, b, 0.05, CONFIDENCE),
    "Welch": lambda a, b: welch_interval(a, b, CONFIDENCE),
}


def _truths(ours: stats.distributions.rv_frozen, num: int) -> dict[str, float]:
    pooled = np.sqrt(((num - 1) * ours.var() + (NUM_NULL - 1)) / (num + NUM_NULL - 2))
    quantiles = NULL.ppf((np.arange(20_000) + 0.5) / 20_000)
    return {
        "excess": float(ours.mean()),
        "Welch": float(ours.mean()),
        "hedges_g": float(ours.mean() / pooled),
        "auc": float(ours.sf(quantiles).mean()),
        "tpr_at_fpr_1%": float(ours.sf(NULL.isf(0.01))),
        "tpr_at_fpr_5%": float(ours.sf(NULL.isf(0.05))),
    }
