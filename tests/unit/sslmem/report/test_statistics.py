"""Statistics of samples of scores, against scipy and against repeated draws."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import stats

from sslmem.report.statistics import auc_interval, mean, standard_error, welch_interval

Floats = NDArray[np.float64]
SAMPLES = st.integers(2, 30).flatmap(lambda n: arrays(np.float64, n, elements=st.floats(-10, 10, width=16)))
DRAWS = 1000


def test_nothing_has_no_mean_and_a_single_value_no_standard_error() -> None:
    assert mean(np.empty(0)) is None
    assert mean(np.array([3.0])) == 3.0
    assert standard_error(np.array([3.0])) is None


@given(SAMPLES)
def test_mean_and_standard_error_are_scipys(values: Floats) -> None:
    assert mean(values) == pytest.approx(values.mean())
    assert standard_error(values) == pytest.approx(stats.sem(values))


@given(SAMPLES, SAMPLES)
def test_welch_interval_is_scipys(a: Floats, b: Floats) -> None:
    assume(min(a.std(), b.std()) > 1e-3)  # scipy warns of constants, which are tested below
    found = welch_interval(a, b)
    assert found.estimate == pytest.approx(a.mean() - b.mean())
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_welch_interval_of_constants_is_a_point() -> None:
    found = welch_interval(np.full(3, 2.0), np.full(4, 1.5))
    assert (found.low, found.estimate, found.high) == (0.5, 0.5, 0.5)


def test_welch_interval_changes_its_sign_with_the_samples() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=8), generator.normal(1, 3, size=20)
    there, back = welch_interval(a, b), welch_interval(b, a)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))


@given(SAMPLES, SAMPLES)
def test_auc_is_the_mann_whitney_statistic(positives: Floats, negatives: Floats) -> None:
    expected = stats.mannwhitneyu(positives, negatives).statistic / (len(positives) * len(negatives))
    assert auc_interval(positives, negatives).estimate == pytest.approx(expected)


@given(SAMPLES, SAMPLES)
def test_auc_interval_lies_around_it_within_zero_and_one(positives: Floats, negatives: Floats) -> None:
    found = auc_interval(positives, negatives)
    assert 0 <= found.low <= found.estimate + 1e-12
    assert found.estimate - 1e-12 <= found.high <= 1
    assert found.high - found.low > 0.01


@given(SAMPLES, SAMPLES)
def test_auc_of_exchanged_samples_is_the_complement(positives: Floats, negatives: Floats) -> None:
    there, back = auc_interval(positives, negatives), auc_interval(negatives, positives)
    assert there.estimate == pytest.approx(1 - back.estimate)
    assert (there.low, there.high) == pytest.approx((1 - back.high, 1 - back.low))


@given(SAMPLES, SAMPLES)
def test_auc_depends_on_the_ranks_alone(positives: Floats, negatives: Floats) -> None:
    found = auc_interval(positives, negatives)
    stretched = auc_interval(np.exp(positives) * 3, np.exp(negatives) * 3)
    assert found.estimate == pytest.approx(stretched.estimate)
    assert (found.low, found.high) == pytest.approx((stretched.low, stretched.high))


def test_auc_of_separated_samples_is_one_with_an_interval_below() -> None:
    found = auc_interval(np.array([3.0, 4.0, 5.0, 6.0]), np.array([0.0, 1.0, 2.0]))
    assert found.estimate == found.high == 1.0
    assert 0.2 < found.low < 0.8


def test_auc_variance_is_delongs() -> None:
    """Compared with plain loops over pairs, through the interval that follows from it."""
    generator = np.random.default_rng(0)
    positives, negatives = generator.normal(0.7, 1, 23).round(1), generator.normal(0, 1, 31).round(1)
    wins = np.array([[float(p > n) + 0.5 * float(p == n) for n in negatives] for p in positives])
    area = wins.mean()
    variance = wins.mean(axis=1).var(ddof=1) / 23 + wins.mean(axis=0).var(ddof=1) / 31
    number, z = area * (1 - area) / variance, 1.959963984540054
    # Wilson's interval solves |p - area| = z sqrt(p (1 - p) / number).
    roots = np.roots([1 + z**2 / number, -(2 * area + z**2 / number), area**2])
    found = auc_interval(positives, negatives)
    assert (found.low, found.high) == pytest.approx((min(roots), max(roots)))


@pytest.mark.parametrize("size", [(12, 12), (40, 25), (100, 100)])
@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0])
def test_auc_interval_covers_the_truth_as_often_as_it_says(size: tuple[int, int], shift: float) -> None:
    generator = np.random.default_rng(0)
    truth = stats.norm.cdf(shift / np.sqrt(2))
    covered = 0
    for _ in range(DRAWS):
        found = auc_interval(generator.normal(shift, 1, size[0]), generator.normal(0, 1, size[1]))
        covered += found.low <= truth <= found.high
    assert 0.93 <= covered / DRAWS <= 0.985


def test_welch_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(DRAWS):
        found = welch_interval(generator.normal(1, 1, 10), generator.normal(0, 4, 30))
        covered += found.low <= 1 <= found.high
    assert 0.935 <= covered / DRAWS <= 0.965
