"""What stopping early saves, and what error it makes: scores of trained encoders, served in batches."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.statistics.audits import Rate
from sslmem.roles import Role
from sslmem.samples import Sample
from sslmem.scoring import SampleScore
from sslmem.sequential import SequentialResult, score_until_decided

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Stored:
    """Scores that were measured before, as a scorer gives them."""

    scores: dict[str, float]

    def score(self, samples: Iterable[Sample]) -> Iterator[list[SampleScore]]:
        """The stored scores of samples."""
        yield [SampleScore(sample.name, sample.key, score=self.scores[sample.name]) for sample in samples]


def decide(candidates: Floats, externals: Floats, *, bound: float, seed: int) -> SequentialResult:
    """Decides on stored scores ``[n]`` and ``[m]``."""
    parts: tuple[tuple[Role, Floats], ...] = (("candidate", candidates), ("external", externals))
    scores = {f"{role}-{i:05}": float(score) for role, values in parts for i, score in enumerate(values)}
    roles: dict[str, Role] = {name: "candidate" if name.startswith("candidate") else "external" for name in scores}

    def read(names: Sequence[str]) -> Iterator[Sample]:
        return (Sample(name, name, b"") for name in names)

    return score_until_decided(Stored(scores), read, roles, bound=bound, seed=seed)


@dataclass(frozen=True)
class Savings:
    """Of many runs: verdicts, and the share of a full run's forwards."""

    above: Rate
    at_most: Rate
    share: float


def run_many(pools: Sequence[tuple[Floats, Floats]], sizes: tuple[int, int], bound: float, times: int) -> Savings:
    """Draws samples of these sizes from pools of scores, with replacement, and decides; times for each pool."""
    generator = np.random.default_rng(0)
    results = [
        decide(
            generator.choice(candidates, sizes[0]),
            generator.choice(externals, sizes[1]),
            bound=bound,
            seed=seed,
        )
        for seed in range(times)
        for candidates, externals in pools
    ]
    verdicts = [result.verdict for result in results]
    return Savings(
        Rate(verdicts.count("above"), len(results)),
        Rate(verdicts.count("at-most"), len(results)),
        float(np.mean([result.share_scored for result in results])),
    )
