"""What is put before the gate: an audit's evidence and the counts of its summary, in JSON, as a server sends them.

The gate reads JSON because it also runs where numpy, which computes the evidence, is not installed.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from sslmem.errors import EvidenceError

ROUNDING = 1e-9  # an area of 1 has an interval that ends at 1 but for the last digit


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


def _finite(value: object) -> object:
    # JSON has no other word for what is not finite, and nothing can be decided by it.
    return None if isinstance(value, float) and not math.isfinite(value) else value


Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]
Number = Annotated[float | None, BeforeValidator(_finite)]


class Measure(_Read):
    """A metric with its interval; what could not be computed, or is not finite, is None."""

    name: str
    estimate: Number
    low: Number
    high: Number
    confidence: float
    n: int
    description: str = ""

    @property
    def interval(self) -> tuple[float, float, float] | None:
        """Low end, estimate and high end; None unless they are numbers in this order, but for rounding."""
        low, estimate, high = self.low, self.estimate, self.high
        if low is None or estimate is None or high is None:
            return None
        slack = ROUNDING * (1 + abs(estimate))
        if not low - slack <= estimate <= high + slack:
            return None
        return min(low, estimate), estimate, max(high, estimate)


class ValidityCheck(_Read):
    """Whether the scores may be believed."""

    id: str
    status: str
    detail: str


class SignificantSample(_Read):
    """A sample that is memorized, at the false discovery rate of the case."""

    sample: str
    score: float
    p_value: float
    q_value: float


class EncoderUsed(_Read):
    """How an encoder's file was read, so that it can be read so again; see ``load_checkpoint``."""

    part: Literal["target", "reference"]
    file: Digest
    architecture: str
    branch: str | None = None
    options: dict[str, int | float | bool | str] = {}
    input_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    suspicions: list[str] = []

    @property
    def doubts(self) -> list[str]:
        """What speaks against it, as sentences of a verdict."""
        return suspected(self.part, self.suspicions)


def suspected(part: str, suspicions: Sequence[str]) -> list[str]:
    """What speaks against an encoder, as sentences that say which part of an audit it is."""
    return [f"a {part} is suspect: {suspicion}" for suspicion in suspicions]


class Drawn(_Read):
    """That scoring stopped, or might have, once the verdict was certain; see :mod:`sslmem.stopping`.

    Attributes:
        share: of the samples of each role that were scored.
        views: that a full run has; the scores may be of fewer.
        said: the same for people.
    """

    share: Annotated[float, Field(gt=0, le=1)]
    views: Annotated[int, Field(ge=1)]
    said: str


class Case(_Read):
    """What an audit found, as far as a verdict rests on it.

    Attributes:
        metrics: by name.
        checks: of validity.
        significant: the samples found memorized one by one.
        fdr: the false discovery rate of that list.
        samples: scored samples by role.
        num_samples: all of them.
        num_skipped: those without a score.
        num_targets: encoders under audit.
        num_references: reference encoders.
        limits: of what was tested, in sentences.
        spec_digest: of the score spec.
        target_digests: of the targets' weights.
        reference_digests: of the references' weights.
        files: digests of the files that went in, by what they are: ``target:NAME``, ``dataset``, ``roles``; and of the
            file of ``scores`` that came out, if one was written.
        encoders: how the encoders' files were read, if that is known.
        drawn: which samples were scored, unless all were.
        audit: the audit's id, if a server keeps it.
    """

    metrics: dict[str, Measure]
    checks: list[ValidityCheck]
    significant: list[SignificantSample]
    fdr: float
    samples: dict[str, Count]
    num_samples: Count
    num_skipped: Count
    num_targets: int
    num_references: int
    limits: list[str]
    spec_digest: str
    target_digests: list[str]
    reference_digests: list[str]
    files: dict[str, Digest] = {}
    encoders: list[EncoderUsed] = []
    drawn: Drawn | None = None
    audit: str | None = None

    @property
    def notes(self) -> list[str]:
        """What whoever reads the verdict should know: how much was scored, and the limits."""
        return [*([self.drawn.said] if self.drawn is not None else []), *self.limits]

    @property
    def targets(self) -> list[frozenset[str]]:
        """The digests by which each target is known: of its weights, and of its file where that is known."""
        files = [digest for name, digest in self.files.items() if name.startswith("target:")]
        if len(files) != len(self.target_digests):
            files = list(self.target_digests)
        return [frozenset(pair) for pair in zip(self.target_digests, files, strict=True)]


def order_seed(roles: str, target_digests: Sequence[str], reference_digests: Sequence[str]) -> int:
    """Of the order in which samples are drawn: it follows from what is audited, so nobody chooses it.

    Args:
        roles: digest of the table of roles, whatever the order of its lines.
        target_digests: of the targets' weights.
        reference_digests: of the references'.
    """
    parts = "\n".join([roles, *target_digests, *reference_digests])
    return int.from_bytes(hashlib.sha256(parts.encode()).digest()[:4], "big")


def make_case(
    evidence: Mapping[str, Any],
    summary: Mapping[str, Any],
    *,
    files: Mapping[str, str] | None = None,
    encoders: Sequence[EncoderUsed] = (),
    drawn: Drawn | None = None,
    audit: str | None = None,
) -> Case:
    """Puts evidence and summary of one audit together.

    Args:
        evidence: JSON form of the audit's evidence.
        summary: JSON form of its summary.
        files: digests of what went in.
        encoders: how they were read.
        drawn: which samples were scored, unless all were.
        audit: its id.

    Raises:
        EvidenceError: they are not of the form that this version reads, or not of one audit.
    """
    for name, part in (("evidence", evidence), ("summary", summary)):
        if part.get("schema_version") != 1:
            raise EvidenceError(
                f"expected {name} of schema version 1; found {part.get('schema_version')!r}: "
                "use the versions of sslmem and of the service that go together"
            )
    try:
        if any(evidence[key] != summary[key] for key in ("spec_digest", "target_digests", "reference_digests")):
            raise EvidenceError("evidence and summary are of different audits")
        return Case.model_validate(
            {
                **evidence,
                "samples": {row["role"]: row["n"] for row in summary["roles"]},
                "num_samples": summary["num_samples"],
                "num_skipped": summary["num_skipped"],
                "files": dict(files or {}),
                "encoders": list(encoders),
                "drawn": drawn,
                "audit": audit,
            }
        )
    except (ValidationError, KeyError, TypeError) as error:
        raise EvidenceError(f"the evidence is not of the expected form: {' '.join(str(error).split())}") from error
