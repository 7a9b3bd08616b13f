"""The decisions of the evidence on really trained encoders: a small version of docs/statistics.md."""

import functools
from itertools import permutations

import numpy as np
import pytest
from scipy.stats import binom

from benchmarks.statistics.audits import Measured, Nulls, outcome_of, planted
from benchmarks.statistics.population import GROUP, Split, split_digits, train_and_measure
from demo.digits import Digit

EPOCHS, GROUPS, AUDITS = 40, 3, 100


@functools.cache
def population() -> tuple[list[Digit], Split, Measured]:
    """Three encoders, each trained on images of its own."""
    digits, split = split_digits(GROUPS)
    measured = {
        (group, 1, epoch): distances
        for group in range(GROUPS)
        for epoch, distances in train_and_measure(digits, split, group, epochs=(EPOCHS,)).items()
    }
    return digits, split, measured


@pytest.mark.parametrize("kind", ["split_externals", "exchanged", "trained_on_neither"])
def test_null_audits_raise_no_more_false_alarms_than_stated(kind: str) -> None:
    digits, split, measured = population()
    nulls = Nulls(measured, split, EPOCHS)
    audits = nulls.split_externals(AUDITS, 40) if kind == "split_externals" else getattr(nulls, kind)(AUDITS)
    found = outcome_of(digits, audits)
    assert found.excess.total == AUDITS
    # At the stated level, more than this would be seen once in a hundred times.
    assert found.excess.count <= binom.ppf(0.99, AUDITS, 0.025)
    assert found.discoveries.count <= binom.ppf(0.99, AUDITS, 0.05)


def test_what_the_target_alone_was_trained_on_scores_above_the_null_and_what_the_reference_was_below() -> None:
    _, split, measured = population()
    ours, theirs = [], []
    for i, j in permutations(range(GROUPS), 2):
        scores = (measured[j, 1, EPOCHS] - measured[i, 1, EPOCHS]).mean(axis=1)
        ours.append(scores[split.groups[i]].mean() - scores[split.rest].mean())
        theirs.append(scores[split.groups[j]].mean() - scores[split.rest].mean())
    assert np.mean(ours) > 0.005
    assert np.mean(theirs) < -0.005


def test_planted_audits_pair_each_target_with_images_of_its_own_group() -> None:
    _, split, measured = population()
    audits = list(planted(measured, split, epochs=EPOCHS, num_candidates=GROUP))
    assert len(audits) == GROUPS * (GROUPS - 1)
    for (targets, _, ours, externals), (i, _) in zip(audits, permutations(range(GROUPS), 2), strict=True):
        assert targets[0] is measured[i, 1, EPOCHS]
        assert set(ours) == set(split.groups[i])
        assert set(externals) <= set(split.rest)
