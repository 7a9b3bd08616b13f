"""From a case and a policy to a verdict: a pure function, so that the same evidence always gets the same answer."""

from collections.abc import Mapping
from datetime import date
from typing import Literal

from pydantic import BaseModel, ConfigDict

from sslmem.gate.case import Case
from sslmem.gate.rules import Judged, Outcome, judge
from sslmem.gate.waivers import apply_waivers
from sslmem.policy import Policy, Rule, Waiver

Verdict = Literal["passed", "failed", "inconclusive"]
# ADR 0007: 2, could not be evaluated, is an error and never a decision.
PASSED, VIOLATED, NOT_EVALUATED, INCONCLUSIVE = 0, 1, 2, 3


class RuleResult(BaseModel):
    """What became of a rule, with the reason in words and the waivers that it stands on, if any."""

    model_config = ConfigDict(frozen=True)

    rule: str
    metric: str
    requirement: str
    outcome: Outcome
    reason: str
    low: float | None
    estimate: float | None
    high: float | None
    n: int | None
    waivers: list[Waiver] = []


class Decision(BaseModel):
    """The verdict of a gate.

    Attributes:
        verdict: what the evidence says of the policy.
        status: the exit status that follows, before ``--soft-fail``.
        headline: why, in one sentence.
        rules: each with its outcome.
        doubts: why the evidence does not bear a verdict; empty if it does.
        warnings: what somebody should look at.
    """

    model_config = ConfigDict(frozen=True)

    verdict: Verdict
    status: int
    headline: str
    rules: list[RuleResult]
    doubts: list[str]
    warnings: list[str]


def decide(case: Case, policy: Policy, today: date, baselines: Mapping[str, Case] | None = None) -> Decision:
    """Decides whether a case fulfils a policy.

    Doubts about the evidence come first, even before a violation: what was measured wrongly violates nothing. But a
    case with a violation never ends with status 0 for being inconclusive.

    Args:
        case: what was found.
        policy: what must hold.
        today: the day on which waivers count or not.
        baselines: earlier cases, by the name that rules give them.
    """
    judged = {rule.id: judge(rule, case, baselines or {}, policy.confidence) for rule in policy.rules}
    waived, warnings = apply_waivers(policy, case, {name: found.outcome for name, found in judged.items()}, today)
    rules = [_result(rule, judged[rule.id], waived.get(rule.id, [])) for rule in policy.rules]
    doubts = _doubts(case, policy)
    for name in sorted({rule.baseline for rule in policy.rules if rule.baseline is not None}):
        if (before := (baselines or {}).get(name)) is not None:
            doubts += [f"the baseline {name}: {doubt}" for doubt in _doubts(before, policy)]
    verdict = _verdict(rules, doubts)
    violated = any(result.outcome == "failed" for result in rules)
    if verdict == "inconclusive" and policy.on_inconclusive == "warn":
        warnings.append("the verdict is inconclusive, which the policy lets through")
    return Decision(
        verdict=verdict,
        status=_status(verdict, policy, violated=violated),
        headline=_headline(verdict, rules, doubts),
        rules=rules,
        doubts=doubts,
        warnings=[*warnings, *_notes(case, policy)],
    )


def _result(rule: Rule, found: Judged, waivers: list[Waiver]) -> RuleResult:
    return RuleResult(
        rule=rule.id,
        metric=rule.metric,
        requirement=f"{rule.op} {rule.value:g}" + (f" since {rule.baseline}" if rule.baseline else ""),
        outcome="waived" if waivers else found.outcome,
        reason=found.reason,
        low=found.low,
        estimate=found.estimate,
        high=found.high,
        n=found.n,
        waivers=waivers,
    )


def _verdict(rules: list[RuleResult], doubts: list[str]) -> Verdict:
    outcomes = {result.outcome for result in rules}
    if doubts:
        return "inconclusive"
    if "failed" in outcomes:
        return "failed"
    return "passed" if outcomes <= {"passed", "waived"} else "inconclusive"


def _status(verdict: Verdict, policy: Policy, *, violated: bool) -> int:
    if verdict == "passed":
        return PASSED
    if verdict == "failed":
        return VIOLATED
    return INCONCLUSIVE if violated or policy.on_inconclusive == "fail" else PASSED


def _doubts(case: Case, policy: Policy) -> list[str]:
    minimum, doubts = policy.minimum, []
    for role, least in minimum.samples.items():
        if case.samples.get(role, 0) < least:
            doubts.append(f"{case.samples.get(role, 0)} {role} samples were scored; the policy asks for {least}")
    if case.num_references < minimum.references:
        doubts.append(f"number of references: {case.num_references}; the policy asks for {minimum.references}")
    if case.fdr != policy.fdr:
        doubts.append(
            f"single images were judged at a false discovery rate of {case.fdr:g}; the policy asks for {policy.fdr:g}"
        )
    share = case.num_skipped / case.num_samples if case.num_samples else 1.0
    if share > minimum.max_skipped_share:
        doubts.append(
            f"{case.num_skipped} of {case.num_samples} samples were skipped; "
            f"the policy allows {minimum.max_skipped_share:.4g} of them"
        )
    if policy.checks == "all" and not case.checks:
        doubts.append("the evidence has no validity checks; the policy asks for all to be ok")
    doubts += _failed_checks(case, policy)
    # Whatever checks a policy asks for: scores of an encoder that is not what it should be are no reason to pass.
    suspected = [doubt for encoder in case.encoders for doubt in encoder.doubts]
    return doubts + [one for one in suspected if not any(one in doubt for doubt in doubts)]


def _failed_checks(case: Case, policy: Policy) -> list[str]:
    known = {check.id: check for check in case.checks}
    doubts = []
    for name in known if policy.checks == "all" else policy.checks:
        check = known.get(name)
        if check is None:
            doubts.append(f"{name}: the evidence has no such check; it has {', '.join(sorted(known)) or 'none'}")
        elif check.status != "ok":  # unknown is no reason to believe the scores
            doubts.append(f"{name} is {check.status}: {check.detail}")
    return doubts


def _notes(case: Case, policy: Policy) -> list[str]:
    return [
        f"{check.id} is {check.status}, which the policy does not ask for: {check.detail}"
        for check in case.checks
        if check.status != "ok" and policy.checks != "all" and check.id not in policy.checks
    ]


def _headline(verdict: Verdict, rules: list[RuleResult], doubts: list[str]) -> str:
    count = len(rules)
    if verdict == "passed":
        waived = [result.rule for result in rules if result.outcome == "waived"]
        more = f", {', '.join(waived)} by waiver" if waived else ""
        return f"Passed: {'the rule holds' if count == 1 else f'all {count} rules hold'}{more}."
    if doubts:
        return f"Inconclusive: the evidence does not bear a verdict; {doubts[0]}" + _and_more(len(doubts) - 1)
    wanted = ("failed",) if verdict == "failed" else ("undecided", "unknown")
    named = [result for result in rules if result.outcome in wanted]
    start = "Failed" if verdict == "failed" else "Inconclusive"
    return f"{start}: {named[0].rule}: {named[0].reason}" + _and_more(len(named) - 1)


def _and_more(count: int) -> str:
    return f" (and {count} more)" if count else ""
