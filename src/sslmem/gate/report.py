"""The gate's report: everything a verdict rests on, in one JSON object that carries its own digest.

``decide`` is a pure function of what is in here, so whoever has the report can decide again.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from sslmem import __version__
from sslmem.errors import EvidenceError
from sslmem.gate.case import Case
from sslmem.gate.decide import Decision, decide
from sslmem.policy import Policy, PolicyFile


class PolicyUsed(BaseModel):
    """The policy that was applied, with where it came from; see :class:`sslmem.policy.PolicyFile`."""

    model_config = ConfigDict(frozen=True)

    name: str
    digest: str
    lines: dict[str, int]
    content: Policy


class Report(BaseModel):
    """A verdict with all that it rests on.

    Attributes:
        sslmem_version: that decided.
        day: on which, since waivers expire.
        decision: the verdict and its reasons.
        policy: that was applied.
        case: what was found.
        baselines: earlier cases that rules compare with.
    """

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1] = 1
    sslmem_version: str
    day: date
    decision: Decision
    policy: PolicyUsed
    case: Case
    baselines: dict[str, Case]

    @property
    def digest(self) -> str:
        """``sha256:`` and the hexadecimal digest of the report's canonical JSON."""
        return _digest(self.model_dump(mode="json"))

    def to_json(self) -> str:
        """The report as JSON, with its digest."""
        return json.dumps({**self.model_dump(mode="json"), "digest": self.digest}, indent=2, allow_nan=False) + "\n"


def digest_of(case: Case) -> str:
    """``sha256:`` and the hexadecimal digest of a case's canonical JSON."""
    return _digest(case.model_dump(mode="json"))


def _digest(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def make_report(case: Case, policy: PolicyFile, today: date, baselines: Mapping[str, Case] | None = None) -> Report:
    """Decides, and keeps what the verdict rests on."""
    return Report(
        sslmem_version=__version__,
        day=today,
        decision=decide(case, policy.policy, today, baselines),
        policy=PolicyUsed(name=policy.name, digest=policy.digest, lines=policy.lines, content=policy.policy),
        case=case,
        baselines=dict(baselines or {}),
    )


def read_report(path: Path) -> Report:
    """Reads a report that ``sslmem gate --json`` wrote.

    Raises:
        EvidenceError: it is not readable, is none, or was changed since it was written.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        digest = content.pop("digest")
        report, computed = Report.model_validate_json(json.dumps(content)), _digest(content)
    except OSError as error:
        raise EvidenceError(f"the report {path} is not readable ({error.strerror})") from error
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        reason = "; ".join(item["msg"] for item in error.errors()[:3]) if isinstance(error, ValidationError) else error
        raise EvidenceError(f"expected a report of sslmem gate --json; {path} is none ({reason})") from error
    if digest != computed:
        raise EvidenceError(f"the report {path} was changed since it was written: its digest is {computed}")
    return report
