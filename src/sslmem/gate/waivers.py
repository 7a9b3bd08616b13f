"""Which waivers of a policy count today, for whom, and what is to be said about the others."""

from collections.abc import Mapping
from datetime import date

from sslmem.gate.case import Case
from sslmem.gate.rules import Outcome
from sslmem.policy import Policy, Waiver

SOON_DAYS = 14


def apply_waivers(
    policy: Policy, case: Case, outcomes: Mapping[str, Outcome], today: date
) -> tuple[dict[str, list[Waiver]], list[str]]:
    """Matches waivers with violated and undecided rules.

    What is unknown cannot be waived: nobody can answer for a number that is not there.

    Args:
        policy: with its waivers.
        case: with the targets they are for.
        outcomes: of the rules, by id.
        today: the day.

    Returns:
        The waivers of each rule that is waived for every target, and warnings about all waivers that need one.
    """
    counting: dict[str, list[Waiver]] = {}
    warnings = []
    for waiver in policy.waivers:
        fault = _fault(waiver, policy, case, outcomes, today)
        if fault is None:
            counting.setdefault(waiver.rule, []).append(waiver)
        else:
            warnings.append(f"the waiver of {waiver.rule} by {waiver.approved_by} does not count: {fault}")
    waived = {}
    for rule, waivers in counting.items():
        if all(any(_covers(waiver, target) for waiver in waivers) for target in case.targets):
            waived[rule] = waivers
        else:
            warnings.append(f"the waivers of {rule} do not cover every target, so they do not count")
        warnings += [_soon(waiver, today) for waiver in waivers if (waiver.expires - today).days <= SOON_DAYS]
    return waived, warnings


def _covers(waiver: Waiver, target: frozenset[str]) -> bool:
    return waiver.scope == "*" or waiver.scope in target


def _fault(waiver: Waiver, policy: Policy, case: Case, outcomes: Mapping[str, Outcome], today: date) -> str | None:
    if waiver.expires < today:
        return f"it expired on {waiver.expires}; renew it or mend what it was for"
    if (waiver.expires - today).days > policy.max_waiver_days:
        return f"it expires on {waiver.expires}, more than {policy.max_waiver_days} days ahead"
    if waiver.rule not in outcomes:
        return f"it matches nothing, the policy has no rule {waiver.rule}; remove it"
    if not any(_covers(waiver, target) for target in case.targets):
        return f"it matches nothing, {waiver.scope} is none of the targets"
    if outcomes[waiver.rule] == "passed":
        return "it matches nothing, the rule passes without it; remove it"
    if outcomes[waiver.rule] == "unknown":
        return "the rule's metric is unknown, and what is unknown cannot be waived"
    return None


def _soon(waiver: Waiver, today: date) -> str:
    days = (waiver.expires - today).days
    when = "today" if days == 0 else f"in {days} day{'s' if days > 1 else ''}"
    return f"the waiver of {waiver.rule} by {waiver.approved_by} expires {when}, on {waiver.expires}"
