"""The verdict as an in-toto statement about the target's file, which CI signs, and the check of such a statement."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from sslmem.errors import EvidenceError, StatementError
from sslmem.gate.decide import PASSED, Decision, decide
from sslmem.gate.report import Report, digest_of

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
OTHER_TYPES = ("https://in-toto.io/Statement/v0.1",)  # of tools that make the statement of its predicate
PREDICATE_TYPE = "https://in-toto.io/attestation/test-result/v0.1"
BLOCK = 2**20
Json = dict[str, Any]


def make_statement(report: Report) -> str:
    """Says in in-toto's words (Statement v1, test-result v0.1) what the gate found about the target's files.

    Raises:
        EvidenceError: the digests of the targets' files are not known, so there is nothing to say it about.
    """
    files = report.case.files
    subject = [_resource(name.removeprefix("target:"), files[name]) for name in files if name.startswith("target:")]
    if len(subject) != len(report.case.target_digests):
        raise EvidenceError("a statement is about files; the digests of the targets' files are not known")
    return json.dumps(
        {
            "_type": STATEMENT_TYPE,
            "subject": subject,
            "predicateType": PREDICATE_TYPE,
            "predicate": _predicate(report),
        },
        indent=2,
    ) + "\n"  # fmt: skip


def _predicate(report: Report) -> Json:
    case, decision = report.case, report.decision
    inputs = [(name, digest) for name, digest in case.files.items() if not name.startswith("target:")]
    tests: dict[str, list[str]] = {"passed": [], "warned": [], "failed": []}
    for result in decision.rules:
        kind = {"passed": "passed", "waived": "warned"}.get(result.outcome, "failed")
        tests[kind].append(result.rule)
    return {
        "result": _result(decision),
        "configuration": [
            {**_resource("policy", report.policy.digest), "uri": report.policy.name},
            _resource("score-spec", case.spec_digest),
            {**_resource("report", report.digest), "annotations": {"sslmem": report.sslmem_version}},
            *(_resource(name, digest) for name, digest in inputs),
            *(_resource(f"baseline:{name}", digest_of(case)) for name, case in report.baselines.items()),
        ],
        **{f"{kind}Tests": names for kind, names in tests.items()},
    }


def _result(decision: Decision) -> Literal["PASSED", "WARNED", "FAILED"]:
    if decision.status != PASSED:
        return "FAILED"
    waived = any(result.outcome == "waived" for result in decision.rules)
    return "WARNED" if waived or decision.verdict != "passed" else "PASSED"


def _resource(name: str, digest: str) -> Json:
    algorithm, _, value = digest.partition(":")
    return {"name": name, "digest": {algorithm: value}}


def file_digest(path: Path) -> str:
    """``sha256:`` and the hexadecimal digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return f"sha256:{digest.hexdigest()}"


def verify_statement(statement: str, report: Report, targets: Iterable[Path] = ()) -> None:
    """Checks that a statement says what a report says, about these files, and that the report's verdict follows.

    Signatures are not checked here; the tool that made them does that.

    Args:
        statement: JSON.
        report: that it was made from; reading it has checked the report's own digest.
        targets: files that it must be about.

    Raises:
        StatementError: it does not hold; the message says what differs.
    """
    try:
        found = json.loads(statement)
    except ValueError as error:
        raise StatementError(f"expected a statement in JSON ({error})") from error
    if decide(report.case, report.policy.content, report.day, report.baselines) != report.decision:
        raise StatementError("the report's verdict does not follow from its evidence and policy")
    expected = json.loads(make_statement(report))
    if not isinstance(found, dict) or found.keys() != expected.keys():
        raise StatementError("expected an in-toto statement with _type, subject, predicateType and predicate")
    if found["_type"] in OTHER_TYPES:
        expected["_type"] = found["_type"]
    if _digests_of(found["subject"]) == _digests_of(expected["subject"]):
        expected["subject"] = found["subject"]  # under whatever names
    for key, value in expected.items():
        if found[key] != value:
            raise StatementError(f"the statement's {key} is not what the report says")
    digests = {f"sha256:{digest}" for digest in _digests_of(expected["subject"])}
    for path in targets:
        if (digest := file_digest(path)) not in digests:
            raise StatementError(f"the statement is not about {path}, whose digest is {digest}")


def _digests_of(subject: object) -> list[str]:
    try:
        return sorted(str(item["digest"]["sha256"]) for item in subject)  # type: ignore[attr-defined]
    except (TypeError, KeyError):
        return []


def read_statement(path: Path) -> str:
    """Reads a statement's text.

    Raises:
        EvidenceError: there is no such file, or it is no text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EvidenceError(f"the statement {path} is not readable ({error})") from error
