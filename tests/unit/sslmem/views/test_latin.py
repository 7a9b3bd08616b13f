"""Numbers of views in groups that spread evenly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from sslmem.views.latin import latin

POINTS = [2, 4, 8, 16]
KEYS = st.lists(st.text(max_size=10), min_size=1, max_size=5)
MANY = [f"sample {i}" for i in range(2000)]


@pytest.mark.parametrize("points", POINTS)
def test_each_stratum_of_each_number_holds_one_view_of_each_group(points: int) -> None:
    numbers = latin(points, 3, MANY[:50], range(3 * points), 34)
    strata = np.floor(numbers * points).reshape(50, 3, points, 34)
    assert (np.sort(strata, axis=2) == np.arange(points)[:, None]).all()


@pytest.mark.parametrize("points", POINTS)
def test_each_view_has_uniform_numbers(points: int) -> None:
    numbers = latin(points, 0, MANY, range(points), 3)
    for view in range(points):
        assert kstest(numbers[:, view].ravel(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("points", POINTS)
def test_two_numbers_of_a_view_are_independent(points: int) -> None:
    numbers = latin(points, 0, MANY, range(points), 24)
    for view in range(points):
        correlations = np.corrcoef(numbers[:, view].T) - np.eye(24)
        assert np.abs(correlations).max() < 5 / np.sqrt(len(MANY))


@pytest.mark.parametrize("points", POINTS)
def test_groups_are_independent_and_views_of_a_group_are_not(points: int) -> None:
    numbers = latin(points, 0, MANY, range(2 * points), 1)[..., 0]
    correlations = np.asarray(np.corrcoef(numbers.T))
    first, second = correlations[:points, :points], correlations[:points, points:]
    assert np.abs(second).max() < 5 / np.sqrt(len(MANY))
    off_diagonal = first[~np.eye(points, dtype=bool)]
    # Of a stratified sample the pairs share -1 / (points - 1) but for the place within a stratum.
    assert off_diagonal.mean() == pytest.approx(-(1 - points**-2) / (points - 1), abs=5 / np.sqrt(len(MANY)))


@pytest.mark.parametrize("points", POINTS)
def test_strata_of_two_numbers_are_paired_at_random(points: int) -> None:
    strata = np.floor(latin(points, 5, MANY, range(points), 2) * points).astype(int)
    together = np.zeros((points, points))
    np.add.at(together, (strata[..., 0], strata[..., 1]), 1)
    assert chisquare(together.ravel()).pvalue > 1e-3


@given(
    st.sampled_from(POINTS), st.integers(0, 2**63 - 1), KEYS, st.integers(0, 40), st.integers(1, 9), st.integers(1, 9)
)
def test_numbers_of_a_view_are_a_function_of_seed_sample_and_index(
    points: int, seed: int, keys: list[str], start: int, count: int, num: int
) -> None:
    together = latin(points, seed, keys, range(start + count), num)
    assert together.min() > 0
    assert together.max() < 1
    for i, key in enumerate(keys):
        alone = latin(points, seed, [key], range(start, start + count), num)
        np.testing.assert_array_equal(together[i, start:], alone[0])


def test_numbers_differ_between_seeds_samples_and_groups() -> None:
    numbers = np.stack([latin(4, seed, ["a", "b"], range(8), 5) for seed in (0, 1)])
    assert len(np.unique(numbers)) == numbers.size


@pytest.mark.parametrize("points", POINTS)
def test_mean_over_a_group_varies_as_that_of_a_stratified_sample(points: int) -> None:
    means = latin(points, 0, MANY, range(points), 10).mean(axis=1)
    assert means.var() == pytest.approx(1 / 12 / points**3, rel=0.1)
