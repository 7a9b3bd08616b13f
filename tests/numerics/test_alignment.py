"""Alignment distances against plain loops, and standard errors against what repeated draws show."""

from typing import get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from sslmem.alignment import alignment_distances, standard_errors
from sslmem.spec import Distance, Pairing
from tests.numerics.reference import naive_distances

DRAWS = 4000


@pytest.mark.parametrize("closeness", [1.0, 0.1, 0.01])
@pytest.mark.parametrize("views", [2, 25, 26, 50])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("pairing", get_args(Pairing))
@pytest.mark.parametrize("distance", get_args(Distance))
def test_alignment_distance_is_that_of_plain_loops(
    distance: Distance, pairing: Pairing, views: int, closeness: float, *, normalize: bool
) -> None:
    generator = np.random.default_rng(views)
    vectors = (generator.normal(size=(2, 1, 12)) + closeness * generator.normal(size=(2, views, 12))).astype(np.float32)
    found = alignment_distances(torch.from_numpy(vectors), pairing=pairing, distance=distance, normalize=normalize)
    for sample, distances in zip(vectors.astype(np.float64).tolist(), found.double().numpy(), strict=True):
        expected = np.array(naive_distances(sample, pairing=pairing, distance=distance, normalize=normalize))
        assert distances.shape == expected.shape
        assert abs(distances.mean() / expected.mean() - 1) <= 1e-5
        np.testing.assert_allclose(distances, expected, rtol=1e-4)


@pytest.mark.parametrize(("group", "views"), [(2, 4), (2, 26), (4, 12), (8, 32)])
@pytest.mark.parametrize("distance", get_args(Distance))
def test_alignment_distance_across_groups_is_that_of_plain_loops(distance: Distance, group: int, views: int) -> None:
    vectors = np.random.default_rng(views).normal(size=(2, views, 6)).astype(np.float32)
    found = alignment_distances(
        torch.from_numpy(vectors), pairing="views", distance=distance, normalize=True, group=group
    )
    for sample, distances in zip(vectors.astype(np.float64).tolist(), found.double().numpy(), strict=True):
        expected = naive_distances(sample, pairing="views", distance=distance, normalize=True, group=group)
        np.testing.assert_allclose(distances, expected, rtol=1e-4)


def root_mean_square(errors: Tensor) -> float:
    """The variance is what is estimated without bias; its root is too small on average, of few views by much."""
    return errors.square().mean().sqrt().item()


def drawn_differences(views: int, kind: str) -> NDArray[np.float64]:
    """Differences of alignment distances of one sample, whose views are drawn again and again ``[DRAWS, P]``.

    ``plain``: reference and target spread the views differently; ``unit``: the same, normalised; ``outlier``: some
    views are far from all others.
    """
    generator = torch.Generator().manual_seed(views)
    noise = torch.randn(DRAWS, views, 6, generator=generator)
    if kind == "outlier":
        noise = noise * (1 + 4 * (torch.rand(DRAWS, views, 1, generator=generator) < 0.1))
    weights = torch.linspace(0.2, 2, 6)
    target, reference = (
        alignment_distances(1 + vectors, pairing="views", distance="l2", normalize=kind == "unit").double()
        for vectors in (noise * weights, noise * weights.flip(0) * 0.7)
    )
    return (reference - target).numpy()


KINDS = ["plain", "unit", "outlier"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("views", [5, 10, 25])
def test_standard_error_of_pairs_is_the_spread_of_repeated_draws(kind: str, views: int) -> None:
    differences = drawn_differences(views, kind)
    reported = root_mean_square(standard_errors(torch.from_numpy(differences), pairing="views"))
    assert reported == pytest.approx(differences.mean(axis=1).std(ddof=1), rel=0.15)


@pytest.mark.parametrize("kind", KINDS)
def test_standard_error_of_the_fewest_views_is_too_large_rather_than_too_small(kind: str) -> None:
    differences = drawn_differences(4, kind)
    reported = root_mean_square(standard_errors(torch.from_numpy(differences), pairing="views"))
    spread = differences.mean(axis=1).std(ddof=1)
    assert 0.95 * spread <= reported <= 1.3 * spread


@pytest.mark.parametrize("views", [4, 5, 10, 25])
def test_standard_error_of_uncorrelated_pairs_is_too_large_rather_than_too_small(views: int) -> None:
    """The edge of the theory, where a pair tells nothing of the pairs that share a view: there the bound binds."""
    signs = torch.randn(DRAWS, views, generator=torch.Generator().manual_seed(views)).sign().double()
    first, second = torch.triu_indices(views, views, offset=1)
    differences = signs[:, first] * signs[:, second]
    reported = root_mean_square(standard_errors(differences, pairing="views"))
    spread = differences.mean(dim=1).std().item()
    assert 0.85 * spread <= reported <= 1.75 * spread


@pytest.mark.parametrize("views", [2, 5, 25])
def test_standard_error_of_originals_is_the_spread_of_repeated_draws(views: int) -> None:
    generator = torch.Generator().manual_seed(views)
    noise = torch.randn(DRAWS, views, 6, generator=generator)
    original = torch.ones(DRAWS, 1, 6)  # the same in every draw, as an image is
    weights = torch.linspace(0.2, 2, 6)
    both = [
        alignment_distances(
            torch.cat([original, original + noise * w], dim=1), pairing="original", distance="l2", normalize=False
        ).double()
        for w in (weights, weights.flip(0) * 0.7)
    ]
    differences = both[1] - both[0]
    reported = root_mean_square(standard_errors(differences, pairing="original"))
    assert reported == pytest.approx(differences.mean(dim=1).std().item(), rel=0.15)


@pytest.mark.parametrize("views", [10, 25])
def test_interval_of_two_standard_errors_mostly_covers_the_truth(views: int) -> None:
    differences = drawn_differences(views, "unit")
    reported = standard_errors(torch.from_numpy(differences), pairing="views").numpy()
    truth = differences.mean()
    covered = np.abs(differences.mean(axis=1) - truth) <= 2 * reported
    assert 0.85 <= covered.mean() <= 0.99


def test_variance_estimate_is_unbiased_where_its_bounds_do_not_bind() -> None:
    """Pairs that share a view are strongly correlated here, so that the estimate stays between the bounds."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(20_000, 12, generator=generator).double()
    first, second = torch.triu_indices(12, 12, offset=1)
    differences = values[:, first] + values[:, second] + 0.5 * values[:, first] * values[:, second]
    variance = standard_errors(differences, pairing="views").square()
    assert variance.mean().item() == pytest.approx(differences.mean(dim=1).var().item(), rel=0.03)


@pytest.mark.parametrize(("pairing", "num_groups"), [("views", 5), ("views", 8), ("original", 2), ("original", 8)])
@pytest.mark.parametrize("group", [2, 4])
def test_standard_error_of_groups_is_the_spread_of_repeated_draws(
    pairing: Pairing, num_groups: int, group: int
) -> None:
    """The views of a group are opposites, or nearly so, which no estimate from single views would see."""
    generator = torch.Generator().manual_seed(group)
    noise = torch.randn(DRAWS, num_groups, group // 2, 1, 6, generator=generator)
    opposites = torch.cat([noise, 0.3 * torch.randn(noise.shape, generator=generator) - noise], dim=3)
    views = opposites.view(DRAWS, num_groups * group, 6)
    original = torch.ones(DRAWS, 1 if pairing == "original" else 0, 6)
    weights = torch.linspace(0.2, 2, 6)
    both = [
        alignment_distances(
            torch.cat([original, 1 + views * w], dim=1), pairing=pairing, distance="l2", normalize=False, group=group
        ).double()
        for w in (weights, weights.flip(0) * 0.7)
    ]
    differences = both[1] - both[0]
    spread = differences.mean(dim=1).std().item()
    reported = root_mean_square(standard_errors(differences, pairing=pairing, group=group))
    assert reported == pytest.approx(spread, rel=0.15)
