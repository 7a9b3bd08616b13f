"""One rule and one metric: passed, failed, undecided, or unknown, with the reason in words.

A rule with an interval has three ends. It passes when the end that makes passing hard holds, so chance lets a
violation through no more often than the confidence says; it fails when no point of the interval holds, so chance
fails a release no more often either; between the two it is undecided, and more samples would tell.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sslmem.gate.case import Case
from sslmem.policy import Rule

Outcome = Literal["passed", "failed", "undecided", "unknown", "waived"]
Interval = tuple[float, float, float]
WORDS = {"<=": "at most", ">=": "at least"}


@dataclass(frozen=True)
class _Usable:
    interval: Interval
    n: int
    confidence: float  # at least the policy's: a run that may stop early has wider intervals


@dataclass(frozen=True)
class Judged:
    """A rule's outcome before waivers; the numbers are of the metric, or of its change since the baseline."""

    outcome: Outcome
    reason: str
    low: float | None = None
    estimate: float | None = None
    high: float | None = None
    n: int | None = None


def judge(rule: Rule, case: Case, baselines: Mapping[str, Case], confidence: float) -> Judged:
    """Judges one rule.

    Args:
        rule: of the policy.
        case: what was found.
        baselines: earlier cases by the name that rules give them.
        confidence: of the intervals that the policy asks for.
    """
    measure = _usable(rule, case, confidence, "the evidence")
    if isinstance(measure, str):
        return Judged("unknown", measure)
    what, interval = rule.metric, measure.interval
    if rule.baseline is not None:
        before = _baseline(rule, case, baselines, confidence)
        if isinstance(before, str):
            return Judged("unknown", before)
        what = f"the change of {rule.metric} since {rule.baseline}"
        interval = change(measure.interval, before.interval)
    low, estimate, high = interval
    outcome = _compare(rule, low, estimate, high)
    number = f"{estimate:.4g} ({level(measure.confidence)} confidence: {low:.4g} to {high:.4g}; n = {measure.n})"
    allowed = f"{WORDS[rule.op]} {rule.value:g}"
    reason = {
        "passed": f"{what} is {number}; {allowed} is required, and its {_side(rule)} is",
        "failed": f"{what} is {number}; {allowed} is required, and {_failing(rule)} is",
        "undecided": f"{what} is {number}; {allowed} is required, which lies within the interval: "
        "more samples, views or references would decide",
    }[outcome]
    return Judged(outcome, reason, low, estimate, high, measure.n)


def level(confidence: float) -> str:
    """A confidence in words that do not round it to one."""
    return f"{confidence:.4g}" if confidence < 0.9999 else f"1 - {1 - confidence:.2g}"


def change(now: Interval, before: Interval) -> Interval:
    """The difference of two estimates with its interval, from the intervals of each (MOVER, Zou and Donner 2008).

    The two are taken as independent; on the same samples they are not, and the interval is wider than need be.
    """
    low, estimate, high = now
    base_low, base, base_high = before
    difference = estimate - base
    down = math.hypot(estimate - low, base_high - base)
    up = math.hypot(high - estimate, base - base_low)
    return difference - down, difference, difference + up


def _usable(rule: Rule, case: Case, confidence: float, whose: str) -> _Usable | str:
    measure = case.metrics.get(rule.metric)
    if measure is None:
        of = rule.metric.partition(".")[0]
        known = ", ".join(sorted(name for name in case.metrics if name.startswith(f"{of}.")))
        return f"{whose} has no metric {rule.metric}; of {of} it has {known or 'none'}"
    if measure.interval is None:
        return f"{rule.metric} could not be computed for {whose} (n = {measure.n})"
    if measure.confidence < confidence:
        return f"{rule.metric} of {whose} has confidence {measure.confidence:g}; the policy asks for {confidence:g}"
    return _Usable(measure.interval, measure.n, measure.confidence)


def _baseline(rule: Rule, case: Case, baselines: Mapping[str, Case], confidence: float) -> _Usable | str:
    baseline = baselines.get(rule.baseline or "")
    if baseline is None:
        return f"the baseline {rule.baseline} is not there"
    if baseline.spec_digest != case.spec_digest:
        return f"the baseline {rule.baseline} was measured by another score spec; measure it again by this one"
    return _usable(rule, baseline, confidence, f"the baseline {rule.baseline}")


def _compare(rule: Rule, low: float, estimate: float, high: float) -> Literal["passed", "failed", "undecided"]:
    def holds(number: float) -> bool:
        return number <= rule.value if rule.op == "<=" else number >= rule.value

    numbers = {"low": low, "estimate": estimate, "high": high}
    if holds(numbers[rule.compared]):
        return "passed"
    if rule.compared != rule.hard_bound:
        return "failed"  # what was asked for is already the easier comparison
    return "undecided" if holds(low) or holds(high) else "failed"


def _side(rule: Rule) -> str:
    return {"low": "lower end", "high": "upper end", "estimate": "estimate"}[rule.compared]


def _failing(rule: Rule) -> str:
    return "no point of the interval" if rule.compared == rule.hard_bound else f"not even its {_side(rule)}"
