"""Low-discrepancy numbers by counter: Sobol points, scrambled independently for each group of a few views.

The views of a group spread evenly over the parameters of every augmentation; views of different groups are
independent, so that pairs across groups are pairs of independent views, as the definition has them. Points are those
of Sobol (1967), scrambled by nested uniform permutations (Owen 1995, in Monte Carlo and Quasi-Monte
Carlo Methods in Scientific Computing).
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from sslmem.views.philox import uniforms, words

MAX_POINTS = 16
_GROUPS = 1 << 31  # counters of groups, far above those of views


def sobol(points: int, seed: int, keys: Sequence[str], views: range, count: int) -> NDArray[np.float64]:
    """Draws numbers in (0, 1), each uniform, for views of samples; the views of a group share one scrambled net.

    Args:
        points: views in a group: 2, 4, 8 or 16. View v is in group v // points.
        seed: 0 <= seed < 2^64.
        keys: the N sample keys.
        views: the V view indices.
        count: how many numbers each view needs.

    Returns:
        ``[N, V, count]``.
    """
    indices = np.arange(views.start, views.stop, views.step)
    groups, of_view = np.unique(indices // points, return_inverse=True)
    flips = words(seed, keys, _GROUPS + groups, count)[:, of_view]  # a bit for each node of the tree of strata
    strata = _strata(points, count)[indices % points]  # [V, count]
    node, scrambled = np.ones_like(strata), np.zeros_like(flips)
    for level in reversed(range(points.bit_length() - 1)):
        bit = (strata >> np.uint32(level)) & np.uint32(1)
        scrambled = 2 * scrambled + (bit ^ ((flips >> node) & np.uint32(1)))
        node = 2 * node + bit
    return (scrambled + uniforms(seed, keys, views, count)) / points


@lru_cache(maxsize=64)
def _strata(points: int, count: int) -> NDArray[np.uint32]:
    """Which of as many strata as points each Sobol point is in, for each number: ``[points, count]``."""
    strata: NDArray[np.uint32] = (qmc.Sobol(count, scramble=False).random(points) * points).astype(np.uint32)
    return strata
