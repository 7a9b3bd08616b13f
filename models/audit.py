"""Audits, the chunks they are worked off in, and their scores."""

import uuid
from typing import Any

from sqlalchemy import CheckConstraint, Float, ForeignKey, Index, Integer, UniqueConstraint
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Id, Job, Now, Time, one_of
from models.states import AUDIT_MOVES, CHUNK_MOVES

AUDIT_STATES = tuple(AUDIT_MOVES)
CHUNK_STATES = tuple(CHUNK_MOVES)
QUEUES = ("default", "gpu")


class Audit(Base):
    """One request: targets against references, on a dataset with roles, as a score spec says.

    Attributes:
        summary: what was found, once it succeeded; see ``sslmem.report.summary``.
        finalise_attempts: how often a worker began to summarise it.
        lease_owner: the worker that summarises it now.
        lease_expires_at: when that worker counts as lost unless it renews.
        queue: which workers may take its chunks: those with a GPU alone, or all.
        moved_at: when its state last changed or a chunk of it was done; its deadline counts from then.
        project: whose it is: the name of the token that requested it.
        priority: higher goes first.
        request_digest: of what was asked for, to find the same request again.
        claimed_at: when a worker last took one of its chunks; whoever waits longest has the next turn.
        rate_since: from when on its rate is measured, for the time left.
        rate_from: samples that were done by then.
        kept_at: since when it is kept whatever the policies say; null if it is not.
        scores_deleted_at: when its scores were given up; the rows go a few at a time, and nobody sees them any more.
    """

    __tablename__ = "audits"
    __table_args__ = (
        one_of("state", AUDIT_STATES),
        one_of("queue", QUEUES),
        CheckConstraint("(state = 'succeeded') = (summary IS NOT NULL)", name="summary"),
        CheckConstraint("(state = 'failed') = (failure_code IS NOT NULL)", name="failure"),
        Index("ix_audits_project_claimed_at", "project", "claimed_at"),
    )

    id: Mapped[Id]
    created_at: Mapped[Now]
    started_at: Mapped[Time | None]
    finished_at: Mapped[Time | None]
    name: Mapped[str]
    state: Mapped[str] = mapped_column(index=True)
    dataset_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("datasets.id"), index=True)
    role_set_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("role_sets.id"), index=True)
    spec: Mapped[dict[str, Any]]
    spec_digest: Mapped[str]
    num_samples: Mapped[int]
    summary: Mapped[dict[str, Any] | None]
    failure_code: Mapped[str | None]
    failure_detail: Mapped[str | None]
    enqueued_at: Mapped[Time | None]
    finalise_attempts: Mapped[int] = mapped_column(default=0, server_default="0")
    lease_owner: Mapped[str | None]
    lease_expires_at: Mapped[Time | None]
    queue: Mapped[str] = mapped_column(default="default", server_default="default")
    moved_at: Mapped[Now]
    project: Mapped[str] = mapped_column(default="", server_default="")
    priority: Mapped[int] = mapped_column(default=0, server_default="0")
    request_digest: Mapped[str | None] = mapped_column(index=True)
    claimed_at: Mapped[Time | None]
    rate_since: Mapped[Time | None]
    rate_from: Mapped[int] = mapped_column(default=0, server_default="0")
    kept_at: Mapped[Time | None]
    scores_deleted_at: Mapped[Time | None]


class AuditEncoder(Base):
    """An encoder's part in an audit."""

    __tablename__ = "audit_encoders"
    __table_args__ = (one_of("part", ("target", "reference")),)

    audit_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("audits.id", ondelete="CASCADE"), primary_key=True)
    part: Mapped[str] = mapped_column(primary_key=True)
    ordinal: Mapped[int] = mapped_column(primary_key=True)
    encoder_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("encoders.id"), index=True)


class Chunk(Job, Base):
    """Contiguous samples of an audit, with all views and all encoders: the unit of work.

    Attributes:
        start: first position in the table of roles.
        stop: one past the last.
        num_done: samples done so far by the worker that has it, for progress.
        conditions: device, batch size and precision that its scores were computed with.
    """

    __tablename__ = "chunks"
    __table_args__ = (
        one_of("state", CHUNK_STATES),
        UniqueConstraint("audit_id", "number"),
        Index("ix_chunks_open", "state", postgresql_where="state IN ('queued', 'running')"),
        # The next chunk of an audit, and whether there is one, must not cost more the more are done.
        Index("ix_chunks_not_done", "audit_id", "attempts", "number", postgresql_where="state <> 'done'"),
    )

    id: Mapped[Id]
    audit_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("audits.id", ondelete="CASCADE"))
    number: Mapped[int]
    start: Mapped[int]
    stop: Mapped[int]
    num_done: Mapped[int] = mapped_column(default=0, server_default="0")
    conditions: Mapped[dict[str, Any] | None]


class Score(Base):
    """What was measured of one sample; see ``sslmem.scoring.SampleScore``.

    Rows are written under a lock on their audit, and a trigger on audits deletes them with it: a foreign key would be
    checked for each row, which takes longer than the row. The order by score is in :class:`ScoreBlock`.
    """

    __tablename__ = "scores"
    __table_args__ = (CheckConstraint("(score IS NULL) = (skipped IS NOT NULL)", name="score_or_reason"),)

    audit_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    sample: Mapped[str]
    sample_key: Mapped[str]
    role: Mapped[str]
    score: Mapped[float | None]
    score_bounded: Mapped[float | None]
    standard_error: Mapped[float | None]
    alignment_target: Mapped[float | None]
    alignment_reference: Mapped[float | None]
    alignment_targets: Mapped[list[float] | None] = mapped_column(ARRAY(Float))
    alignment_references: Mapped[list[float] | None] = mapped_column(ARRAY(Float))
    reference_spread: Mapped[float | None]
    num_views: Mapped[int | None]
    skipped: Mapped[str | None]


class ScoreBlock(Base):
    """A stretch of an audit's scores in falling order, written when the audit is summarised.

    Attributes:
        role: whose scores are ordered; empty for those of all roles.
        number: of the stretch, from the highest scores on.
        first_score: the highest of it.
        first_position: of that sample; among equal scores positions rise.
        positions: of its samples, in order.
    """

    __tablename__ = "score_blocks"
    __table_args__ = (Index("ix_score_blocks_first_score", "audit_id", "role", "first_score", "number"),)

    audit_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("audits.id", ondelete="CASCADE"), primary_key=True)
    role: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    first_score: Mapped[float]
    first_position: Mapped[int]
    positions: Mapped[list[int]] = mapped_column(ARRAY(Integer))


class AuditEvidence(Base):
    """Evidence of an audit that succeeded, at one confidence and false discovery rate, computed once."""

    __tablename__ = "audit_evidence"

    audit_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("audits.id", ondelete="CASCADE"), primary_key=True)
    confidence: Mapped[float] = mapped_column(primary_key=True)
    fdr: Mapped[float] = mapped_column(primary_key=True)
    evidence: Mapped[dict[str, Any]]
