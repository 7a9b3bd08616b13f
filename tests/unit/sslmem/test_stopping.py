"""Scoring until a verdict is certain: when it may stop, what it may stop on, and the error it makes."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from sslmem.errors import SpecError
from sslmem.gate.case import Case, make_case
from sslmem.gate.decide import Decision, decide
from sslmem.local import as_row
from sslmem.policy import Policy
from sslmem.report.effects import Difference
from sslmem.report.evidence import gather_evidence
from sslmem.report.statistics import auc_interval
from sslmem.report.summary import summarize
from sslmem.roles import Role
from sslmem.samples import Sample
from sslmem.scoring import SampleScore
from sslmem.sequential import drawn as drawn_samples
from sslmem.spec import ScoreSpec
from sslmem.stopping import Part, is_certain, rounds, score_until_certain
from tests.unit.cases import TODAY, a_case, a_policy, a_rule, evidence, metric, summary

SPEC = ScoreSpec(views=10, input_size=32)
Floats = NDArray[np.float64]
AUC = a_rule(value=0.6)
MEAN = a_rule(metric="candidate.excess", value=0.5)


@dataclass
class Known:
    """A scorer of scores that are known, with the noise of few views; counts the views it makes."""

    scores: dict[str, float]
    views: int
    made: list[int] = field(default_factory=list)

    def score(self, samples: Iterable[Sample]) -> Iterator[list[SampleScore]]:
        for sample in samples:
            self.made.append(self.views)
            exact = self.scores[sample.name]
            noise = np.random.default_rng([int(abs(exact) * 1e9), self.views]).normal() / self.views**0.5
            score = exact + 0.5 * noise
            yield [
                SampleScore(
                    sample.name,
                    sample.key,
                    score=score,
                    score_bounded=score / 10,
                    standard_error=0.1,
                    alignment_target=1.0,
                    alignment_reference=1.0 + score,
                    alignment_targets=(1.0,),
                    alignment_references=(1.0 + score,),
                    num_views=self.views,
                )
            ]


@dataclass
class Run:
    """What scoring until certain gave."""

    case: Case
    part: Part
    decision: Decision
    made: list[int]


def quick_case(part: Part, roles: dict[str, Role], name: str = "candidate.auc") -> Case:
    """One metric alone: the whole evidence takes too long for hundreds of runs."""
    ours, null = (
        np.array([s.score for s in part.scores if roles[s.name] == role], dtype=np.float64)
        for role in ("candidate", "external")
    )
    if name == "candidate.auc":
        found = auc_interval(ours, null, part.confidence)
    else:
        found = Difference.of(ours, null).interval(part.confidence)
    given = metric(name, (found.low, found.estimate, found.high), confidence=part.confidence)
    counts = {"roles": [{"role": "candidate", "n": len(ours)}, {"role": "external", "n": len(null)}]}
    return make_case({**evidence({}), "metrics": {name: given}}, summary(**counts))


def full_case(part: Part, roles: dict[str, Role]) -> Case:
    rows = [as_row(score, roles[score.name]) for score in part.scores]
    found = summarize(rows, part.spec, target_digests=["sha256:f"], reference_digests=["sha256:g"])
    given = json.loads(gather_evidence(rows, found, confidence=part.confidence).model_dump_json())
    given["limits"].append(part.said)
    return make_case(given, json.loads(found.model_dump_json()))


def run(
    candidates: Floats,
    externals: Floats,
    policy: Policy,
    spec: ScoreSpec = SPEC,
    case_of: Callable[[Part, dict[str, Role]], Case] = full_case,
    seed: int = 0,
) -> Run:
    parts: tuple[tuple[Role, Floats], ...] = (("candidate", candidates), ("external", externals))
    scores = {f"{role}-{i}": float(score) for role, values in parts for i, score in enumerate(values)}
    roles: dict[str, Role] = {f"{role}-{i}": role for role, values in parts for i in range(len(values))}
    made: list[int] = []

    def decided(case: Case) -> Decision:
        return decide(case, policy, TODAY)

    def read(names: Sequence[str]) -> Iterator[Sample]:
        return (Sample(name, name, b"") for name in names)

    case, part = score_until_certain(
        lambda stage: Known(scores, stage.views, made),
        read,
        roles,
        spec,
        policy,
        case_of=lambda part: case_of(part, roles),
        decide=decided,
        seed=seed,
    )
    return Run(case, part, decided(case), made)


def policy(*rules: dict[str, Any], **changes: Any) -> Policy:  # noqa: ANN401
    return a_policy(rules=list(rules), checks=["enough-samples"], **changes)


def drawn(shift: float, seed: int = 0, sizes: tuple[int, int] = (400, 400)) -> tuple[Floats, Floats]:
    generator = np.random.default_rng(seed)
    return generator.normal(shift, 1, sizes[0]), generator.normal(0, 1, sizes[1])


@pytest.mark.parametrize(("shift", "verdict"), [(0.0, "passed"), (1.0, "failed")])
def test_clear_verdict_takes_less_than_half_of_the_forwards(shift: float, verdict: str) -> None:
    found = run(*drawn(shift), policy(a_rule(value=0.65)))
    assert found.decision.verdict == verdict
    assert sum(found.made) < 0.5 * 800 * 10
    assert len(found.part.scores) == len(found.made) == found.case.num_samples
    assert f"{len(found.made)} of 800 samples with 10 of 10 views" in found.part.said


def test_verdict_that_is_not_clear_takes_all_samples() -> None:
    values = np.linspace(-1, 1, 100)
    found = run(values, values, policy(a_rule(value=0.5)))
    assert found.decision.verdict == "inconclusive"
    assert len(found.part.scores) == 200


def test_mean_scores_are_tried_with_few_views_first() -> None:
    clear = run(*drawn(0.0), policy(MEAN))
    assert clear.decision.verdict == "passed"
    assert clear.made == [4] * 800  # all of the samples: those not drawn yet could add anything to a mean
    violated = run(*drawn(1.5), policy(MEAN))
    assert violated.decision.verdict == "failed"
    assert sum(violated.made) < 0.25 * 800 * 10
    near = run(*drawn(0.5), policy(MEAN))
    assert set(near.made) == {4, 10}
    assert near.part.spec == SPEC
    assert len(near.part.scores) == 800


@pytest.mark.parametrize(
    ("rules", "views", "stratify", "expected"),
    [
        ([MEAN], 10, None, [4, 10]),
        ([MEAN], 7, None, [7]),
        ([MEAN], 16, 2, [8, 16]),
        ([MEAN], 16, 4, [16]),
        ([MEAN, a_rule(id="other")], 10, None, [10]),
        ([{**MEAN, "baseline": "before.json"}], 10, None, [10]),
        ([a_rule(metric="candidate.mean_score_bounded")], 10, None, [10]),
    ],
)
def test_rounds(rules: list[dict[str, Any]], views: int, stratify: Any, expected: list[int]) -> None:  # noqa: ANN401
    spec = ScoreSpec(views=views, stratify=stratify, input_size=32)
    assert [stage.views for stage in rounds(spec, policy(*rules))] == expected


def test_minimum_of_the_policy_is_scored_before_the_first_look() -> None:
    found = run(*drawn(1.0), policy(AUC, minimum={"samples": {"candidate": 300, "external": 100}}))
    assert len(found.part.scores) == 600
    assert found.decision.verdict == "failed"


def test_minimum_that_the_dataset_has_not_is_told_after_all_of_it() -> None:
    found = run(*drawn(1.0), policy(AUC, minimum={"samples": {"shared": 1}}))
    assert len(found.part.scores) == 800
    assert found.decision.verdict == "inconclusive"


@pytest.mark.parametrize(
    ("rule", "metrics", "certain"),
    [
        (AUC, {"candidate.auc": (0.4, 0.5, 0.55)}, True),
        (AUC, {"candidate.auc": (0.4, 0.5, 0.65)}, False),
        (AUC, {"candidate.auc": (0.7, 0.8, 0.9)}, True),
        (AUC, {}, False),
        (a_rule(metric="candidate.tpr_at_fpr_1%"), {"candidate.tpr_at_fpr_1%": (0.0, 0.01, 0.05)}, True),
        (MEAN, {"candidate.excess": (0.0, 0.1, 0.2)}, False),
        (MEAN, {"candidate.excess": (0.6, 0.7, 0.8)}, True),
        (a_rule(metric="candidate.share_significant"), {"candidate.share_significant": (0.0, 0.0, 0.1)}, False),
        (a_rule(metric="candidate.share_significant"), {"candidate.share_significant": (0.7, 0.8, 0.9)}, True),
        ({**AUC, "on": "estimate"}, {"candidate.auc": (0.4, 0.5, 0.55)}, False),
        ({**AUC, "on": "estimate"}, {"candidate.auc": (0.7, 0.8, 0.9)}, False),
        ({**AUC, "on": "low"}, {"candidate.auc": (0.4, 0.5, 0.9)}, False),
        (a_rule(metric="candidate.num_significant", value=3), {"candidate.num_significant": (0, 0, 0)}, False),
        (a_rule(metric="candidate.num_significant", value=3), {"candidate.num_significant": (9, 9, 9)}, False),
    ],
)
def test_only_an_interval_may_end_it_early(
    rule: dict[str, Any], metrics: dict[str, tuple[float, float, float]], *, certain: bool
) -> None:
    rules = a_policy(rules=[rule])
    assert is_certain(decide(a_case(metrics), rules, TODAY), rules) is certain


def test_means_hold_once_all_samples_are_scored_with_few_views() -> None:
    rules = a_policy(rules=[MEAN])
    decision = decide(a_case({"candidate.excess": (0.0, 0.1, 0.2)}), rules, TODAY)
    assert is_certain(decision, rules, all_samples=True)


def test_a_few_strongly_memorized_samples_are_not_missed_more_often_than_stated() -> None:
    """One in fifty adds 50 standard deviations: the mean is above the bound, and most samples do not tell."""
    runs, rules = 100, a_policy(rules=[a_rule(metric="candidate.excess", value=0.9)])

    def excess_case(part: Part, roles: dict[str, Role]) -> Case:
        return quick_case(part, roles, "candidate.excess")

    passed = 0
    for seed in range(runs):
        generator = np.random.default_rng(seed)
        ours = generator.normal(0, 1, 200) + 50.0 * (np.arange(200) < 4)
        verdict = run(ours, generator.normal(0, 1, 600), rules, case_of=excess_case, seed=seed).decision.verdict
        passed += verdict == "passed"
    assert passed <= binom.ppf(0.99, runs, 0.05)


def test_whoever_names_or_orders_the_samples_does_not_order_their_scoring() -> None:
    """Memorized ones have the last names; another seed draws others first, and each role has an order of its own."""
    first = [drawn_samples({f"{i:03}": "candidate" for i in range(400)}, 0.25, seed) for seed in (1, 2)]
    assert first[0] != first[1]
    assert 25 < sum(int(name) >= 200 for name in first[0]) < 75
    ranks: list[list[int]] = []
    for role in ("candidate", "external"):
        roles: dict[str, Role] = {f"{i:03}": role for i in range(400)}
        ranks.append(sorted(int(name) for name in drawn_samples(roles, 0.25, 1)))
    assert ranks[0] != ranks[1]


def test_doubts_keep_it_going() -> None:
    rules = a_policy(rules=[AUC], minimum={"references": 2})
    assert not is_certain(decide(a_case(), rules, TODAY), rules)


def test_a_violation_ends_it_though_another_rule_is_open() -> None:
    rules = a_policy(rules=[AUC, a_rule(id="open", metric="candidate.excess")])
    case = a_case({"candidate.auc": (0.7, 0.8, 0.9), "candidate.excess": (0.5, 0.6, 0.7)})
    assert is_certain(decide(case, rules, TODAY), rules)


def test_on_the_bound_each_verdict_is_wrong_no_more_often_than_stated() -> None:
    runs = 300
    verdicts = []
    for seed in range(runs):
        ours, null = drawn(0.0, seed, (120, 240))
        verdicts.append(run(ours, null, a_policy(rules=[a_rule(value=0.5)]), case_of=quick_case).decision.verdict)
    for verdict in ("passed", "failed"):
        assert verdicts.count(verdict) <= binom.ppf(0.99, runs, 0.025)


def test_two_candidates_and_externals_are_needed() -> None:
    with pytest.raises(SpecError, match="at least 2 candidates and 2 externals"):
        run(np.ones(1), np.ones(5), policy(AUC))
