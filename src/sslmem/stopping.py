"""Scores as few samples and views as the verdict of a policy needs (``sslmem gate --sequential``).

At each look the gate decides on the scores so far, with intervals so wide that all looks together err no more often
than the policy's confidence says; see :mod:`sslmem.sequential`. It stops once every rule holds for certain, or one is
violated for certain.

A rule may be violated early whatever it is on. It holds early only if it is on ranks, to which a few samples that are
memorized strongly and have not been drawn yet can add no more than their share: on a mean they could add anything.

Where all rules are on mean scores, whose expectation does not depend on the number of views, a first round has few
views and a second, if it is needed, all of them; each round may spend half of the error. Ranks and tails do depend on
it, since the noise of few views blurs them: for rules on these each sample has all its views at once.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sslmem.gate.case import Case
from sslmem.gate.decide import Decision
from sslmem.policy import Policy, Rule
from sslmem.roles import Role
from sslmem.samples import Sample
from sslmem.scoring import SampleScore
from sslmem.sequential import Scores, score_in_looks
from sslmem.spec import ScoreSpec

FEW_VIEWS = 4  # or groups of them: the fewest that tell their standard error
MEANS = frozenset({"mean_score", "excess"})
RANKS = re.compile(r"auc|tpr_at_fpr_[0-9.]+%")
# A count grows with the samples, and an interval by bootstrap over a few encoders has no far tails.
NEVER_EARLY = frozenset({"num_significant", "excess_over_models"})


@dataclass(frozen=True)
class Part:
    """The scores of a part of the samples, at a look.

    Attributes:
        scores: of the samples so far.
        spec: that they were measured by.
        confidence: that intervals must have.
        said: how these scores were come by.
        share: of the samples of each role.
        seed: of the order they were drawn in.
    """

    scores: list[SampleScore]
    spec: ScoreSpec
    confidence: float
    said: str
    share: float
    seed: int


def rounds(spec: ScoreSpec, policy: Policy) -> list[ScoreSpec]:
    """The specs of the rounds, the last being the one asked for."""
    few = FEW_VIEWS * spec.group
    means = all(_what(rule) in MEANS and rule.baseline is None for rule in policy.rules)  # a baseline has its own spec
    return [spec.model_copy(update={"views": few}), spec] if means and 2 * few <= spec.views else [spec]


def confidence_of(stages: Sequence[ScoreSpec], policy: Policy) -> float:
    """Of each round: the error that the policy allows is shared among them."""
    return 1 - (1 - policy.confidence) / len(stages)


def is_certain(decision: Decision, policy: Policy, *, all_samples: bool = False) -> bool:
    """Whether a decision would be that on all of the samples with all of their views, up to the stated error.

    Args:
        decision: on a part.
        policy: that it is by.
        all_samples: whether the part has all of the samples, with few of their views.
    """
    if decision.doubts:
        return False
    outcomes = {result.rule: result.outcome for result in decision.rules}
    by_interval = [r for r in policy.rules if r.compared == r.hard_bound and _what(r) not in NEVER_EARLY]
    if any(outcomes[rule.id] == "failed" for rule in by_interval):
        return decision.verdict == "failed"
    hold = {rule.id for rule in by_interval if all_samples or RANKS.fullmatch(_what(rule))}
    return decision.verdict == "passed" and all(name in hold or outcomes[name] == "waived" for name in outcomes)


def _what(rule: Rule) -> str:
    return rule.metric.partition(".")[2]


def score_until_certain(
    scorer: Callable[[ScoreSpec], Scores],
    read: Callable[[Sequence[str]], Iterable[Sample]],
    roles: Mapping[str, Role],
    spec: ScoreSpec,
    policy: Policy,
    *,
    case_of: Callable[[Part], Case],
    decide: Callable[[Case], Decision],
    seed: int,
    advance: Callable[[float], None] = lambda _: None,
) -> tuple[Case, Part]:
    """Scores until the verdict is certain.

    Args:
        scorer: makes a scorer for a spec.
        read: the samples of these names.
        roles: of the samples by name; only these are scored.
        spec: how to score, at most.
        policy: that must hold; its minimum of samples is scored before the first look.
        case_of: makes a case of a part.
        decide: by the policy.
        seed: of the order of the samples; whoever chose it beforehand could hide samples at the end.
        advance: called with the part of the work that is done, from 0 to 1.

    Returns:
        The last case, and the scores that it is made of.

    Raises:
        SpecError: there are fewer than two candidates or externals.
        CollapsedEncoder: an encoder maps different images to one representation.
    """
    stages = rounds(spec, policy)
    confidence = confidence_of(stages, policy)
    total, before = sum(stage.views for stage in stages), 0
    for stage in stages:
        least = policy.minimum.samples
        looks = score_in_looks(scorer(stage), read, roles, confidence=confidence, least=least, seed=seed)
        for look in looks:
            advance((before + look.share * stage.views) / total)
            said = (
                f"Scored step by step, to stop once the verdict is certain: {len(look.scores)} of {len(roles)} samples "
                f"with {stage.views} of {spec.views} views, at look {look.number} of at most {look.num_looks}. The "
                "metrics' intervals are wider than the policy's, so that all looks together err no more often than it "
                "allows; intervals elsewhere are for a single look."
            )
            part = Part(look.scores, stage, look.confidence, said, look.share, seed)
            case = case_of(part)
            last = stage is stages[-1] and look.is_last
            if last or is_certain(decide(case), policy, all_samples=look.is_last):
                return case, part
        before += stage.views
    raise AssertionError("the last look is the last")
