"""Random numbers by counter."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from sslmem.views.philox import philox, uniforms

# The known-answer vectors of Philox4x32-10 that Random123 publishes: counter, key, result.
VECTORS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]
KEYS = st.lists(st.text(max_size=10), min_size=1, max_size=5)


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
def test_known_answers_come_out(counter: str, key: str, expected: str) -> None:
    result = philox(np.array(words(counter), dtype=np.uint32), np.array(words(key), dtype=np.uint32))
    assert result.tolist() == words(expected)


def test_known_answers_come_out_of_one_array() -> None:
    counters = np.array([words(counter) for counter, _, _ in VECTORS], dtype=np.uint32)
    keys = np.array([words(key) for _, key, _ in VECTORS], dtype=np.uint32)
    assert philox(counters, keys).tolist() == [words(expected) for _, _, expected in VECTORS]


def test_inputs_stay_as_they_were() -> None:
    counter, key = np.ones(4, dtype=np.uint32), np.ones(2, dtype=np.uint32)
    philox(counter, key)
    assert counter.tolist() == [1] * 4
    assert key.tolist() == [1] * 2


def test_numbers_are_uniform() -> None:
    numbers = uniforms(0, [f"sample {i}" for i in range(200)], range(20), 25).ravel()
    assert kstest(numbers, "uniform").pvalue > 0.01
    assert chisquare(np.histogram(numbers, bins=256, range=(0, 1))[0]).pvalue > 0.01


def test_neighbouring_numbers_views_samples_and_seeds_are_uncorrelated() -> None:
    numbers = np.stack([uniforms(seed, [f"{i}" for i in range(50)], range(20), 24) for seed in (0, 1)])
    for axis in range(4):
        first, second = np.delete(numbers, -1, axis).ravel(), np.delete(numbers, 0, axis).ravel()
        assert abs(np.corrcoef(first, second)[0, 1]) < 4 / np.sqrt(first.size)


def test_numbers_stay_strictly_between_zero_and_one() -> None:
    numbers = uniforms(3, ["a"], range(100), 1000)
    assert numbers.min() > 0
    assert numbers.max() < 1


def test_no_two_views_of_any_sample_share_their_numbers() -> None:
    numbers = uniforms(0, [f"{i}" for i in range(100)], range(50), 4).reshape(-1, 4)
    assert len(np.unique(numbers, axis=0)) == len(numbers)


@given(st.integers(0, 2**64 - 1), KEYS, st.integers(0, 5), st.integers(1, 6), st.integers(1, 12))
def test_numbers_of_a_sample_do_not_depend_on_the_others(
    seed: int, keys: list[str], start: int, count: int, num: int
) -> None:
    views = range(start, start + count)
    together = uniforms(seed, keys, views, num)
    for i, key in enumerate(keys):
        np.testing.assert_array_equal(together[i], uniforms(seed, [key], views, num)[0])


@given(KEYS, st.integers(1, 12))
def test_further_views_leave_the_earlier_ones_as_they_were(keys: list[str], num: int) -> None:
    np.testing.assert_array_equal(uniforms(7, keys, range(9), num)[:, :4], uniforms(7, keys, range(4), num))


@given(KEYS, st.integers(1, 12))
def test_views_may_be_made_from_any_index_on(keys: list[str], num: int) -> None:
    np.testing.assert_array_equal(uniforms(7, keys, range(9), num)[:, 2:8:2], uniforms(7, keys, range(2, 8, 2), num))


def test_further_numbers_leave_the_earlier_ones_as_they_were() -> None:
    np.testing.assert_array_equal(uniforms(7, ["a"], range(3), 30)[..., :13], uniforms(7, ["a"], range(3), 13))


def test_both_halves_of_the_seed_count() -> None:
    numbers = [uniforms(seed, ["a"], range(1), 4).tolist() for seed in (0, 1, 2**32, 2**63)]
    assert len({str(n) for n in numbers}) == 4
