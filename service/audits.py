"""Audits as their requesters see them: request, progress, reason, cancel, delete."""

import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import case, delete, func, select
from sqlalchemy.orm import Session

from models.audit import Audit, AuditEncoder, Chunk
from models.dataset import Dataset
from models.encoder import Encoder
from models.operations import Worker
from service import intake, states
from service.errors import AuditNotEnded, AuditNotFound, InvalidRequest
from service.queue import SCORE_CHUNK, JobQueue
from service.roles import get_roles
from service.settings import Settings
from service.workers import ALIVE_SECONDS
from sslmem.spec import COMPAT_FIELDS, ScoreSpec

MIN_CHUNK, MAX_CHUNK = 16, 50_000
FIRST_MESSAGES = 64


@dataclass(frozen=True)
class Progress:
    """How far an audit is; ``seconds_left`` follows from its rate so far."""

    samples_done: int
    samples_total: int
    seconds_left: float | None


def request_audit(
    session: Session,
    queue: JobQueue,
    settings: Settings,
    *,
    name: str,
    target_ids: Sequence[uuid.UUID],
    reference_ids: Sequence[uuid.UUID],
    dataset_id: uuid.UUID,
    role_set_id: uuid.UUID,
    spec: Mapping[str, Any],
) -> Audit:
    """Plans an audit into chunks; the queue is told once that has committed.

    Args:
        session: of the transaction.
        queue: of the workers.
        settings: of the service.
        name: for people.
        target_ids: encoders under audit.
        reference_ids: encoders trained alike without the candidates.
        dataset_id: where the samples are.
        role_set_id: which of them, and their roles.
        spec: fields of a :class:`ScoreSpec` but for the input size, which is the encoders'.

    Raises:
        EncoderNotFound: or another of the four is not there.
        NotReady: an encoder or the dataset is not checked yet, or was refused.
        InvalidRequest: an encoder appears twice, or their input sizes or measured tensors differ.
        SpecError: the spec is not usable.
    """
    if not target_ids or not reference_ids:
        raise InvalidRequest("expected at least one target and at least one reference")
    if len({*target_ids, *reference_ids}) < len(target_ids) + len(reference_ids):
        raise InvalidRequest("an encoder appears twice among targets and references; expected distinct encoders")
    encoders = [intake.hold(session, Encoder, encoder_id) for encoder_id in (*target_ids, *reference_ids)]
    dataset = intake.hold(session, Dataset, dataset_id)
    for encoder in encoders:
        intake.require_ready(encoder)
    intake.require_ready(dataset)
    role_set = get_roles(session, dataset_id, role_set_id)
    sizes = {encoder.input_size for encoder in encoders}
    if len(sizes) > 1:
        raise InvalidRequest(f"the encoders take views of {sorted(map(str, sizes))} pixels; expected one size")
    full_spec = ScoreSpec(**_resolved(spec, encoders), input_size=sizes.pop())
    audit = Audit(
        name=name,
        state="queued",
        dataset_id=dataset_id,
        role_set_id=role_set_id,
        spec=full_spec.model_dump(mode="json"),
        spec_digest=full_spec.digest,
        num_samples=role_set.num_samples,
    )
    session.add(audit)
    session.flush()
    for part, ids in (("target", target_ids), ("reference", reference_ids)):
        session.add_all(
            AuditEncoder(audit_id=audit.id, part=part, ordinal=i, encoder_id=encoder_id)
            for i, encoder_id in enumerate(ids)
        )
    size = chunk_size(encoders, full_spec.views, settings.chunk_seconds)
    chunks = [
        Chunk(audit_id=audit.id, number=number, start=start, stop=min(start + size, audit.num_samples), state="queued")
        for number, start in enumerate(range(0, audit.num_samples, size))
    ]
    # The first few are announced at once; of a long audit the rest is announced as it is reached.
    for chunk in chunks[:FIRST_MESSAGES]:
        chunk.enqueued_at = func.clock_timestamp()
    session.add_all(chunks)
    session.flush()
    for chunk in chunks[:FIRST_MESSAGES]:
        queue.send_after_commit(session, SCORE_CHUNK, chunk.id)
    return audit


def _resolved(spec: Mapping[str, Any], encoders: Sequence[Encoder]) -> dict[str, Any]:
    """The spec with ``auto`` replaced by the tensor that the encoders' method asks for, or a convention fixes."""
    fields = dict(spec)
    if fields.pop("representation", "auto") != "auto":
        return dict(spec)
    compat = fields.get("compat")
    if compat is None or "representation" not in COMPAT_FIELDS[compat]:
        found = {(encoder.load_report or {}).get("default_representation", "pooled") for encoder in encoders}
        if len(found) > 1:
            raise InvalidRequest(
                f"the encoders' methods ask for different tensors ({', '.join(sorted(found))}); "
                "expected one, named as representation"
            )
        fields["representation"] = found.pop()
    return fields


def chunk_size(encoders: Sequence[Encoder], views: int, chunk_seconds: float) -> int:
    """Samples per chunk, such that a chunk computes for about so long at the encoders' measured rates."""
    seconds_per_sample = sum(views / (encoder.views_per_second or math.inf) for encoder in encoders)
    size = chunk_seconds / seconds_per_sample if seconds_per_sample else MAX_CHUNK
    return max(MIN_CHUNK, min(MAX_CHUNK, round(size)))


def get_audit(session: Session, audit_id: uuid.UUID) -> Audit:
    """Returns an audit.

    Raises:
        AuditNotFound: there is none.
    """
    audit = session.get(Audit, audit_id)
    if audit is None:
        raise AuditNotFound(f"there is no audit with the id {audit_id}")
    return audit


def lock_audit(session: Session, audit_id: uuid.UUID) -> Audit | None:
    """Returns an audit locked until the transaction ends. Always taken before its chunks, so nothing deadlocks."""
    return session.get(Audit, audit_id, with_for_update={"key_share": True}, populate_existing=True)


def encoders_of(session: Session, audit_id: uuid.UUID) -> dict[str, list[Encoder]]:
    """An audit's encoders by part, in the order of the request."""
    rows = session.execute(
        select(AuditEncoder.part, Encoder)
        .join(Encoder, Encoder.id == AuditEncoder.encoder_id)
        .where(AuditEncoder.audit_id == audit_id)
        .order_by(AuditEncoder.part, AuditEncoder.ordinal)
    )
    parts: dict[str, list[Encoder]] = {"target": [], "reference": []}
    for part, encoder in rows:
        parts[part].append(encoder)
    return parts


def progress_of(session: Session, audit: Audit) -> Progress:
    """How far an audit is, running chunks included."""
    done_samples = case(
        (Chunk.state == "done", Chunk.stop - Chunk.start), (Chunk.state == "running", Chunk.num_done), else_=0
    )
    done, now = session.execute(
        select(func.coalesce(func.sum(done_samples), 0), func.clock_timestamp()).where(Chunk.audit_id == audit.id)
    ).one()
    left = None
    if audit.state == "running" and audit.started_at is not None and done:
        elapsed = (now - audit.started_at).total_seconds()
        left = elapsed / int(done) * (audit.num_samples - int(done))
    return Progress(int(done), audit.num_samples, left)


def reason_of(session: Session, audit: Audit) -> str | None:
    """Why an audit that has not ended does not move; None if it moves or has ended."""
    if audit.state not in ("queued", "running", "finalising"):
        return None
    now, seen = session.execute(select(func.clock_timestamp(), func.max(Worker.last_seen_at))).one()
    if seen is None:
        return "no worker has ever connected; start one with python -m worker"
    if (now - seen).total_seconds() > ALIVE_SECONDS:
        return f"no worker has been seen since {_clock(seen)}"
    open_chunks = session.execute(
        select(Chunk.state, Chunk.failure_detail, Chunk.available_at)
        .where(Chunk.audit_id == audit.id, Chunk.state.in_(("queued", "running")))
        .order_by(Chunk.number)
    ).all()
    if any(chunk.state == "running" for chunk in open_chunks) or audit.state == "finalising":
        return None
    retry = next((chunk for chunk in open_chunks if chunk.failure_detail and chunk.available_at > now), None)
    if retry is not None:
        return f"a chunk failed and is tried again at {_clock(retry.available_at)}: {retry.failure_detail}"
    ahead = session.scalar(
        select(func.count()).where(Audit.state.in_(("queued", "running")), Audit.created_at < audit.created_at)
    )
    if not ahead:
        return "waiting for a worker"
    return f"waiting for a worker; {ahead} audit{'s are' if ahead > 1 else ' is'} ahead"


def _clock(time: datetime) -> str:
    return time.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def cancel(session: Session, audit_id: uuid.UUID) -> Audit:
    """Cancels an audit; one that has ended stays as it is.

    Raises:
        AuditNotFound: there is none.
    """
    audit = lock_audit(session, audit_id)
    if audit is None:
        raise AuditNotFound(f"there is no audit with the id {audit_id}")
    states.move(session, audit, "cancelled")
    return audit


def remove_audit(session: Session, audit_id: uuid.UUID) -> None:
    """Deletes an audit that has ended, with its scores.

    Raises:
        AuditNotFound: there is none.
        AuditNotEnded: it has not ended.
    """
    audit = lock_audit(session, audit_id)
    if audit is None:
        raise AuditNotFound(f"there is no audit with the id {audit_id}")
    if audit.state not in states.ENDED:
        raise AuditNotEnded(f"the audit is {audit.state}; cancel it first")
    session.execute(delete(Audit).where(Audit.id == audit_id))
