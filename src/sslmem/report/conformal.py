"""Which candidates are memorized: conformal p-values against the external null, with a controlled false discovery rate.

No threshold on scores is needed. The p-values are valid for any distribution of scores, as long as a candidate that
is not memorized is exchangeable with the externals; they depend on one another through the shared null, but
positively, so that Benjamini and Hochberg's procedure still controls the rate (Bates, Candes, Lei, Romano, Sesia,
"Testing for outliers with conformal p-values", Annals of Statistics 51(1), 2023, theorem 2).
"""

from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

Floats = NDArray[np.float64]


class SignificantSample(BaseModel):
    """A candidate that is memorized at the stated false discovery rate.

    Attributes:
        sample: its path.
        score: its memorization score.
        p_value: conformal, against the external samples.
        q_value: the smallest false discovery rate at which it is still found.
    """

    model_config = ConfigDict(frozen=True)

    sample: str
    score: float
    p_value: float
    q_value: float


def conformal_p_values(scores: Floats, null: Floats) -> Floats:
    """(1 + number of null scores >= s) / (m + 1) of each score s, for scores ``[n]`` and a null ``[m]``.

    P(p <= a) <= a exactly for a score exchangeable with the null (Vovk, Gammerman, Shafer 2005, proposition 2.4).
    """
    below = np.searchsorted(np.sort(null), scores, side="left").astype(np.float64)
    p_values: Floats = (1 + len(null) - below) / (len(null) + 1)
    return p_values


def q_values(p_values: Floats) -> Floats:
    """Adjusted p-values ``[n]`` of Benjamini and Hochberg (1995): those at most q are found at the rate q."""
    num = len(p_values)
    order = np.argsort(p_values, kind="stable")[::-1]
    scaled = p_values[order] * num / np.arange(num, 0, -1)
    adjusted = np.empty(num)
    adjusted[order] = np.minimum(1.0, np.minimum.accumulate(scaled))
    return adjusted


def significant_samples(
    names: Sequence[str] | NDArray[Any], scores: Floats, null: Floats, *, fdr: float
) -> tuple[SignificantSample, ...]:
    """The memorized among candidates ``[n]`` at a false discovery rate, most significant first."""
    if len(scores) == 0 or len(null) == 0:
        return ()
    p = conformal_p_values(scores, null)
    q = q_values(p)
    order = sorted(np.flatnonzero(q <= fdr).tolist(), key=lambda i: (p[i], -scores[i], names[i]))
    return tuple(
        SignificantSample(sample=names[i], score=float(scores[i]), p_value=float(p[i]), q_value=float(q[i]))
        for i in order
    )


def fewest_discoverable(num_candidates: int, num_null: int, fdr: float) -> int:
    """How many candidates must exceed every null score before any can be found: resolution of the null."""
    return max(1, ceil(num_candidates / (fdr * (num_null + 1)) - 1e-9))
