"""The standard error of a score, and how few views suffice, on a really trained pair."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pytest

from sslmem.refine import num_forwards, score_refined
from sslmem.samples import Sample
from sslmem.scoring import SampleScore, Scorer, score
from sslmem.spec import Pairing, Refine, ScoreSpec
from tests.numerics.trained import CPU, RECIPE, SIZE, TrainedPair, trained_pair


@pytest.fixture(scope="module")
def pair() -> TrainedPair:
    return trained_pair()


def scores_of(pair: TrainedPair, samples: Sequence[Sample], spec: ScoreSpec) -> list[SampleScore]:
    batches = score([pair.target], [pair.reference], samples, spec, device=CPU, batch_size=16)
    return [one for batch in batches for one in batch]


def test_trained_pair_has_memorized_its_candidates(pair: TrainedPair) -> None:
    spec = ScoreSpec(recipe=RECIPE, input_size=SIZE)
    candidates, external = (
        np.array([s.score for s in scores_of(pair, samples, spec)], dtype=np.float64)
        for samples in (pair.candidates, pair.external[:300])
    )
    error = np.sqrt(candidates.var(ddof=1) / len(candidates) + external.var(ddof=1) / len(external))
    assert candidates.mean() - external.mean() > 3 * error


@pytest.mark.parametrize(
    ("pairing", "views", "stratify"),
    [
        ("views", 10, None),
        ("views", 5, None),
        ("original", 10, None),
        ("views", 16, 2),
        ("views", 16, 4),
        ("original", 16, 4),
    ],
)
def test_standard_error_is_the_spread_over_reseeded_runs(
    pair: TrainedPair, pairing: Pairing, views: int, stratify: Literal[2, 4] | None
) -> None:
    samples = pair.candidates[:40] + pair.external[:40]
    spec = ScoreSpec(recipe=RECIPE, input_size=SIZE, pairing=pairing, views=views, stratify=stratify)
    runs = [scores_of(pair, samples, spec.model_copy(update={"seed": seed})) for seed in range(30)]
    values = np.array([[s.score for s in run] for run in runs], dtype=np.float64)  # [runs, samples]
    errors = np.array([[s.standard_error for s in run] for run in runs], dtype=np.float64)
    spread = np.sqrt(values.var(axis=0, ddof=1).mean())
    reported = np.sqrt(np.square(errors).mean())
    assert reported == pytest.approx(spread, rel=0.15)


def test_two_stages_find_the_top_percent_with_a_quarter_of_the_forwards(pair: TrainedPair) -> None:
    samples = (pair.candidates + pair.external)[:1000]
    by_name = {s.name: s for s in samples}
    refined = ScoreSpec(recipe=RECIPE, input_size=SIZE, views=10, refine=Refine(views=128, share=0.15))
    uniform = ScoreSpec(recipe=RECIPE, input_size=SIZE, views=128)
    assert num_forwards(1000, refined) <= num_forwards(1000, uniform) / 4

    def scorer(spec: ScoreSpec) -> Scorer:
        return Scorer([pair.target], [pair.reference], spec, device=CPU, batch_size=8)

    everything = [one for batch in scorer(uniform).score(samples) for one in batch]
    found: dict[str, SampleScore] = {}
    for batch in score_refined(scorer, refined, lambda names: (by_name[name] for name in names), list(by_name)):
        found |= {one.name: one for one in batch}
    top = {s.name for s in sorted(everything, key=lambda s: -(s.score or 0))[:10]}
    second = {s.name for s in found.values() if s.num_views == 128}
    assert len(top & second) / len(top) >= 0.8
    exact = {s.name: s.score for s in everything}
    assert all(found[name].score == pytest.approx(exact[name], rel=1e-5, abs=1e-7) for name in second)
