"""The verdict as SARIF 2.1.0: a rule of the policy is a rule, a violation a result at its line of the policy.

Waivers are suppressions. Fingerprints depend on the rule alone, so that the next release's result is the same alert.
"""

import hashlib
import json
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

from sslmem.formats.text import requirement
from sslmem.gate.decide import NOT_EVALUATED, RuleResult
from sslmem.gate.report import Report
from sslmem.policy import DEFAULT, Rule

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
Json = dict[str, Any]


def render_sarif(report: Report, base: Path | None = None) -> str:
    """Renders a report.

    Args:
        report: of the gate.
        base: the folder that the policy's path is told relative to.
    """
    decision, rules = report.decision, report.policy.content.rules
    notes = [*(("error", text) for text in decision.doubts), *(("warning", text) for text in decision.warnings)]
    run: Json = {
        "tool": {
            "driver": {
                "name": "sslmem",
                "semanticVersion": report.sslmem_version,
                "rules": [_rule(rule) for rule in rules],
            }
        },
        "automationDetails": {"id": "sslmem-gate/"},
        "invocations": [
            {
                "executionSuccessful": decision.status != NOT_EVALUATED,
                "exitCode": decision.status,
                "toolExecutionNotifications": [{"level": level, "message": {"text": text}} for level, text in notes],
            }
        ],
        "results": [
            _result(report, i, rule, result, base)
            for i, (rule, result) in enumerate(zip(rules, decision.rules, strict=True))
            if result.outcome != "passed"
        ],
        "properties": {"verdict": decision.verdict, "report": report.digest, "policy": report.policy.digest},
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _rule(rule: Rule) -> Json:
    return {
        "id": rule.id,
        "shortDescription": {"text": requirement(rule)},
        "fullDescription": {
            "text": f"{requirement(rule)}, compared on the {rule.compared} of the metric's confidence interval."
        },
        "defaultConfiguration": {"level": "error"},
    }


def _result(report: Report, index: int, rule: Rule, result: RuleResult, base: Path | None) -> Json:
    # A waived violation keeps its level; a rule that could not be decided is a warning.
    level = "warning" if result.outcome in ("undecided", "unknown") else "error"
    found: Json = {
        "ruleId": rule.id,
        "ruleIndex": index,
        "level": level,
        "message": {"text": result.reason},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": _uri(report.policy.name, base)},
                    "region": {"startLine": report.policy.lines.get(rule.id, 1)},
                }
            }
        ],
        "partialFingerprints": {"sslmemRule/v1": _fingerprint(rule)},
        "properties": {"outcome": result.outcome},
    }
    if result.waivers:
        found["suppressions"] = [
            {
                "kind": "external",
                "status": "accepted",
                "justification": waiver.reason,
                "properties": {"approvedBy": waiver.approved_by, "expires": waiver.expires.isoformat()},
            }
            for waiver in result.waivers
        ]
    return found


def _fingerprint(rule: Rule) -> str:
    return hashlib.sha256(f"{rule.id}\n{rule.metric}\n{rule.baseline or ''}".encode()).hexdigest()


def _uri(name: str, base: Path | None) -> str:
    if name == DEFAULT:
        return "sslmem/policies/default.yaml"
    path = Path(name)
    if base is not None and path.is_absolute() and path.is_relative_to(base):
        path = path.relative_to(base)
    return path.as_uri() if path.is_absolute() else quote(PurePath(path).as_posix())
