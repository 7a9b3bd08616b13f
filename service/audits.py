"""Audits as they are requested, planned and found again."""

import math
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from models.audit import Audit, AuditEncoder, Chunk
from models.dataset import Dataset
from models.encoder import Encoder
from service import intake
from service.errors import AuditNotFound, InvalidRequest
from service.idempotency import digest_of
from service.queue import DEFAULT, SCORE_CHUNK, JobQueue
from service.roles import get_roles
from service.settings import Settings
from sslmem.gate.case import suspected
from sslmem.spec import COMPAT_FIELDS, ScoreSpec

MIN_CHUNK, MAX_CHUNK = 16, 50_000
FIRST_MESSAGES = 64
# Whoever has an audit locked computes nothing meanwhile. A program that stops there for so long, frozen or swapped out,
# loses its transaction, so that it does not hold up the audit's other workers and the sweeper.
LOCK_IDLE_SECONDS = 30.0


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
    project: str = "",
    priority: int = 0,
    worker_queue: str = DEFAULT,
    force: bool = False,
) -> tuple[Audit, bool]:
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
        project: whose audit it is; projects share the workers evenly.
        priority: those of higher priority go first, whoever's they are.
        worker_queue: ``gpu`` if only workers with a GPU may take it, else ``default``.
        force: make a new one even if the same was asked for before.

    Returns:
        The audit, or the project's that was requested with the same encoders, dataset, roles and spec and has not
        failed, of the higher of both priorities; and whether it is new.

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
    role_set = get_roles(session, dataset_id, role_set_id, hold=True)
    sizes = {encoder.input_size for encoder in encoders}
    if len(sizes) > 1:
        raise InvalidRequest(f"the encoders take views of {sorted(map(str, sizes))} pixels; expected one size")
    full_spec = ScoreSpec(**_resolved(spec, encoders), input_size=sizes.pop())
    asked = {"targets": target_ids, "references": reference_ids, "dataset": dataset_id, "roles": role_set_id}
    request_digest = digest_of({**asked, "spec": full_spec.digest, "project": project})
    if not force and (found := _same(session, request_digest)) is not None:
        found.priority = max(found.priority, priority)  # whoever is in a hurry shall not wait for the other's leisure
        return found, False
    audit = Audit(
        name=name,
        state="queued",
        dataset_id=dataset_id,
        role_set_id=role_set_id,
        spec=full_spec.model_dump(mode="json"),
        spec_digest=full_spec.digest,
        num_samples=role_set.num_samples,
        project=project,
        priority=priority,
        queue=worker_queue,
        request_digest=request_digest,
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
    session.add_all(chunks)
    session.flush()
    announce_first(session, queue, audit)
    return audit, True


def _same(session: Session, request_digest: str) -> Audit | None:
    """The audit of the same request that succeeded or still may; until the transaction ends, others like it wait."""
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(request_digest, 0))))
    same = select(Audit).where(Audit.request_digest == request_digest, Audit.state.not_in(("failed", "cancelled")))
    has_scores = Audit.scores_deleted_at.is_(None)
    return session.scalar(same.where(has_scores).order_by(Audit.created_at.desc()).limit(1))


def announce_first(session: Session, queue: JobQueue, audit: Audit) -> None:
    """Announces the first few waiting chunks; of a long audit the rest is announced as it is reached."""
    first = (
        select(Chunk.id)
        .where(Chunk.audit_id == audit.id, Chunk.state == "queued", Chunk.enqueued_at.is_(None))
        .order_by(Chunk.number)
        .limit(FIRST_MESSAGES)
    )
    for chunk_id in list(session.scalars(first)):
        session.execute(update(Chunk).where(Chunk.id == chunk_id).values(enqueued_at=func.clock_timestamp()))
        queue.send_after_commit(session, SCORE_CHUNK, chunk_id, audit.queue)


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
    limit = f"{LOCK_IDLE_SECONDS * 1000:.0f}ms"
    session.execute(select(func.set_config("idle_in_transaction_session_timeout", limit, True)))
    return session.get(Audit, audit_id, with_for_update={"key_share": True}, populate_existing=True)


def suspicions_of(parts: Mapping[str, Sequence[Encoder]]) -> list[str]:
    """What speaks against an audit's encoders, as sentences."""
    return [
        one for part, encoders in parts.items() for encoder in encoders for one in suspected(part, encoder.suspicions)
    ]


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
