"""Words that several formats share."""

from sslmem.gate.rules import WORDS
from sslmem.policy import Rule


def requirement(rule: Rule) -> str:
    """A rule as a sentence's beginning: ``candidate.auc is at most 0.6``."""
    what = f"the change of {rule.metric} since {rule.baseline}" if rule.baseline else rule.metric
    return f"{what} is {WORDS[rule.op]} {rule.value:g}"
