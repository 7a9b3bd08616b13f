"""The policy of a release: rules on what an audit found, and what may be waived; read strictly from YAML.

A mistyped key or metric must not pass a release, so whatever is not understood is an error.
"""

import hashlib
import json
import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from sslmem.errors import PolicyError

DEFAULT = "default"
MAX_POLICY_BYTES = 2**20

Bound = Literal["low", "high", "estimate"]
Finite = Annotated[float, Field(allow_inf_nan=False)]
RuleId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
# A role or a part of the audit, then what is measured of it, such as candidate.tpr_at_fpr_1%.
MetricName = Annotated[str, Field(pattern=r"^[a-z][a-z_]*\.[a-z][a-z0-9_]*(\.[0-9]+)?%?$")]


def _number(value: object) -> object:
    if isinstance(value, bool):  # which equals 1
        raise ValueError("expected a number")  # noqa: TRY004  what pydantic makes an error of the field
    return value


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Rule(_Strict):
    """A bound on a metric.

    Attributes:
        id: of the rule; waivers and reports name it.
        metric: what is bounded, such as ``candidate.auc``.
        op: ``<=`` or ``>=``.
        value: the bound; with a baseline, of the change since the baseline.
        on: what is compared: an end of the confidence interval, or the estimate. The end that makes passing hard,
            ``high`` for ``<=`` and ``low`` for ``>=``, when left out.
        baseline: an audit's id, or the path of a report that ``sslmem gate --json`` wrote.
    """

    id: RuleId
    metric: MetricName
    op: Literal["<=", ">="]
    value: Finite
    on: Bound | None = None
    baseline: Annotated[str, Field(min_length=1)] | None = None

    @property
    def hard_bound(self) -> Bound:
        """The end of the interval that makes passing hard."""
        return "high" if self.op == "<=" else "low"

    @property
    def compared(self) -> Bound:
        """What is compared with the value."""
        return self.on or self.hard_bound


class Waiver(_Strict):
    """A violation that somebody answers for, for a while.

    Attributes:
        rule: the id of the rule.
        scope: digest of the target it is for, of its file or its weights; ``*`` for any.
        reason: at least 20 characters.
        approved_by: who answers for it.
        expires: the last day on which it counts.
    """

    rule: RuleId
    scope: Annotated[str, Field(pattern=r"^(\*|sha256:[0-9a-f]{64})$")]
    reason: Annotated[str, StringConstraints(strip_whitespace=True, min_length=20)]
    approved_by: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
    expires: date

    @field_validator("expires", mode="before")
    @classmethod
    def _day(cls, value: object) -> object:
        return date.fromisoformat(value) if isinstance(value, str) else value


class Minimum(_Strict):
    """Evidence without which there is no verdict.

    Attributes:
        samples: scored samples by role.
        references: reference encoders.
        max_skipped_share: of the samples that may lack a score.
    """

    samples: dict[Literal["shared", "candidate", "independent", "external"], Annotated[int, Field(ge=0)]] = Field(
        default_factory=dict
    )
    references: Annotated[int, Field(ge=1)] = 1
    max_skipped_share: Annotated[float, Field(ge=0, le=1)] = 0.0


class Policy(_Strict):
    """What a release must fulfil.

    Attributes:
        version: of this format.
        rules: all of them must hold.
        confidence: of the intervals that rules compare with.
        fdr: false discovery rate at which single images count as memorized.
        minimum: evidence without which there is no verdict.
        checks: validity checks without which there is no verdict: ``all``, or these, must be ok.
        on_inconclusive: ``fail`` ends with status 3; ``warn`` and ``pass`` with 0 unless a rule is violated.
        max_waiver_days: how far ahead a waiver may expire.
        waivers: of rules.
    """

    version: Annotated[Literal[1], BeforeValidator(_number)]
    rules: Annotated[list[Rule], Field(min_length=1)]
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    fdr: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    minimum: Minimum = Field(default_factory=Minimum)
    checks: Literal["all"] | list[Annotated[str, Field(min_length=1)]] = "all"
    on_inconclusive: Literal["fail", "warn", "pass"] = "fail"
    max_waiver_days: Annotated[int, Field(ge=1)] = 90
    waivers: list[Waiver] = Field(default_factory=list)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        ids = [rule.id for rule in self.rules]
        twice = sorted({rule_id for rule_id in ids if ids.count(rule_id) > 1})
        if twice:
            raise ValueError(f"expected an id for one rule each; found {', '.join(twice)} twice")
        return self


@dataclass(frozen=True)
class PolicyFile:
    """A policy with where it came from.

    Attributes:
        policy: what it says.
        name: path as it was given, or ``default``.
        digest: of its bytes.
        lines: in which each rule begins, by id.
    """

    policy: Policy
    name: str
    digest: str
    lines: dict[str, int] = field(default_factory=dict)


class _Loader(yaml.SafeLoader):
    """YAML without repeated keys: of two values for one bound, neither may win in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise PolicyError(f"line {key.start_mark.line + 1}: expected a word as a key")
            if key.value in seen:
                raise PolicyError(f"line {key.start_mark.line + 1}: the key {key.value} is there twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


# YAML 1.1 reads on, off, yes and no as booleans (and on is one of our keys), 1:30 as 90 and 3_0 as 30; 1.2 does not.
_OURS = {
    "tag:yaml.org,2002:bool": r"true|false",
    "tag:yaml.org,2002:int": r"[-+]?(0|[1-9][0-9]*)",
    "tag:yaml.org,2002:float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|nan)",
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag not in _OURS]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern in _OURS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(f"^({_pattern})$"), None)


def load_policy(name: str) -> PolicyFile:
    """Reads a policy from a file, or the one named ``default``.

    Raises:
        PolicyError: there is no such file, or it is no policy; the message names each fault.
    """
    if name == DEFAULT:
        return parse_policy((resources.files("sslmem.policies") / "default.yaml").read_bytes(), DEFAULT)
    try:
        with Path(name).open("rb") as file:
            data = file.read(MAX_POLICY_BYTES + 1)
    except OSError as error:
        raise PolicyError(
            f"expected a policy in YAML or the word {DEFAULT}; {name!r} is not readable ({error.strerror})"
        ) from error
    if len(data) > MAX_POLICY_BYTES:
        raise PolicyError(f"expected a policy of at most {MAX_POLICY_BYTES} bytes; {name!r} has more")
    return parse_policy(data, name)


def parse_policy(data: bytes, name: str) -> PolicyFile:
    """Parses a policy's bytes.

    Raises:
        PolicyError: they are no policy; the message names each fault.
    """
    try:
        text = data.decode()
        content = yaml.load(text, _Loader)  # noqa: S506  a SafeLoader
        policy = Policy.model_validate(content)
        lines = _lines(text)
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, ValidationError):
            faults = "; ".join(_fault(item) for item in error.errors())
            raise PolicyError(f"{name}: {faults}") from error
        raise PolicyError(f"{name} is no YAML: {' '.join(str(error).split())}") from error
    return PolicyFile(policy, name, "sha256:" + hashlib.sha256(data).hexdigest(), lines)


def _fault(item: Any) -> str:  # noqa: ANN401  an error of pydantic
    where = ".".join(str(part) for part in item["loc"]) or "the policy"
    if item["type"] == "extra_forbidden":
        return f"{where} is not known; expected one of the keys in docs/gate.md"
    return f"{where}: {item['msg']}; found {item['input']!r}"[:300]


def _lines(text: str) -> dict[str, int]:
    root = yaml.compose(text, yaml.SafeLoader)
    found = {}
    for key, rules in root.value if isinstance(root, yaml.MappingNode) else []:
        if key.value == "rules":
            for rule in rules.value:
                ids = [value.value for name, value in rule.value if name.value == "id"]
                found.update(dict.fromkeys(ids, rule.start_mark.line + 1))
    return found


def policy_schema() -> str:
    """The JSON Schema of policies, as ``docs/policy.schema.json`` publishes it."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Policy.model_json_schema(),
        "title": "sslmem gate policy, version 1",
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
