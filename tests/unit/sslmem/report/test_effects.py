"""Effect sizes, detection and tests, against scipy, and against repeated draws whose truth is known."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import stats

from sslmem.report.effects import (
    Difference,
    detection_interval,
    hedges_interval,
    mann_whitney_p_value,
    share_interval,
    welch_p_value,
)
from sslmem.report.statistics import auc_interval, mean_interval, welch_interval

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Floats]
SAMPLES = st.integers(2, 30).flatmap(lambda n: arrays(np.float64, n, elements=st.floats(-10, 10, width=16)))
DRAWS = 1500
LEAST, MOST = 0.933, 0.967  # of 1,500 draws, at 95 %: three standard errors


def normal(generator: np.random.Generator, n: int) -> Floats:
    return generator.normal(0, 1, n)


def wider(generator: np.random.Generator, n: int) -> Floats:
    return generator.normal(1, 2, n)


def skewed(generator: np.random.Generator, n: int) -> Floats:
    return generator.gamma(4, 0.5, n)


TRUE_HEDGES: dict[tuple[Draw, Draw], float] = {  # (mean a - mean b) / pooled deviation with the weights 59 and 299
    (wider, normal): 1 / np.sqrt((59 * 4 + 299) / 358),
    (skewed, normal): 2 / np.sqrt((59 * 1 + 299) / 358),
    (normal, normal): 0.0,
}


@pytest.mark.parametrize(("ours", "null"), TRUE_HEDGES)
def test_hedges_interval_covers_the_true_effect_for_unequal_variances_and_skew(ours: Draw, null: Draw) -> None:
    generator, covered = np.random.default_rng(0), 0
    for _ in range(DRAWS):
        found = hedges_interval(ours(generator, 60), null(generator, 300), 0.95)
        assert found is not None
        covered += found.low <= TRUE_HEDGES[ours, null] <= found.high
    assert LEAST <= covered / DRAWS <= MOST


def few_strong(generator: np.random.Generator, n: int) -> Floats:
    """Skewed to the right, as where few candidates are strongly memorized; mean 1."""
    return generator.gamma(1, 1, n)


def test_interval_of_a_skewed_difference_errs_on_each_side_about_as_often_as_stated_and_welchs_does_not() -> None:
    generator, ours, welchs = np.random.default_rng(0), [0, 0], [0, 0]
    for _ in range(DRAWS):
        a, b = few_strong(generator, 60), normal(generator, 300)
        for found, errors in ((Difference.of(a, b).interval(0.95), ours), (welch_interval(a, b), welchs)):
            errors[0] += found.low > 1
            errors[1] += found.high < 1
    assert max(ours) / DRAWS <= 0.037
    assert max(welchs) / DRAWS >= 0.04


def test_interval_without_skew_is_welchs() -> None:
    a, b = np.array([1.0, 2.0, 3.0, 4.0]), np.array([-1.0, 0.0, 1.0])
    found, expected = Difference.of(a, b).interval(0.9), welch_interval(a, b, 0.9)
    assert (found.low, found.estimate, found.high) == pytest.approx((expected.low, expected.estimate, expected.high))


@given(SAMPLES, SAMPLES, st.floats(0.05, 0.999))
def test_interval_of_a_difference_holds_what_its_deviate_does_not_reject(
    a: Floats, b: Floats, confidence: float
) -> None:
    difference = Difference.of(a, b)
    found = difference.interval(confidence)
    assert found.low <= found.estimate <= found.high
    if difference.error > 1e-3 and found.low < found.estimate < found.high:
        limit = float(stats.norm.isf((1 - confidence) / 2))
        assert difference.z(found.low) == pytest.approx(limit, abs=1e-4)
        assert difference.z(found.high) == pytest.approx(-limit, abs=1e-4)


def test_auc_interval_covers_the_true_area() -> None:
    truth, generator = float(stats.norm.cdf(1 / np.sqrt(5))), np.random.default_rng(0)
    found = [auc_interval(wider(generator, 60), normal(generator, 300)) for _ in range(DRAWS)]
    assert LEAST <= np.mean([one.low <= truth <= one.high for one in found]) <= MOST


@pytest.mark.parametrize(("rate", "num_null"), [(0.001, 1000), (0.01, 300), (0.05, 100)])
def test_detection_interval_covers_the_true_share_with_its_estimated_threshold(rate: float, num_null: int) -> None:
    truth = float(stats.norm.sf((stats.norm.isf(rate) - 1) / 2))
    generator, covered = np.random.default_rng(0), 0
    for _ in range(DRAWS):
        found = detection_interval(wider(generator, 80), normal(generator, num_null), rate, 0.95)
        assert found is not None
        assert found.low <= found.estimate <= found.high
        covered += found.low <= truth <= found.high
    assert covered / DRAWS >= 0.95


def test_detection_leaves_at_most_the_stated_share_of_the_null_above_its_threshold() -> None:
    null = np.arange(200.0)
    # 1 % of 200: two values may lie above the threshold, which is then 197.
    found = detection_interval(np.array([196.0, 197.0, 197.5, 250.0]), null, 0.01, 0.95)
    assert found is not None
    assert found.estimate == 0.5


def test_detection_is_not_told_from_a_null_too_small_for_its_rate() -> None:
    assert detection_interval(np.ones(5), np.arange(99.0), 0.01, 0.95) is None
    assert detection_interval(np.ones(5), np.arange(100.0), 0.01, 0.95) is not None


@given(SAMPLES, SAMPLES)
def test_hedges_g_of_exchanged_samples_changes_its_sign(a: Floats, b: Floats) -> None:
    there, back = hedges_interval(a, b, 0.95), hedges_interval(b, a, 0.95)
    if there is None or back is None:
        assert there is back
        return
    assert there.low <= there.estimate <= there.high
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=1e-6)


def test_hedges_g_does_not_depend_on_the_unit_of_scores() -> None:
    generator = np.random.default_rng(1)
    a, b = wider(generator, 20), normal(generator, 30)
    assert hedges_interval(a, b, 0.9) is not None
    one, other = hedges_interval(a, b, 0.9), hedges_interval(a * 7 + 3, b * 7 + 3, 0.9)
    assert one is not None
    assert other is not None
    assert (one.low, one.estimate, one.high) == pytest.approx((other.low, other.estimate, other.high))


def test_hedges_g_of_constants_is_not_told() -> None:
    assert hedges_interval(np.full(3, 2.0), np.full(4, 1.0), 0.95) is None


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_share_interval_is_clopper_pearsons(count_and_total: tuple[int, int]) -> None:
    count, total = count_and_total
    found = share_interval(count, total, 0.9)
    expected = stats.binomtest(count, total).proportion_ci(0.9, method="exact")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


@given(SAMPLES)
def test_mean_interval_is_scipys(values: Floats) -> None:
    found = mean_interval(values, 0.8)
    if np.ptp(values) < 1e-6:
        assert found.low == pytest.approx(found.high, abs=1e-3)
        return
    expected = stats.t.interval(0.8, len(values) - 1, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected)


@given(SAMPLES, SAMPLES)
def test_p_values_are_scipys(a: Floats, b: Floats) -> None:
    if min(np.ptp(a), np.ptp(b)) < 1e-3:
        assert 0 <= welch_p_value(a, b) <= 1
        assert 0 <= mann_whitney_p_value(a, b) <= 1
        return
    assert welch_p_value(a, b) == pytest.approx(stats.ttest_ind(a, b, equal_var=False, alternative="greater").pvalue)
    expected = stats.mannwhitneyu(a, b, alternative="greater", method="asymptotic").pvalue
    assert mann_whitney_p_value(a, b) == pytest.approx(expected)


def test_samples_without_any_spread_give_certain_p_values() -> None:
    assert welch_p_value(np.full(3, 2.0), np.full(3, 1.0)) == 0.0
    assert welch_p_value(np.full(3, 1.0), np.full(3, 1.0)) == 1.0
    assert mann_whitney_p_value(np.full(3, 1.0), np.full(3, 1.0)) == 1.0
