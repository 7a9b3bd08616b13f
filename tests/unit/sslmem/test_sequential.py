"""Scoring until a decision: limits, the error they keep, what they save, and the scores that come out."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import binom, norm

from sslmem.errors import SpecError
from sslmem.roles import Role
from sslmem.samples import Sample
from sslmem.scoring import SampleScore, Scorer
from sslmem.sequential import SequentialResult, limits, score_until_decided, spent
from sslmem.spec import ScoreSpec
from tests.unit.builders import sample, scene, small_encoder

Floats = NDArray[np.float64]
LEVEL = 0.025


@dataclass(frozen=True)
class Stored:
    """A scorer of scores that are known."""

    scores: dict[str, float]

    def score(self, samples: Iterable[Sample]) -> Iterator[list[SampleScore]]:
        yield [SampleScore(one.name, one.key, score=self.scores[one.name]) for one in samples]


def read(names: Sequence[str]) -> Iterator[Sample]:
    return (Sample(name, name, b"") for name in names)


def decide(candidates: Floats, externals: Floats, bound: float = 0.0) -> SequentialResult:
    parts: tuple[tuple[Role, Floats], ...] = (("candidate", candidates), ("external", externals))
    scores = {f"{role}-{i}": float(score) for role, values in parts for i, score in enumerate(values)}
    roles: dict[str, Role] = {f"{role}-{i}": role for role, values in parts for i in range(len(values))}
    return score_until_decided(Stored(scores), read, roles, bound=bound)


def test_limits_are_the_published_ones() -> None:
    # Two-sided 0.05, O'Brien-Fleming type spending, as ldbounds and East give them.
    assert limits((0.2, 0.4, 0.6, 0.8, 1.0), LEVEL) == pytest.approx([4.8769, 3.3569, 2.6803, 2.2898, 2.0310], abs=2e-4)


def test_a_single_look_has_the_limit_of_a_plain_test() -> None:
    assert limits((1.0,), LEVEL) == pytest.approx([norm.isf(LEVEL)])
    assert spent(1.0, LEVEL) == pytest.approx(LEVEL)


@pytest.mark.parametrize("shares", [(0.25, 0.5, 0.75, 1.0), (0.1, 0.15, 0.9, 1.0)])
def test_a_motion_without_drift_crosses_its_limits_as_often_as_stated(shares: tuple[float, ...]) -> None:
    runs = 200_000
    steps = np.diff([0.0, *shares]) ** 0.5
    motion = (np.random.default_rng(0).normal(size=(runs, len(shares))) * steps).cumsum(axis=1)
    crossed = (motion / np.sqrt(shares) > np.array(limits(shares, LEVEL))).any(axis=1).mean()
    assert crossed == pytest.approx(LEVEL, abs=3 * (LEVEL / runs) ** 0.5)


def test_on_the_bound_each_answer_is_wrong_no_more_often_than_stated() -> None:
    generator, runs = np.random.default_rng(0), 250
    verdicts = [decide(generator.normal(0, 2, 60), generator.normal(0, 1, 120)).verdict for _ in range(runs)]
    for verdict in ("above", "at-most"):
        assert verdicts.count(verdict) <= binom.ppf(0.99, runs, LEVEL)


@pytest.mark.parametrize(("shift", "verdict"), [(1.5, "above"), (-1.5, "at-most")])
def test_a_clear_case_is_decided_rightly_with_less_than_half_of_the_forwards(shift: float, verdict: str) -> None:
    generator = np.random.default_rng(0)
    results = [decide(generator.normal(shift, 1, 100), generator.normal(0, 1, 200)) for _ in range(20)]
    assert {result.verdict for result in results} == {verdict}
    assert np.mean([result.share_scored for result in results]) < 0.5


def test_a_case_on_the_bound_is_undecided_after_all_samples() -> None:
    values = np.linspace(-1, 1, 50)
    result = decide(values, values)
    assert (result.verdict, result.share_scored) == ("undecided", 1.0)
    assert result.looks[-1].share == 1.0


@pytest.mark.parametrize("shift", [0.0, 0.4, 1.5])
def test_the_interval_of_a_look_leaves_out_the_bound_just_when_the_look_decides(shift: float) -> None:
    generator = np.random.default_rng(0)
    for _ in range(5):
        for look in decide(generator.normal(shift, 1, 100), generator.normal(0, 1, 200)).looks:
            assert look.excess.low <= look.excess.estimate <= look.excess.high
            assert (look.excess.low > 0) == (look.z > look.limit)
            assert (look.excess.high < 0) == (look.z < -look.limit)


def test_no_look_is_taken_at_fewer_than_ten_of_a_role() -> None:
    result = decide(np.random.default_rng(0).normal(9, 1, 20), np.random.default_rng(1).normal(0, 1, 400))
    assert result.looks[0].share >= 0.5


def test_scores_without_any_spread_are_decided_by_their_side_of_the_bound() -> None:
    assert decide(np.full(40, 1.0), np.zeros(80), bound=0.5).verdict == "above"
    assert decide(np.full(40, 0.1), np.zeros(80), bound=0.5).verdict == "at-most"


def test_a_decision_needs_candidates_and_externals() -> None:
    with pytest.raises(SpecError, match="found 1 and 5"):
        decide(np.ones(1), np.ones(5))


def test_scores_are_those_of_a_full_run_and_other_roles_are_left_out() -> None:
    samples = {f"{i}.png": sample(f"{i}.png", scene(16, 16, i)) for i in range(24)}
    roles: dict[str, Role] = {name: ("candidate", "external", "shared")[i % 3] for i, name in enumerate(samples)}
    encoders = [small_encoder(seed) for seed in (1, 2)]
    spec = ScoreSpec(input_size=16, views=4)
    scorer = Scorer(encoders[:1], encoders[1:], spec, device=torch.device("cpu"), batch_size=4)
    full = {score.name: score for batch in scorer.score(samples.values()) for score in batch}
    result = score_until_decided(scorer, lambda names: [samples[name] for name in names], roles, bound=0.0)
    assert result.num_samples == 16
    assert {roles[score.name] for score in result.scores} == {"candidate", "external"}
    assert len({score.name for score in result.scores}) == len(result.scores)
    for score in result.scores:
        assert score.score == pytest.approx(full[score.name].score, rel=1e-4, abs=1e-6)
