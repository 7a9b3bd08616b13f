"""Conformal p-values and the list of memorized candidates."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import stats

from sslmem.report.conformal import conformal_p_values, fewest_discoverable, q_values, significant_samples

Floats = NDArray[np.float64]
SCORES = st.integers(1, 30).flatmap(lambda n: arrays(np.float64, n, elements=st.floats(-2, 2, width=16)))


@given(SCORES, SCORES)
def test_p_value_counts_the_null_at_or_above_the_score(scores: Floats, null: Floats) -> None:
    expected = [(1 + sum(value >= score for value in null)) / (len(null) + 1) for score in scores]
    assert conformal_p_values(scores, null).tolist() == pytest.approx(expected)


def test_p_value_of_an_unmemorized_candidate_is_at_most_a_no_more_often_than_a_however_scores_are_distributed() -> None:
    generator = np.random.default_rng(0)
    draws = generator.standard_cauchy((20_000, 40)).round(1)  # heavy tails, and ties
    p = np.array([conformal_p_values(draw[:1], draw[1:])[0] for draw in draws])
    for level in (0.05, 0.1, 0.5):
        assert (p <= level).mean() <= level + 3 * np.sqrt(level * (1 - level) / len(p))
    assert (p <= 0.5).mean() > 0.45  # and is not far below either


@given(SCORES.map(lambda values: np.abs(values) / 2.001))
def test_q_values_are_scipys(p_values: Floats) -> None:
    assert q_values(p_values) == pytest.approx(stats.false_discovery_control(p_values))


def test_share_of_false_discoveries_stays_at_the_stated_rate_although_candidates_share_their_null() -> None:
    generator = np.random.default_rng(0)
    proportions, found = [], []
    for _ in range(1000):
        null = generator.normal(size=200)
        scores = np.concatenate([generator.normal(size=30), generator.normal(3.5, 1, size=10)])
        names = [f"clean-{i}" for i in range(30)] + [f"memorized-{i}" for i in range(10)]
        listed = [one.sample for one in significant_samples(names, scores, null, fdr=0.1)]
        proportions.append(sum(name.startswith("clean") for name in listed) / max(1, len(listed)))
        found.append(sum(name.startswith("memorized") for name in listed))
    assert np.mean(proportions) <= 0.1
    assert np.mean(found) > 6


def test_significant_samples_come_with_the_most_significant_first_and_say_at_which_rate_they_are_found() -> None:
    null = np.arange(99.0)
    found = significant_samples(["a", "b", "c"], np.array([97.5, 200.0, 3.0]), null, fdr=0.05)
    assert [one.sample for one in found] == ["b", "a"]
    assert [one.p_value for one in found] == pytest.approx([0.01, 0.02])
    assert [one.q_value for one in found] == pytest.approx([0.03, 0.03])


def test_without_candidates_or_null_nothing_is_significant() -> None:
    assert significant_samples([], np.empty(0), np.ones(3), fdr=0.05) == ()
    assert significant_samples(["a"], np.ones(1), np.empty(0), fdr=0.05) == ()


@given(st.integers(1, 300), st.integers(1, 2000), st.sampled_from([0.01, 0.05, 0.2]))
def test_resolution_of_the_null_is_what_the_procedure_finds(num: int, num_null: int, fdr: float) -> None:
    fewest = fewest_discoverable(num, num_null, fdr)
    names, null = [str(i) for i in range(num)], np.zeros(num_null)

    def number_found(above: int) -> int:
        scores = np.where(np.arange(num) < above, 1.0, -1.0)
        return len(significant_samples(names, scores, null, fdr=fdr))

    if fewest <= num:
        assert number_found(fewest) >= fewest
    assert number_found(min(fewest - 1, num)) == 0
