"""Cases and policies for the gate, as small as they can be."""

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any

import yaml

from sslmem.gate.case import Case, make_case
from sslmem.gate.report import Report, make_report
from sslmem.policy import Policy, PolicyFile, parse_policy

TODAY = date(2026, 11, 24)
TARGET, FILE, OTHER, REFERENCE, SPEC = ("sha256:" + letter * 64 for letter in "abcde")

Interval = tuple[float | None, float | None, float | None]
AUC = "candidate.auc"
REASON = "Known since March; the images are licensed for publication."


def metric(name: str, interval: Interval, confidence: float = 0.95, n: int = 400) -> dict[str, Any]:
    low, estimate, high = interval
    return {
        "name": name, "estimate": estimate, "low": low, "high": high, "confidence": confidence, "n": n,
        "description": name,
    }  # fmt: skip


def evidence(metrics: Mapping[str, Interval], **changes: object) -> dict[str, Any]:
    """Evidence as a server sends it."""
    return {
        "schema_version": 1,
        "metrics": {name: metric(name, interval) for name, interval in metrics.items()},
        "tests": {},
        "checks": [{"id": "roles-apart", "status": "ok", "detail": "found 0 in several"}],
        "significant": [],
        "fdr": 0.05,
        "num_references": 1,
        "num_targets": 1,
        "uncertainty": None,
        "limits": ["It rests on one reference."],
        "spec_digest": SPEC,
        "target_digests": [TARGET],
        "reference_digests": [REFERENCE],
        **changes,
    }


def summary(**changes: object) -> dict[str, Any]:
    """What the gate reads of a summary."""
    return {
        "schema_version": 1,
        "roles": [{"role": role, "n": 400} for role in ("candidate", "external")],
        "num_samples": 800,
        "num_skipped": 0,
        "spec_digest": SPEC,
        "target_digests": [TARGET],
        "reference_digests": [REFERENCE],
        **changes,
    }


def a_case(metrics: Mapping[str, Interval] | None = None, **changes: object) -> Case:
    """A case of one target against one reference whose AUC is clearly below 0.6; changes are of the case's fields."""
    found = {AUC: (0.50, 0.52, 0.54)} if metrics is None else metrics
    files = {"target:f.pth": FILE, "reference:g.pth": OTHER, "dataset": SPEC, "roles": SPEC}
    return make_case(evidence(found), summary(), files=files).model_copy(update=changes)


def checked(status: str, name: str = "reference-matches") -> Case:
    """A case with one check of a status."""
    check = {"id": name, "status": status, "detail": "found 0.5 and 0.2"}
    return make_case(evidence({AUC: (0.50, 0.52, 0.54)}, checks=[check]), summary())


def a_rule(**changes: object) -> dict[str, Any]:
    return {"id": "separation", "metric": AUC, "op": "<=", "value": 0.6, **changes}


def a_waiver(days: int = 30, **changes: object) -> dict[str, Any]:
    return {
        "rule": "separation", "scope": "*", "reason": REASON, "approved_by": "Ada",
        "expires": TODAY + timedelta(days=days), **changes,
    }  # fmt: skip


def policy_text(**changes: object) -> str:
    """The YAML of a policy of one rule."""
    return yaml.safe_dump({"version": 1, "rules": [a_rule()], **changes}, sort_keys=False)


def a_policy_file(**changes: object) -> PolicyFile:
    return parse_policy(policy_text(**changes).encode(), "ci/policy.yaml")


def a_policy(**changes: object) -> Policy:
    return a_policy_file(**changes).policy


FAILING: dict[str, Interval] = {AUC: (0.70, 0.72, 0.74)}
STRADDLING: dict[str, Interval] = {AUC: (0.58, 0.59, 0.61)}


def a_report(case: Case | None = None, **changes: object) -> Report:
    """A report of the case by the policy."""
    return make_report(case or a_case(), a_policy_file(**changes), TODAY)
