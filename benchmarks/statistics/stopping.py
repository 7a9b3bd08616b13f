"""What stopping early saves, and what error it makes: distances of trained encoders, served as the scorer would."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date

import numpy as np
from numpy.typing import NDArray

from benchmarks.statistics.audits import Rate
from benchmarks.statistics.population import SPEC
from sslmem.gate.case import Case, Measure
from sslmem.gate.decide import Decision, decide
from sslmem.policy import Policy, Rule
from sslmem.report.effects import Difference
from sslmem.report.statistics import auc_interval
from sslmem.roles import Role
from sslmem.samples import Sample
from sslmem.scoring import SampleScore
from sslmem.spec import ScoreSpec
from sslmem.stopping import Part, score_until_certain

Floats = NDArray[np.float64]
Differences = NDArray[np.float32]  # [n, P], reference's minus target's distance of each pair of views
METRICS = ("candidate.excess", "candidate.auc")


@dataclass
class Stored:
    """Scores from distances that were measured before, of the first views; notes how many views it was asked for."""

    differences: dict[str, Differences]
    views: int
    made: list[int] = field(default_factory=list)

    def score(self, samples: Iterable[Sample]) -> Iterator[list[SampleScore]]:
        """The scores of samples."""
        second = np.triu_indices(SPEC.views, 1)[1]
        for sample in samples:
            self.made.append(self.views)
            score = float(self.differences[sample.name][second < self.views].mean(dtype=np.float64))
            yield [SampleScore(sample.name, sample.key, score=score)]


@dataclass(frozen=True)
class Savings:
    """Of many runs: verdicts, and the share of a full run's forwards."""

    passed: Rate
    failed: Rate
    share: float


def run_many(
    pools: Sequence[tuple[Differences, Differences]], metric: str, bound: float, sizes: tuple[int, int], times: int
) -> Savings:
    """Draws candidates and externals from pools, with replacement, and lets a policy of one rule decide.

    Args:
        pools: of candidates and externals.
        metric: that must be at most ``bound``.
        bound: of the rule.
        sizes: how many candidates and externals to draw.
        times: for each pool.
    """
    policy = Policy(version=1, rules=[Rule(id="rule", metric=metric, op="<=", value=bound)], checks=[])
    generator = np.random.default_rng(0)
    verdicts: list[str] = []
    shares: list[float] = []
    for _ in range(times):
        for pool in pools:
            drawn = [part[generator.integers(len(part), size=size)] for part, size in zip(pool, sizes, strict=True)]
            decision, views = _decide(drawn[0], drawn[1], policy, len(verdicts))
            verdicts.append(decision.verdict)
            shares.append(views / (SPEC.views * sum(sizes)))
    passed, failed = (Rate(verdicts.count(verdict), len(verdicts)) for verdict in ("passed", "failed"))
    return Savings(passed, failed, float(np.mean(shares)))


def _decide(candidates: Differences, externals: Differences, policy: Policy, seed: int) -> tuple[Decision, int]:
    """The decision, and how many views it took."""
    stored: dict[str, Differences] = {}
    roles: dict[str, Role] = {}
    parts: tuple[tuple[Role, Differences], ...] = (("candidate", candidates), ("external", externals))
    for role, differences in parts:
        stored |= {f"{role}-{i:05}": row for i, row in enumerate(differences)}
        roles |= dict.fromkeys((f"{role}-{i:05}" for i in range(len(differences))), role)
    made: list[int] = []

    def scorer(spec: ScoreSpec) -> Stored:
        return Stored(stored, spec.views, made)

    def read(names: Sequence[str]) -> Iterator[Sample]:
        return (Sample(name, name, b"") for name in names)

    def decided(case: Case) -> Decision:
        return decide(case, policy, date(2026, 1, 1))

    case, _ = score_until_certain(
        scorer, read, roles, SPEC, policy, case_of=lambda part: _case(part, roles), decide=decided, seed=seed
    )
    return decided(case), sum(made)


def _case(part: Part, roles: dict[str, Role]) -> Case:
    """Two metrics of the evidence; all of it would take hours for so many runs."""
    ours, null = (
        np.array([s.score for s in part.scores if roles[s.name] == role], dtype=np.float64)
        for role in ("candidate", "external")
    )
    intervals = (
        Difference.of(ours, null).interval(part.confidence),
        auc_interval(ours, null, part.confidence),
    )
    return Case(
        metrics={
            name: Measure(name=name, **interval.model_dump(), confidence=part.confidence, n=len(ours))
            for name, interval in zip(METRICS, intervals, strict=True)
        },
        checks=[],
        significant=[],
        fdr=0.05,
        samples={"candidate": len(ours), "external": len(null)},
        num_samples=len(part.scores),
        num_skipped=0,
        num_targets=1,
        num_references=1,
        limits=[part.said],
        spec_digest=part.spec.digest,
        target_digests=["sha256:f"],
        reference_digests=["sha256:g"],
    )
