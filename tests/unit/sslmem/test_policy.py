"""Policies are read strictly: what is not understood is an error, because it must not pass a release."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from sslmem.errors import PolicyError
from sslmem.policy import Policy, load_policy, parse_policy, policy_schema
from tests.unit.cases import REASON, a_policy, a_rule, a_waiver, policy_text

ROOT = Path(__file__).parents[3]


def refusal(text: str) -> str:
    with pytest.raises(PolicyError) as caught:
        parse_policy(text.encode(), "policy.yaml")
    assert "\n" not in caught.value.detail
    return caught.value.detail


def test_rule_compares_the_end_that_makes_passing_hard() -> None:
    at_most, at_least = a_policy(rules=[a_rule(id="a"), a_rule(id="b", op=">=")]).rules
    assert (at_most.compared, at_least.compared) == ("high", "low")


def test_rule_may_name_what_it_compares() -> None:
    (rule,) = a_policy(rules=[a_rule(on="estimate")]).rules
    assert rule.compared == "estimate"


@pytest.mark.parametrize(
    "changes",
    [
        {"rule": []},
        {"minimum": {"sample": {}}},
        {"minimum": {"samples": {"candidates": 5}}},
        {"rules": [a_rule(vlaue=0.5)]},
        {"waivers": [a_waiver(until="2027-01-01")]},
    ],
)
def test_unknown_key_is_named(changes: dict[str, object]) -> None:
    detail = refusal(policy_text(**changes))
    assert any(name in detail for name in ("rule is not known", "sample", "vlaue", "until"))


@pytest.mark.parametrize(
    "metric", ["auc", "candidate", "candidate.", "candidate.AUC", "candidate auc", "Candidate.auc", ".auc", "a.b.c"]
)
def test_metric_of_an_unknown_shape_is_refused(metric: str) -> None:
    assert "metric" in refusal(policy_text(rules=[a_rule(metric=metric)]))


@pytest.mark.parametrize(
    "metric", ["candidate.auc", "candidate.tpr_at_fpr_0.1%", "candidate.tpr_at_fpr_1%", "external.mean_score"]
)
def test_metrics_of_the_evidence_have_the_shape(metric: str) -> None:
    assert a_policy(rules=[a_rule(metric=metric)]).rules[0].metric == metric


@pytest.mark.parametrize("value", ["0.6", True, None, float("nan"), float("inf"), [0.6]])
def test_bound_that_is_no_finite_number_is_refused(value: object) -> None:
    assert "rules.0.value" in refusal(policy_text(rules=[a_rule(value=value)]))


@pytest.mark.parametrize("op", ["<", "==", "=<", "le"])
def test_unknown_comparison_is_refused(op: str) -> None:
    assert "rules.0.op" in refusal(policy_text(rules=[a_rule(op=op)]))


@pytest.mark.parametrize(
    "text",
    ["", "[]", "5", "version: 1", "version: 1\nrules: []", "version: 2\nrules: []", "{", "\t- a", "a: !!python/none"],
)
def test_what_is_no_policy_is_refused(text: str) -> None:
    assert "policy.yaml" in refusal(text)


def test_policy_without_rules_is_refused_since_everything_would_pass_it() -> None:
    assert "rules" in refusal(policy_text(rules=[]))


def test_key_that_is_there_twice_is_refused_with_its_line() -> None:
    text = policy_text() + "rules: []\n"
    assert "line 7: the key rules is there twice" in refusal(text)


def test_rule_id_that_is_there_twice_is_refused() -> None:
    assert "separation twice" in refusal(policy_text(rules=[a_rule(), a_rule(value=0.9)]))


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(PolicyError, match="no YAML"):
        parse_policy(b"\xff\xfe\x00", "policy.yaml")


@pytest.mark.parametrize("key", ["on", '"on"'])
def test_the_key_on_is_a_word_and_no_boolean(key: str) -> None:
    text = f"version: 1\nrules:\n  - {{id: first, metric: candidate.auc, op: '<=', value: 1, {key}: estimate}}\n"
    assert parse_policy(text.encode(), "policy.yaml").policy.rules[0].compared == "estimate"


@pytest.mark.parametrize("value", ["1:30", "3_0", "0x1f", "yes"])
def test_numbers_are_written_as_people_read_them(value: str) -> None:
    text = f"version: 1\nrules:\n  - {{id: first, metric: candidate.auc, op: '<=', value: {value}}}\n"
    with pytest.raises(PolicyError, match="value"):
        parse_policy(text.encode(), "policy.yaml")


@pytest.mark.parametrize(("value", "number"), [("1", 1.0), ("-0.5", -0.5), (".5", 0.5), ("1e-3", 0.001), ("0", 0.0)])
def test_numbers_are_read(value: str, number: float) -> None:
    text = f"version: 1\nrules:\n  - {{id: first, metric: candidate.auc, op: '<=', value: {value}}}\n"
    assert parse_policy(text.encode(), "policy.yaml").policy.rules[0].value == number


def test_key_that_is_no_word_is_refused() -> None:
    with pytest.raises(PolicyError, match="line 1: expected a word as a key"):
        parse_policy(b"? [a, b]\n: 1\n", "policy.yaml")


@pytest.mark.parametrize("version", ["true", "yes", "1.5", "'1'"])
def test_version_is_a_number(version: str) -> None:
    text = f"version: {version}\nrules:\n  - {{id: first, metric: candidate.auc, op: '<=', value: 1}}\n"
    with pytest.raises(PolicyError, match="version"):
        parse_policy(text.encode(), "policy.yaml")


@pytest.mark.parametrize("missing", ["rule", "scope", "reason", "approved_by", "expires"])
def test_waiver_needs_all_its_parts(missing: str) -> None:
    waiver = {key: value for key, value in a_waiver().items() if key != missing}
    assert f"waivers.0.{missing}" in refusal(policy_text(waivers=[waiver]))


@pytest.mark.parametrize(
    "changes",
    [
        {"reason": "because"},
        {"reason": " " * 30},
        {"reason": "because" + " " * 30},
        {"approved_by": " "},
        {"scope": "f.pth"},
        {"scope": "sha256:abc"},
        {"expires": "never"},
        {"expires": 20270101},
    ],
)
def test_waiver_that_says_too_little_is_refused(changes: dict[str, Any]) -> None:
    assert f"waivers.0.{next(iter(changes))}" in refusal(policy_text(waivers=[a_waiver(**changes)]))


def test_waiver_keeps_its_words() -> None:
    (waiver,) = a_policy(waivers=[a_waiver(expires="2026-12-24")]).waivers
    assert (waiver.reason, waiver.expires.isoformat()) == (REASON, "2026-12-24")


def test_lines_of_rules_are_known() -> None:
    text = "# a comment\nversion: 1\nrules:\n  - id: first\n    metric: candidate.auc\n    op: '<='\n    value: 1\n"
    text += "  - {id: second, metric: candidate.auc, op: '<=', value: 1}\n"
    assert parse_policy(text.encode(), "policy.yaml").lines == {"first": 4, "second": 8}


def test_digest_is_of_the_bytes() -> None:
    plain, commented = (parse_policy(text.encode(), "x") for text in (policy_text(), policy_text() + "# more\n"))
    assert plain.policy == commented.policy
    assert plain.digest != commented.digest


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="expected a policy in YAML or the word default"):
        load_policy(str(tmp_path / "policy.yaml"))


def test_huge_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(policy_text() + "#" * 2**20)
    with pytest.raises(PolicyError, match="at most"):
        load_policy(str(path))


def test_default_policy_fails_closed() -> None:
    policy = load_policy("default").policy
    assert (policy.on_inconclusive, policy.checks, policy.waivers) == ("fail", "all", [])
    assert all(rule.on is None for rule in policy.rules)
    assert {"candidate", "external"} <= policy.minimum.samples.keys()


def test_documentation_explains_the_default_policy_line_by_line() -> None:
    default = load_policy("default")
    page = (ROOT / "docs" / "gate.md").read_text(encoding="utf-8")
    assert all(f"`{rule.id}`" in page for rule in default.policy.rules)
    text = (ROOT / "src" / "sslmem" / "policies" / "default.yaml").read_text(encoding="utf-8")
    assert all(f"`{key}`" in page for key in yaml.safe_load(text))


def test_policies_in_the_documentation_are_policies() -> None:
    page = (ROOT / "docs" / "gate.md").read_text(encoding="utf-8")
    blocks = [part.partition("```")[0] for part in page.split("```yaml\n")[1:]]
    policies = [block for block in blocks if block.startswith("version: 1")]
    assert policies
    for block in policies:
        parse_policy(block.encode(), "docs/gate.md")


def test_published_schema_is_up_to_date() -> None:
    path = ROOT / "docs" / "policy.schema.json"
    assert path.read_text(encoding="utf-8") == policy_schema(), "run make docs"


def test_published_schema_forbids_unknown_keys_as_the_reader_does() -> None:
    schema = json.loads(policy_schema())
    objects = [schema, *schema["$defs"].values()]
    assert all(part["additionalProperties"] is False for part in objects)
    assert set(schema["properties"]) == set(Policy.model_fields)
    assert {"version", "rules"} == set(schema["required"])
