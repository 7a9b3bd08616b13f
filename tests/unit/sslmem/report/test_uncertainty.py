"""Standard errors of the excess by their source, against closed forms and repeated training runs that are simulated."""

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from sslmem.report.rows import ScoreRow
from sslmem.report.uncertainty import uncertainty_of
from tests.unit.builders import row

Floats = NDArray[np.float64]
RUNS = 120


def rows_of(targets: Floats, references: Floats, *, error: float | None = 0.01) -> list[ScoreRow]:
    """Rows from alignment distances ``[n, K]``."""
    return [
        dataclasses.replace(
            row(f"{i:04}.png", None, float(g.mean() - f.mean()), error=error),
            alignment_targets=tuple(f),
            alignment_references=tuple(g),
        )
        for i, (f, g) in enumerate(zip(targets, references, strict=True))
    ]


def simulated(
    generator: np.random.Generator, num_targets: int, num_references: int, *, between: float
) -> tuple[list[ScoreRow], list[ScoreRow]]:
    """Candidates and externals without memorization: each encoder treats the two kinds of images a bit differently."""
    shift = [generator.normal(0, between, k) for k in (num_targets, num_references)]
    sides = []
    for num, sign in ((40, 1), (80, -1)):
        difficulty = generator.normal(1, 0.2, (num, 1))
        f, g = (difficulty + sign * one / 2 + generator.normal(0, 0.05, (num, len(one))) for one in shift)
        sides.append(rows_of(f, g))
    return sides[0], sides[1]


def test_one_target_and_one_reference_tell_nothing_about_models() -> None:
    found, interval = uncertainty_of(*simulated(np.random.default_rng(0), 1, 1, between=0.1), confidence=0.95, seed=0)
    assert (found.models, found.combined, interval) == (None, None, None)
    assert found.views_and_samples > 0


def test_views_and_samples_add_up_to_what_welchs_interval_uses() -> None:
    candidates, externals = simulated(np.random.default_rng(0), 1, 1, between=0.1)
    found, _ = uncertainty_of(candidates, externals, confidence=0.95, seed=0)
    scores = [np.array([one.score for one in rows], dtype=np.float64) for rows in (candidates, externals)]
    assert found.views_and_samples**2 == pytest.approx(sum(s.var(ddof=1) / len(s) for s in scores))
    assert found.views == pytest.approx(0.01 * np.sqrt(1 / 40 + 1 / 80))
    assert found.samples is not None
    assert found.views is not None
    assert found.samples**2 + found.views**2 == pytest.approx(found.views_and_samples**2)


def test_views_and_samples_are_not_told_apart_with_too_few_views() -> None:
    f, g = np.random.default_rng(0).normal(1, 0.1, (2, 30, 1))
    found, _ = uncertainty_of(rows_of(f, g, error=None), rows_of(g, f), confidence=0.95, seed=0)
    assert (found.views, found.samples) == (None, None)
    assert found.views_and_samples > 0


def test_spread_of_models_is_that_of_their_mean() -> None:
    candidates, externals = simulated(np.random.default_rng(3), 4, 6, between=0.3)
    found, _ = uncertainty_of(candidates, externals, confidence=0.95, seed=0)
    expected = 0.0
    for name in ("alignment_targets", "alignment_references"):
        a, b = (np.array([getattr(one, name) for one in rows]).mean(axis=0) for rows in (candidates, externals))
        expected += (a - b).var(ddof=1) / len(a)
    assert found.models == pytest.approx(np.sqrt(expected), rel=0.05)
    assert found.combined is not None
    assert found.combined**2 == pytest.approx(expected + found.views_and_samples**2, rel=0.1)


@pytest.mark.parametrize(("num_targets", "num_references"), [(3, 3), (2, 5)])
def test_interval_over_models_covers_no_memorization_where_that_over_samples_does_not(
    num_targets: int, num_references: int
) -> None:
    generator = np.random.default_rng(0)
    over_models, over_samples = 0, 0
    for _ in range(RUNS):
        candidates, externals = simulated(generator, num_targets, num_references, between=0.1)
        found, interval = uncertainty_of(candidates, externals, confidence=0.95, seed=0)
        assert interval is not None
        over_models += interval.low <= 0 <= interval.high
        over_samples += abs(interval.estimate) <= 1.96 * found.views_and_samples
    assert over_models / RUNS >= 0.92
    assert over_samples / RUNS < 0.7


def test_one_target_is_held_fixed_among_several_references() -> None:
    candidates, externals = simulated(np.random.default_rng(0), 1, 4, between=0.3)
    found, interval = uncertainty_of(candidates, externals, confidence=0.95, seed=0)
    assert found.models is not None
    assert interval is not None
    a, b = (np.array([one.alignment_references for one in rows]).mean(axis=0) for rows in (candidates, externals))
    assert found.models == pytest.approx((a - b).std(ddof=1) / 2, rel=0.05)


def test_the_same_seed_gives_the_same_interval() -> None:
    sides = simulated(np.random.default_rng(0), 2, 3, between=0.1)
    assert uncertainty_of(*sides, confidence=0.9, seed=5) == uncertainty_of(*sides, confidence=0.9, seed=5)


def test_rows_without_distances_of_each_encoder_tell_nothing_about_models() -> None:
    candidates, externals = simulated(np.random.default_rng(0), 2, 2, between=0.1)
    bare = [dataclasses.replace(one, alignment_targets=None, alignment_references=None) for one in externals]
    assert uncertainty_of(candidates, bare, confidence=0.95, seed=0)[1] is None
