"""A case and a policy give a verdict; whatever is not known never passes."""

import math
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sslmem.gate.case import Case, EncoderUsed, ValidityCheck
from sslmem.gate.decide import INCONCLUSIVE, PASSED, VIOLATED, Decision, decide
from sslmem.policy import Policy
from tests.unit.cases import (
    AUC,
    FAILING,
    FILE,
    OTHER,
    STRADDLING,
    TARGET,
    TODAY,
    Interval,
    a_case,
    a_policy,
    a_rule,
    a_waiver,
    checked,
)

ORDER = {"failed": 0, "undecided": 1, "passed": 2}


def decided(case: Case | None = None, **changes: object) -> Decision:
    return decide(case or a_case(), a_policy(**changes), TODAY)


def outcome(case: Case, **rule: object) -> str:
    return decided(case, rules=[a_rule(**rule)]).rules[0].outcome


# Rules


def test_rule_passes_when_the_whole_interval_is_within_the_bound() -> None:
    decision = decided(a_case({AUC: (0.5, 0.55, 0.6)}))
    assert (decision.verdict, decision.status) == ("passed", PASSED)
    assert decision.headline == "Passed: the rule holds."


def test_rule_fails_when_no_point_of_the_interval_is_within_the_bound() -> None:
    decision = decided(a_case(FAILING))
    assert (decision.verdict, decision.status) == ("failed", VIOLATED)
    assert "candidate.auc is 0.72 (0.95 confidence: 0.7 to 0.74; n = 400); at most 0.6 is required" in decision.headline


def test_bound_within_the_interval_is_undecided() -> None:
    decision = decided(a_case(STRADDLING))
    assert (decision.verdict, decision.status) == ("inconclusive", INCONCLUSIVE)
    assert "more samples" in decision.headline


@pytest.mark.parametrize(
    ("on", "op", "value", "expected"),
    [
        ("high", "<=", 0.6, "passed"),
        ("high", "<=", 0.59, "undecided"),
        ("high", "<=", 0.4, "undecided"),
        ("high", "<=", 0.39, "failed"),
        ("estimate", "<=", 0.5, "passed"),
        ("estimate", "<=", 0.49, "failed"),
        ("low", "<=", 0.4, "passed"),
        ("low", "<=", 0.39, "failed"),
        ("low", ">=", 0.4, "passed"),
        ("low", ">=", 0.41, "undecided"),
        ("low", ">=", 0.6, "undecided"),
        ("low", ">=", 0.61, "failed"),
        ("estimate", ">=", 0.5, "passed"),
        ("estimate", ">=", 0.51, "failed"),
        ("high", ">=", 0.6, "passed"),
        ("high", ">=", 0.61, "failed"),
    ],
)
def test_each_comparison_with_each_end(on: str, op: str, value: float, expected: str) -> None:
    assert outcome(a_case({AUC: (0.4, 0.5, 0.6)}), on=on, op=op, value=value) == expected


def test_one_violation_fails_whatever_else_passes() -> None:
    rules = [a_rule(id="easy", value=0.9), a_rule(id="hard", value=0.6)]
    decision = decided(a_case(FAILING), rules=rules)
    assert [result.outcome for result in decision.rules] == ["passed", "failed"]
    assert decision.verdict == "failed"


def test_missing_metric_is_unknown_and_named() -> None:
    decision = decided(a_case({"candidate.excess": (0.0, 0.0, 0.0)}))
    assert (decision.verdict, decision.rules[0].outcome) == ("inconclusive", "unknown")
    assert "has no metric candidate.auc; of candidate it has candidate.excess" in decision.headline


def test_interval_of_another_confidence_is_unknown() -> None:
    assert "has confidence 0.95; the policy asks for 0.99" in decided(confidence=0.99).headline


# Baselines


def against(now: Interval, before: Interval, value: float = 0.02, **changes: object) -> Decision:
    policy = a_policy(rules=[a_rule(value=value, baseline="last.json")])
    return decide(a_case({AUC: now}), policy, TODAY, {"last.json": a_case({AUC: before}, **changes)})


def test_no_worse_than_the_baseline_passes() -> None:
    decision = against((0.540, 0.541, 0.542), (0.540, 0.541, 0.542))
    assert decision.verdict == "passed"
    assert "the change of candidate.auc since last.json is 0 " in decision.rules[0].reason


def test_worse_than_the_baseline_fails() -> None:
    assert against((0.640, 0.641, 0.642), (0.540, 0.541, 0.542)).verdict == "failed"


def test_uncertainty_of_the_baseline_counts_too() -> None:
    assert against((0.540, 0.541, 0.542), (0.44, 0.541, 0.64)).verdict == "inconclusive"


def test_interval_of_the_change_joins_both_intervals() -> None:
    result = against((0.50, 0.53, 0.57), (0.46, 0.50, 0.53)).rules[0]
    assert result.estimate == pytest.approx(0.03)
    assert result.low == pytest.approx(0.03 - math.hypot(0.03, 0.03))
    assert result.high == pytest.approx(0.03 + math.hypot(0.04, 0.04))


def test_baseline_that_is_not_there_never_passes() -> None:
    policy = a_policy(rules=[a_rule(value=1.0, baseline="last.json")])
    decision = decide(a_case(), policy, TODAY)
    assert (decision.verdict, decision.rules[0].outcome) == ("inconclusive", "unknown")


def test_baseline_of_another_score_spec_never_passes() -> None:
    decision = against((0.50, 0.50, 0.50), (0.50, 0.50, 0.50), spec_digest=OTHER)
    assert (decision.verdict, decision.rules[0].outcome) == ("inconclusive", "unknown")
    assert "another score spec" in decision.headline


# Evidence


@pytest.mark.parametrize(
    ("minimum", "changes", "words"),
    [
        ({"samples": {"candidate": 401}}, {}, "400 candidate samples were scored; the policy asks for 401"),
        ({"samples": {"shared": 1}}, {}, "0 shared samples"),
        ({"references": 2}, {}, "number of references: 1"),
        ({"max_skipped_share": 0.1}, {"num_skipped": 81}, "81 of 800 samples were skipped"),
        ({"max_skipped_share": 0.1}, {"num_samples": 0}, "0 of 0 samples were skipped"),
    ],
)
def test_too_little_evidence_is_inconclusive(minimum: dict[str, Any], changes: dict[str, Any], words: str) -> None:
    decision = decided(a_case(**changes), minimum=minimum)
    assert (decision.verdict, decision.status) == ("inconclusive", INCONCLUSIVE)
    assert words in decision.headline


def test_just_enough_evidence_is_enough() -> None:
    minimum = {"samples": {"candidate": 400, "external": 400}, "references": 1, "max_skipped_share": 0.1}
    assert decided(a_case(num_skipped=80), minimum=minimum).verdict == "passed"


@pytest.mark.parametrize("status", ["failed", "unknown", "a status of a later version"])
def test_check_that_is_not_ok_is_inconclusive(status: str) -> None:
    for checks in ("all", ["reference-matches"]):
        decision = decided(checked(status), checks=checks)
        assert decision.verdict == "inconclusive"
        assert f"reference-matches is {status}: found 0.5 and 0.2" in decision.headline


def test_check_that_the_policy_does_not_ask_for_is_a_warning() -> None:
    decision = decided(checked("failed"), checks=[])
    assert decision.verdict == "passed"
    assert "reference-matches is failed, which the policy does not ask for" in decision.warnings[0]


def test_check_that_the_evidence_lacks_is_inconclusive() -> None:
    decision = decided(checked("ok"), checks=["no-such-check"])
    assert (decision.verdict, len(decision.doubts)) == ("inconclusive", 1)
    assert "the evidence has no such check; it has reference-matches" in decision.headline


def test_evidence_without_any_checks_is_inconclusive() -> None:
    assert decided(a_case(checks=[])).verdict == "inconclusive"


def test_doubts_come_before_a_violation() -> None:
    decision = decided(a_case(FAILING), minimum={"references": 2})
    assert (decision.verdict, decision.status) == ("inconclusive", INCONCLUSIVE)
    assert decision.rules[0].outcome == "failed"


# What inconclusive means


@pytest.mark.parametrize(("means", "status"), [("fail", INCONCLUSIVE), ("warn", PASSED), ("pass", PASSED)])
def test_policy_says_what_inconclusive_means(means: str, status: int) -> None:
    decision = decided(a_case(STRADDLING), on_inconclusive=means)
    assert (decision.verdict, decision.status) == ("inconclusive", status)
    assert any("lets through" in warning for warning in decision.warnings) == (means == "warn")


@pytest.mark.parametrize("means", ["fail", "warn", "pass"])
def test_violation_is_not_let_through_as_inconclusive(means: str) -> None:
    decision = decided(a_case(FAILING), minimum={"references": 2}, on_inconclusive=means)
    assert decision.status == INCONCLUSIVE


# Waivers


@pytest.mark.parametrize("scope", ["*", TARGET, FILE])
@pytest.mark.parametrize("metrics", [FAILING, STRADDLING])
def test_waiver_of_the_target_lets_a_violation_through(scope: str, metrics: dict[str, Interval]) -> None:
    decision = decided(a_case(metrics), waivers=[a_waiver(scope=scope)])
    assert (decision.verdict, decision.rules[0].outcome) == ("passed", "waived")
    assert decision.rules[0].waivers[0].approved_by == "Ada"
    assert decision.headline == "Passed: the rule holds, separation by waiver."
    assert decision.warnings == []


def test_expired_waiver_is_named_and_does_not_count() -> None:
    decision = decided(a_case(FAILING), waivers=[a_waiver(days=-1)])
    assert decision.verdict == "failed"
    assert "separation by Ada does not count: it expired on 2026-11-23" in decision.warnings[0]


def test_waiver_counts_on_its_last_day() -> None:
    decision = decided(a_case(FAILING), waivers=[a_waiver(days=0)])
    assert decision.verdict == "passed"
    assert "expires today" in decision.warnings[0]


@pytest.mark.parametrize(("days", "warned"), [(1, True), (14, True), (15, False)])
def test_waiver_that_soon_expires_warns(days: int, warned: bool) -> None:
    decision = decided(a_case(FAILING), waivers=[a_waiver(days=days)])
    assert decision.verdict == "passed"
    assert any(f"expires in {days} day" in warning for warning in decision.warnings) == warned


@pytest.mark.parametrize(("days", "longest", "verdict"), [(90, 90, "passed"), (91, 90, "failed"), (91, 91, "passed")])
def test_waiver_for_longer_than_allowed_does_not_count(days: int, longest: int, verdict: str) -> None:
    decision = decided(a_case(FAILING), waivers=[a_waiver(days=days)], max_waiver_days=longest)
    assert decision.verdict == verdict
    assert any("more than 90 days ahead" in warning for warning in decision.warnings) == (verdict == "failed")


@pytest.mark.parametrize(
    ("metrics", "changes", "words"),
    [
        (FAILING, {"rule": "no-such-rule"}, "the policy has no rule no-such-rule"),
        (FAILING, {"scope": OTHER}, "is none of the targets"),
        (None, {}, "the rule passes without it"),
    ],
)
def test_waiver_that_matches_nothing_is_reported(
    metrics: dict[str, Interval] | None, changes: dict[str, Any], words: str
) -> None:
    decision = decided(a_case(metrics), waivers=[a_waiver(**changes)])
    assert decision.verdict == ("passed" if metrics is None else "failed")
    assert "matches nothing" in decision.warnings[0]
    assert words in decision.warnings[0]


def test_unknown_metric_cannot_be_waived() -> None:
    decision = decided(a_case({}), waivers=[a_waiver()])
    assert decision.verdict == "inconclusive"
    assert "cannot be waived" in decision.warnings[0]


def test_waiver_of_one_of_two_targets_is_not_enough() -> None:
    case = a_case(FAILING, target_digests=[TARGET, OTHER], files={})
    assert decided(case, waivers=[a_waiver(scope=TARGET)]).verdict == "failed"
    assert decided(case, waivers=[a_waiver(scope=TARGET), a_waiver(scope=OTHER)]).verdict == "passed"


def test_doubts_cannot_be_waived() -> None:
    assert decided(a_case(FAILING), minimum={"references": 2}, waivers=[a_waiver()]).verdict == "inconclusive"


# Whatever comes

numbers = st.floats(-2, 2)
anything = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True))
ops: st.SearchStrategy[Literal["<=", ">="]] = st.sampled_from(["<=", ">="])
ends = st.sampled_from([None, "low", "high", "estimate"])


@st.composite
def intervals(draw: st.DrawFn) -> Interval:
    low, estimate, high = sorted(draw(st.tuples(numbers, numbers, numbers)))
    return low, estimate, high


@given(interval=intervals(), op=ops, on=ends, values=st.tuples(numbers, numbers))
def test_tightening_a_bound_never_improves_an_outcome(
    interval: Interval, op: str, on: str | None, values: tuple[float, float]
) -> None:
    loose, tight = sorted(values, reverse=op == "<=")
    before, after = (outcome(a_case({AUC: interval}), op=op, on=on, value=value) for value in (loose, tight))
    assert ORDER[after] <= ORDER[before]


@given(interval=intervals(), op=ops, value=numbers, share=st.floats(0, 1))
def test_more_certain_evidence_never_turns_passed_into_failed(
    interval: Interval, op: str, value: float, share: float
) -> None:
    low, estimate, high = interval
    assert low is not None
    assert estimate is not None
    assert high is not None
    narrow = (estimate - share * (estimate - low), estimate, estimate + share * (high - estimate))
    if outcome(a_case({AUC: interval}), op=op, value=value) == "passed":
        assert outcome(a_case({AUC: narrow}), op=op, value=value) != "failed"


@given(interval=st.tuples(anything, anything, anything), op=ops, on=ends, value=numbers)
def test_what_is_no_interval_never_passes(interval: Interval, op: str, on: str | None, value: float) -> None:
    found = outcome(a_case({AUC: interval}), op=op, on=on, value=value)
    real = all(number is not None and math.isfinite(number) for number in interval)
    if not real:
        assert found == "unknown"
    if found == "passed":
        compared = dict(zip(("low", "estimate", "high"), interval, strict=True))[
            on or ("high" if op == "<=" else "low")
        ]
        assert compared is not None
        assert compared <= value if op == "<=" else compared >= value


@given(
    interval=st.tuples(anything, anything, anything),
    status=st.sampled_from(["ok", "failed", "unknown"]),
    skipped=st.integers(0, 800),
    means=st.sampled_from(["fail", "warn", "pass"]),
    days=st.integers(-40, 120),
)
def test_status_0_always_has_a_reason(interval: Interval, status: str, skipped: int, means: str, days: int) -> None:
    case = checked(status).model_copy(update={"num_skipped": skipped, "metrics": a_case({AUC: interval}).metrics})
    policy: Policy = a_policy(waivers=[a_waiver(days=days)], on_inconclusive=means)
    decision = decide(case, policy, TODAY)
    (rule,) = decision.rules
    assert (decision.status == VIOLATED) == (decision.verdict == "failed")
    if decision.status == PASSED:
        assert rule.outcome != "failed"
        assert means != "fail" or (decision.doubts == [] and rule.outcome in ("passed", "waived"))
    if rule.outcome == "waived":
        assert 0 <= days <= 90
    assert decide(case, policy, TODAY) == decision


def test_single_images_judged_at_another_rate_than_the_policys_are_in_doubt() -> None:
    decision = decide(a_case(fdr=0.2), a_policy(), TODAY)
    assert decision.verdict == "inconclusive"
    assert "at a false discovery rate of 0.2; the policy asks for 0.05" in decision.headline


def test_doubts_about_the_baseline_are_doubts() -> None:
    policy = a_policy(rules=[a_rule(value=0.1, baseline="last.json")])
    before = a_case(num_skipped=9)
    decision = decide(a_case(), policy, TODAY, {"last.json": before})
    assert decision.verdict == "inconclusive"
    assert "the baseline last.json: 9 of 800 samples were skipped" in decision.headline


# Suspect encoders


def suspect(part: str = "target", **changes: Any) -> Case:  # noqa: ANN401
    read = {
        "part": part, "file": FILE, "architecture": "resnet18", "input_size": 32, "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5), "suspicions": ["it was never trained"],
    }  # fmt: skip
    return a_case(encoders=[EncoderUsed.model_validate(read)], **changes)


@pytest.mark.parametrize("part", ["target", "reference"])
@pytest.mark.parametrize("checks", [[], ["roles-apart"], "all"])
def test_suspect_encoder_never_passes_whatever_the_policy_asks_for(part: str, checks: object) -> None:
    assert decided(a_case(), checks=checks).verdict == "passed"
    decision = decided(suspect(part), checks=checks)
    assert (decision.verdict, decision.status) == ("inconclusive", INCONCLUSIVE)
    assert decision.doubts == [f"a {part} is suspect: it was never trained"]


def test_suspicion_that_a_check_names_is_said_once() -> None:
    detail = "expected trained encoders; found a target is suspect: it was never trained"
    check = ValidityCheck(id="encoders-plausible", status="failed", detail=detail)
    decision = decided(suspect(checks=[check]), checks="all")
    assert decision.doubts == [f"encoders-plausible is failed: {detail}"]


def test_baseline_of_a_suspect_encoder_bears_no_verdict() -> None:
    rule = a_rule(baseline="before.json")
    decision = decide(a_case(), a_policy(rules=[rule]), TODAY, {"before.json": suspect()})
    assert decision.verdict == "inconclusive"
    assert "the baseline before.json: a target is suspect: it was never trained" in decision.doubts
