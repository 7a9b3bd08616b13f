"""Scores as few samples and views as the verdict of a policy needs (``sslmem gate --sequential``).

At each look the gate decides on the scores so far, with intervals so wide that all looks together err no more often
than the policy's confidence says; see :mod:`sslmem.sequential`. It stops once every rule holds for certain, or one is
violated for certain.

Where all rules are on mean scores, whose expectation does not depend on the number of views, a first round has few
views and a second, if it is needed, all of them; each round may spend half of the error. Ranks and tails do depend on
it, since the noise of few views blurs them: for rules on these each sample has all its views at once.
"""

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
# A count grows with the samples, and an interval by bootstrap over a few encoders has no far tails.
NEVER_EARLY = frozenset({"num_significant", "excess_over_models"})


@dataclass(frozen=True)
class Part:
    """The scores of a part of the samples, at a look.

    Attributes:
        scores: of the samples so far.
        spec: that they were measured by.
        confidence: that intervals must have.
        said: in a sentence, how these scores were come by.
    """

    scores: list[SampleScore]
    spec: ScoreSpec
    confidence: float
    said: str


def rounds(spec: ScoreSpec, policy: Policy) -> list[ScoreSpec]:
    """The specs of the rounds, the last being the one asked for."""
    few = FEW_VIEWS * spec.group
    if 2 * few <= spec.views and all(_what(rule) in MEANS for rule in policy.rules):
        return [spec.model_copy(update={"views": few}), spec]
    return [spec]


def is_certain(decision: Decision, policy: Policy) -> bool:
    """Whether a decision on a part of the samples would be that on all of them, up to the stated error."""
    if decision.doubts:
        return False
    outcomes = {result.rule: result.outcome for result in decision.rules}
    early = {rule.id for rule in policy.rules if rule.compared == rule.hard_bound and _what(rule) not in NEVER_EARLY}
    if any(outcomes[name] == "failed" for name in early):
        return decision.verdict == "failed"
    return decision.verdict == "passed" and all(name in early or outcomes[name] == "waived" for name in outcomes)


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
        advance: called with the part of the work that is done, from 0 to 1.

    Returns:
        The last case, and the scores that it is made of.

    Raises:
        SpecError: there are fewer than two candidates or externals.
        CollapsedEncoder: an encoder maps different images to one representation.
    """
    stages = rounds(spec, policy)
    confidence = 1 - (1 - policy.confidence) / len(stages)
    total, before = sum(stage.views for stage in stages), 0
    for stage in stages:
        least = policy.minimum.samples
        looks = score_in_looks(scorer(stage), read, roles, confidence=confidence, least=least, seed=spec.seed)
        for look in looks:
            advance((before + look.share * stage.views) / total)
            said = (
                f"Scored until the verdict was certain: {len(look.scores)} of {len(roles)} samples with {stage.views} "
                f"of {spec.views} views, at look {look.number} of at most {look.num_looks}; intervals are wider than "
                "the policy's, so that all looks together err no more often than it allows."
            )
            part = Part(look.scores, stage, look.confidence, said)
            case = case_of(part)
            if (stage is stages[-1] and look.is_last) or is_certain(decide(case), policy):
                return case, part
        before += stage.views
    raise AssertionError("the last look is the last")
