"""Chunks as workers see them: claim, record, fail; and the end of an audit."""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import exists, func, or_, select, update
from sqlalchemy.orm import Session

from models.audit import Audit, Chunk
from models.dataset import Dataset, RoleEntry
from models.encoder import Encoder
from service import jobs, states
from service.audits import encoders_of, lock_audit
from service.cursors import decode_cursor, encode_cursor
from service.database import storable
from service.intake import copy_rows
from service.jobs import LeaseLost
from service.losses import give_up_summary
from service.order import store_order
from service.queue import FINALISE_AUDIT, SCORE_CHUNK, JobQueue
from service.results import all_columns
from sslmem.conditions import Conditions
from sslmem.report.summary import summarize
from sslmem.spec import ScoreSpec

_AFTER = TypeAdapter(tuple[int])
UNSUMMARISED_SECONDS = 10.0
SCORE_TYPES = (
    *("uuid", "int4", "varchar", "varchar", "varchar", "float8", "float8", "float8", "float8", "float8", "varchar"),
    *("float8[]", "float8[]", "float8", "int4"),
)


@dataclass(frozen=True)
class EncoderFiles:
    """What a worker needs to load an encoder."""

    weights_artifact_digest: str
    architecture: str
    input_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    representation: str
    branch: str | None = None
    options: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class ChunkPlan:
    """Everything a chunk's scores depend on."""

    chunk_id: uuid.UUID
    audit_id: uuid.UUID
    start: int
    spec: ScoreSpec
    targets: Sequence[EncoderFiles]
    references: Sequence[EncoderFiles]
    dataset_digest: str
    entries: Sequence[tuple[str, str]]  # path and role of each sample, in order


@dataclass(frozen=True)
class RecordedScore:
    """A row of scores; see the columns of the same names."""

    sample: str
    sample_key: str
    role: str
    score: float | None
    score_bounded: float | None
    standard_error: float | None
    alignment_target: float | None
    alignment_reference: float | None
    skipped: str | None
    alignment_targets: Sequence[float] | None = None
    alignment_references: Sequence[float] | None = None
    reference_spread: float | None = None
    num_views: int | None = None


def claim_chunk(session: Session, chunk_id: uuid.UUID, owner: str, lease_seconds: float) -> ChunkPlan | None:
    """Takes a chunk; None if it is not to be had: done, with another worker, cancelled, backing off or gone."""
    audit_id = session.scalar(select(Chunk.audit_id).where(Chunk.id == chunk_id))
    audit = lock_audit(session, audit_id) if audit_id else None
    if audit is None or audit.state not in ("queued", "running"):
        return None
    if not jobs.claim(session, Chunk, chunk_id, owner, lease_seconds):
        return None
    states.move(session, audit, "running")
    chunk = session.get_one(Chunk, chunk_id)
    chunk.num_done = 0
    spec = ScoreSpec.model_validate(audit.spec)
    parts = encoders_of(session, audit.id)
    entries = session.execute(
        select(RoleEntry.path, RoleEntry.role)
        .where(RoleEntry.role_set_id == audit.role_set_id)
        .where(RoleEntry.position >= chunk.start, RoleEntry.position < chunk.stop)
        .order_by(RoleEntry.position)
    )
    files = {part: [_files(encoder, spec.representation) for encoder in encoders] for part, encoders in parts.items()}
    return ChunkPlan(
        chunk_id=chunk_id,
        audit_id=audit.id,
        start=chunk.start,
        spec=spec,
        targets=files["target"],
        references=files["reference"],
        dataset_digest=session.get_one(Dataset, audit.dataset_id).artifact_digest,
        entries=list(entries),
    )


def _files(row: Encoder, representation: str) -> EncoderFiles:
    """How an encoder is read: as its check read it, whatever the defaults are by now."""
    report = row.load_report or {}
    mean, std = row.in_effect("mean", row.mean), row.in_effect("std", row.std)
    options = {name: row.in_effect(name, None) for name in report.get("told_again", row.options)}
    return EncoderFiles(
        weights_artifact_digest=row.weights_artifact_digest or "",
        architecture=row.architecture or "",
        input_size=row.input_size or 0,
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
        representation=representation,
        branch=report.get("branch", row.branch),
        options=tuple(sorted(options.items())),
    )


def page_of_chunks(
    session: Session, audit_id: uuid.UUID, limit: int, cursor: str | None
) -> tuple[list[Chunk], str | None]:
    """Returns a page of an audit's chunks and the cursor of the next page, if there is one.

    Raises:
        InvalidRequest: the cursor is not one of this listing's.
    """
    statement = select(Chunk).where(Chunk.audit_id == audit_id).order_by(Chunk.number).limit(limit + 1)
    if cursor:
        statement = statement.where(Chunk.number > decode_cursor(cursor, _AFTER)[0])
    rows = list(session.scalars(statement))
    return rows[:limit], encode_cursor(rows[limit - 1].number) if len(rows) > limit else None


def record_scores(
    session: Session,
    queue: JobQueue,
    plan: ChunkPlan,
    owner: str,
    scores: Iterable[RecordedScore],
    conditions: Conditions | None = None,
) -> bool:
    """Writes a chunk's scores and marks it done, both or neither; True if it was the audit's last.

    Raises:
        LeaseLost: the chunk is no longer this worker's, and nothing is written.
    """
    audit = lock_audit(session, plan.audit_id)
    if audit is None or audit.state not in ("running", "paused"):
        raise LeaseLost
    done: dict[str, Any] = {"num_done": Chunk.stop - Chunk.start, "failure_code": None, "failure_detail": None}
    if conditions is not None:
        done["conditions"] = conditions.model_dump(mode="json")
    jobs.leave(session, Chunk, plan.chunk_id, owner, "done", **done)
    copy_rows(
        session,
        "scores (audit_id, position, sample, sample_key, role, score, score_bounded, standard_error, "
        "alignment_target, alignment_reference, skipped, alignment_targets, alignment_references, reference_spread, "
        "num_views)",
        (
            (
                plan.audit_id,
                position,
                s.sample,
                s.sample_key,
                s.role,
                s.score,
                s.score_bounded,
                s.standard_error,
                s.alignment_target,
                s.alignment_reference,
                storable(s.skipped),
                None if s.alignment_targets is None else list(s.alignment_targets),
                None if s.alignment_references is None else list(s.alignment_references),
                s.reference_spread,
                s.num_views,
            )
            for position, s in enumerate(scores, start=plan.start)
        ),
        SCORE_TYPES,
    )
    if not session.scalar(select(exists().where(Chunk.audit_id == plan.audit_id, Chunk.state != "done"))):
        states.move(session, audit, "finalising")
        audit.enqueued_at = func.clock_timestamp()
        queue.send_after_commit(session, FINALISE_AUDIT, audit.id)
        return True
    audit.moved_at = func.clock_timestamp()
    if audit.state == "running":
        announce_next(session, queue, audit)
    return False


def announce_next(session: Session, queue: JobQueue, audit: Audit) -> None:
    """Announces the first chunk of an audit that was not announced yet, if there is one."""
    first = (
        select(Chunk.id)
        .where(Chunk.audit_id == audit.id, Chunk.state == "queued", Chunk.enqueued_at.is_(None))
        .where(Chunk.available_at <= func.clock_timestamp())
        .order_by(Chunk.attempts, Chunk.number)
        .limit(1)
        .scalar_subquery()
    )
    statement = update(Chunk).where(Chunk.id == first).values(enqueued_at=func.clock_timestamp()).returning(Chunk.id)
    chunk_id = session.scalar(statement)
    if chunk_id is not None:
        queue.send_after_commit(session, SCORE_CHUNK, chunk_id, audit.queue)


def fail_chunk(
    session: Session,
    plan: ChunkPlan,
    owner: str,
    *,
    code: str,
    detail: str,
    max_attempts: int | None,
    counts: bool = True,
) -> None:
    """Notes that a chunk failed: it is tried again later, or ends its audit.

    Args:
        session: of the transaction.
        plan: of the chunk.
        owner: the worker.
        code: of the failure.
        detail: as a sentence.
        max_attempts: how often to try; None if trying again cannot help.
        counts: whether it was a try; False if it could not be one, such as without a database.

    Raises:
        LeaseLost: the chunk is no longer this worker's.
    """
    audit = lock_audit(session, plan.audit_id)
    attempts = session.scalar(select(Chunk.attempts).where(Chunk.id == plan.chunk_id))
    if attempts is None:
        raise LeaseLost
    detail = storable(detail)
    failure: dict[str, Any] = {"failure_code": code, "failure_detail": detail}
    if not counts:
        failure["attempts"] = attempts - 1
    if not counts or (max_attempts is not None and attempts < max_attempts):
        again = {"available_at": jobs.back_off(attempts), "enqueued_at": None, "num_done": 0}
        jobs.leave(session, Chunk, plan.chunk_id, owner, "queued", **failure, **again)
        return
    jobs.leave(session, Chunk, plan.chunk_id, owner, "failed", **failure)
    if audit is not None:
        states.fail(session, audit, code, detail)


def hand_back(session: Session, chunk_id: uuid.UUID, owner: str) -> None:
    """Gives a chunk up unharmed, when the worker is asked to stop; the attempt does not count.

    Raises:
        LeaseLost: the chunk is no longer this worker's.
    """
    audit_id = session.scalar(select(Chunk.audit_id).where(Chunk.id == chunk_id))
    if audit_id is None or lock_audit(session, audit_id) is None:
        raise LeaseLost
    jobs.hand_back(session, Chunk, chunk_id, owner, num_done=0)


def first_unsummarised(session: Session) -> uuid.UUID | None:
    """The audit that has waited longest for somebody to summarise it; None if none waits.

    One that was just announced, or failed, is left to its message for a while.
    """
    waits = (Audit.state == "finalising") & Audit.lease_owner.is_(None)
    long_ago = func.clock_timestamp() - jobs.seconds(UNSUMMARISED_SECONDS)
    overdue = or_(Audit.enqueued_at.is_(None), Audit.enqueued_at < long_ago)
    return session.scalar(select(Audit.id).where(waits, overdue).order_by(Audit.moved_at).limit(1))


def begin_finalising(session: Session, audit_id: uuid.UUID, owner: str, lease_seconds: float) -> bool:
    """Takes an audit to summarise it, counting the attempt; False if it is not to be had."""
    audit = lock_audit(session, audit_id)
    if audit is None or audit.state != "finalising" or audit.lease_owner is not None:
        return False
    audit.finalise_attempts += 1
    audit.lease_owner, audit.lease_expires_at = owner, func.clock_timestamp() + jobs.seconds(lease_seconds)
    return True


def give_up_finalising(session: Session, audit_id: uuid.UUID, owner: str, why: str | None) -> None:
    """Hands an audit back that was to be summarised: after a failure, or unharmed if the worker is asked to stop.

    Raises:
        LeaseLost: it is no longer this worker's.
    """
    audit = _held(session, audit_id, owner)
    if why is None:
        audit.finalise_attempts -= 1
        audit.lease_owner = audit.lease_expires_at = audit.enqueued_at = None
    else:
        give_up_summary(session, audit, storable(why))


def _held(session: Session, audit_id: uuid.UUID, owner: str) -> Audit:
    audit = lock_audit(session, audit_id)
    if audit is None or audit.state != "finalising" or audit.lease_owner != owner:
        raise LeaseLost
    return audit


def finalise(session: Session, audit_id: uuid.UUID, owner: str) -> None:
    """Summarises an audit whose scores are complete.

    Raises:
        LeaseLost: it is no longer this worker's.
    """
    audit = session.get_one(Audit, audit_id)
    parts = encoders_of(session, audit_id)
    positions, columns = all_columns(session, audit_id)
    summary = summarize(
        columns,
        ScoreSpec.model_validate(audit.spec),
        target_digests=[encoder.weights_digest or "" for encoder in parts["target"]],
        reference_digests=[encoder.weights_digest or "" for encoder in parts["reference"]],
        conditions=[
            Conditions.model_validate(found)
            for found in session.scalars(select(Chunk.conditions).where(Chunk.audit_id == audit_id).distinct())
            if found is not None
        ],
    )
    held = _held(session, audit_id, owner)
    store_order(session, audit_id, positions, columns)
    held.summary = summary.model_dump(mode="json")
    states.move(session, held, "succeeded")
