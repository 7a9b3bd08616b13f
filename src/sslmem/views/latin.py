"""Numbers by counter for views in groups that spread evenly: a Latin hypercube for each group (McKay et al. 1979).

Each number of a view lies in a stratum of (0, 1) that no other view of its group lies in, at a random place, and which
view has which stratum is drawn anew for each number and group. So each view alone is as uniform as any, views of
different groups are independent, and pairs across groups are pairs of independent views, as the definition has them.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sslmem.views.philox import uniforms, words

_STRATA = 1 << 31  # counters of the strata, far above those of the places within them


def latin(points: int, seed: int, keys: Sequence[str], views: range, count: int) -> NDArray[np.float64]:
    """Draws numbers in (0, 1) for views of samples, evenly spread within each group.

    Args:
        points: views in a group; view v is in group v // points.
        seed: 0 <= seed < 2^64.
        keys: the N sample keys.
        views: the V view indices.
        count: how many numbers each view needs.

    Returns:
        ``[N, V, count]``.
    """
    indices = np.arange(views.start, views.stop, views.step)
    groups, of_view = np.unique(indices // points, return_inverse=True)
    members = (groups[:, None] * points + np.arange(points)).ravel()  # all views of these groups
    drawn = words(seed, keys, _STRATA + members, count).reshape(len(keys), len(groups), points, count)
    strata = drawn.argsort(axis=2, kind="stable")  # of random words: a uniform permutation
    mine = strata[:, of_view, indices % points]
    return (mine + uniforms(seed, keys, views, count)) / points
