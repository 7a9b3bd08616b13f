"""Alignment distances between representations of views, and the score with its standard error.

Wang et al. 2024 (arXiv 2401.12233), equation 1: m(x) = E d(g(x'), g(x'')) - E d(f(x'), f(x'')). With V views of
a sample the expectation over pairs of views is the mean over all V (V - 1) / 2 pairs, a U-statistic: no more
forwards than disjoint pairs, less variance. Where the views come in groups that spread evenly over the augmentations'
parameters (see :mod:`sslmem.views.latin`), the pairs are those across groups, of independent views, and a group counts
as one observation.
"""

import torch
from torch import Tensor

from sslmem.spec import Distance, Pairing

MIN_FOR_ERROR = 4  # views, or groups of them: the variance of a U-statistic needs two disjoint pairs


def unit(representations: Tensor) -> Tensor:
    """Scales vectors ``[..., D]`` to unit length; a zero vector gives NaN, which is reported, not averaged in."""
    lengths: Tensor = torch.linalg.vector_norm(representations, dim=-1, keepdim=True)
    return representations / lengths


def distance_between(a: Tensor, b: Tensor, distance: Distance) -> Tensor:
    """Distances of vectors ``[..., D]``, by explicit differences: no cancellation, no change of algorithm.

    ``cosine`` (1 - cos) and ``angular`` (angle / pi) expect unit vectors and follow from their difference.
    """
    length: Tensor
    match distance:
        case "l1":
            return (a - b).abs().sum(dim=-1)
        case "l2":
            length = torch.linalg.vector_norm(a - b, dim=-1)
            return length
        case "cosine":
            return (a - b).square().sum(dim=-1) / 2
        case "angular":
            length = torch.linalg.vector_norm(a - b, dim=-1)
            return 2 / torch.pi * torch.asin((length / 2).clamp(max=1))


def alignment_distances(
    representations: Tensor, *, pairing: Pairing, distance: Distance, normalize: bool, group: int = 1
) -> Tensor:
    """The distances whose mean is the alignment distance of each sample.

    Args:
        representations: ``[N, V, D]``; for the pairing ``original`` the first of V is the image as it is.
        pairing: which representations are compared.
        distance: how.
        normalize: whether vectors are scaled to unit length first; cosine and angular always do.
        group: of so many consecutive views, which are not compared with each other.

    Returns:
        float32 ``[N, P]``: the pairs of views of different groups in lexicographic order, with groups of one all
        P = V (V - 1) / 2 of them, or the V - 1 views for ``original``.
    """
    vectors = representations.float()
    if normalize or distance in ("cosine", "angular"):
        vectors = unit(vectors)
    views = vectors.shape[1]
    others = [1] if pairing == "original" else [(i // group + 1) * group for i in range(views - group)]
    blocks = [distance_between(vectors[:, i : i + 1], vectors[:, j:], distance) for i, j in enumerate(others)]
    return torch.cat(blocks, dim=1)


def standard_errors(differences: Tensor, *, pairing: Pairing, group: int = 1) -> Tensor:
    """Standard error of each sample's mean difference over views.

    For ``original`` the differences of the views are independent: sd / sqrt(V). For ``views`` they are those of a
    U-statistic of order two: its variance is estimated without bias as U^2 minus the mean product of disjoint
    pairs, then held within the bounds that Hoeffding's decomposition sets (Hoeffding 1948, theorem 5.2):
    2 z / (V (V - 1)) and 2 z / V for pair variance z. Of views in groups, the groups are the independent observations:
    the same holds of V groups and the mean differences between them.

    Args:
        differences: ``[N, P]``, reference's minus target's distance of each pair (or view).
        pairing: as in :func:`alignment_distances`.
        group: as there.

    Returns:
        float64 ``[N]``; NaN where there are too few views, or groups: fewer than 4, for ``original`` fewer than 2.
    """
    h = _means_of_groups(differences.double(), pairing, group)
    num = h.shape[1]
    h = h - h.mean(dim=1, keepdim=True)
    if pairing == "original":
        return h.square().sum(dim=1).div(num - 1).div(num).sqrt() if num > 1 else h.new_full((len(h),), torch.nan)
    views = round((1 + (1 + 8 * num) ** 0.5) / 2)
    if views < MIN_FOR_ERROR:
        return h.new_full((len(h),), torch.nan)
    first, second = torch.triu_indices(views, views, offset=1, device=h.device)
    row_sums = h.new_zeros(len(h), views).index_add(1, first, h).index_add(1, second, h)
    squares = h.square().sum(dim=1)
    disjoint = num * (views - 2) * (views - 3) / 2  # ordered pairs of disjoint pairs
    # Centred, so U = 0, and the products of all disjoint pairs sum to squares - sum of squared row sums.
    variance = (row_sums.square().sum(dim=1) - squares) / disjoint
    pair_variance = (squares / num + variance).clamp(min=0)
    lower, upper = 2 * pair_variance / (views * (views - 1)), 2 * pair_variance / views
    return torch.minimum(torch.maximum(variance, lower), upper).sqrt()


def _means_of_groups(h: Tensor, pairing: Pairing, group: int) -> Tensor:
    """Mean differences ``[N, P / group^2]`` of groups from those of their views, or ``[N, P / group]``."""
    if group == 1:
        return h
    if pairing == "original":
        return h.view(len(h), -1, group).mean(dim=2)
    groups = round((1 + (1 + 8 * h.shape[1] / group**2) ** 0.5) / 2)
    # In lexicographic order, the pairs of one group's views with those of all later groups are neighbours.
    sizes = [group**2 * later for later in range(groups - 1, 0, -1)]
    blocks = [part.view(len(h), group, -1, group).mean(dim=(1, 3)) for part in torch.split(h, sizes, dim=1)]
    return torch.cat(blocks, dim=1)
