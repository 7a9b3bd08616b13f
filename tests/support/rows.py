"""Rows as the service makes them, without an encoder being run."""

import hashlib
import random
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select, text

from models.audit import Audit, Chunk
from models.dataset import Dataset, DatasetSample, RoleSet
from models.encoder import Encoder
from service import audits, chunks, roles
from service.chunks import ChunkPlan, RecordedScore
from service.context import Context
from service.database import Session
from service.losses import MAX_FINALISE_ATTEMPTS
from service.settings import Settings
from sslmem.roles import ROLES
from tests.support.materials import roles_csv

LEASE_SECONDS = 60.0
OWNER = "worker:1"


def digest_of(text: str) -> str:
    """A digest as artifacts have them."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def store(context: Context, data: bytes) -> str:
    """Puts a file into the store, as an upload would; returns its digest."""
    with context.store.incoming(len(data)) as artifact:
        artifact.write(data)
        return artifact.keep()


def new_encoder(name: str = "encoder", **changes: object) -> Encoder:
    """An encoder that was checked, not added yet."""
    values: dict[str, Any] = {
        "name": name,
        "artifact_digest": digest_of(name),
        "num_bytes": 1,
        "architecture": "resnet18",
        "input_size": 16,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "weights_artifact_digest": digest_of(f"{name} weights"),
        "weights_digest": digest_of(f"{name} tensors"),
        "representation_dim": 512,
        "views_per_second": 1000.0,
        "state": "ready",
    }
    values.update(changes)
    return Encoder(**values)


def add_encoder(session: Session, name: str = "encoder", **changes: object) -> Encoder:
    """An encoder that was checked."""
    encoder = new_encoder(name, **changes)
    session.add(encoder)
    session.flush()
    return encoder


def sample_paths(count: int) -> list[str]:
    """Paths of samples, in order; ``count`` of them, each in the folder of its role."""
    return sorted(f"{ROLES[i % len(ROLES)]}/{i:05}.png" for i in range(count))


def add_dataset(
    session: Session,
    paths: Sequence[str],
    name: str = "dataset",
    keys: Mapping[str, str] | None = None,
    **changes: object,
) -> Dataset:
    """A dataset that was checked, with its samples and their keys."""
    values: dict[str, Any] = {
        "name": name,
        "artifact_digest": digest_of(name),
        "num_bytes": 1,
        "num_samples": len(paths),
        "state": "ready",
    }
    values.update(changes)
    dataset = Dataset(**values)
    session.add(dataset)
    session.flush()
    session.add_all(
        DatasetSample(dataset_id=dataset.id, position=i, path=path, sample_key=keys[path] if keys else digest_of(path))
        for i, path in enumerate(paths)
    )
    session.flush()
    return dataset


def add_roles(session: Session, dataset: Dataset, paths: Sequence[str]) -> RoleSet:
    """Roles by the samples' folders."""
    table = roles_csv({path: path.partition("/")[0] for path in paths})
    return roles.register_roles(session, dataset.id, table, "roles")[0]


def request_audit(context: Context, num_samples: int = 40, chunk_seconds: float = 1e-6, **changes: object) -> Audit:
    """An audit that was just requested, of encoders and a dataset of its own; by default in chunks of 16."""
    paths, tag = sample_paths(num_samples), uuid.uuid4().hex
    settings = with_settings(context, chunk_seconds=chunk_seconds)
    with context.sessions.begin() as session:
        target, reference = (add_encoder(session, f"{part} {tag}") for part in ("target", "reference"))
        dataset = add_dataset(session, paths, f"dataset {tag}")
        values: dict[str, Any] = {
            "name": "audit",
            "target_ids": [target.id],
            "reference_ids": [reference.id],
            "dataset_id": dataset.id,
            "role_set_id": add_roles(session, dataset, paths).id,
            "spec": {"views": 4},
        }
        values.update(changes)
        return audits.request_audit(session, context.queue, settings, **values)[0]


def without_rules(session: Session) -> None:
    """Lets the rest of the transaction move rows as no service may, to put a scene together."""
    session.execute(text("SET LOCAL session_replication_role = replica"))


def chunks_of(context: Context, audit_id: uuid.UUID) -> list[Chunk]:
    """The chunks of an audit as they are now."""
    with context.sessions.begin() as session:
        return list(session.scalars(select(Chunk).where(Chunk.audit_id == audit_id).order_by(Chunk.number)))


def audit_of(context: Context, audit_id: uuid.UUID) -> Audit:
    """An audit as it is now."""
    with context.sessions.begin() as session:
        return session.get_one(Audit, audit_id)


def claim(context: Context, chunk_id: uuid.UUID, owner: str = OWNER, seconds: float = LEASE_SECONDS) -> ChunkPlan:
    """Takes a chunk, which must be to be had."""
    with context.sessions.begin() as session:
        plan = chunks.claim_chunk(session, chunk_id, owner, seconds)
    assert plan is not None
    return plan


def scores_for(plan: ChunkPlan) -> list[RecordedScore]:
    """Scores that depend on the sample alone; candidates score highest, and every 20th sample is skipped."""
    rows = []
    for position, (path, role) in enumerate(plan.entries, start=plan.start):
        score = random.Random(path).gauss(0.5 if role == "candidate" else 0.0, 0.1)
        skipped = "image-undecodable: damaged" if position % 20 == 19 else None
        rows.append(
            RecordedScore(
                sample=path,
                sample_key=digest_of(path),
                role=role,
                score=None if skipped else score,
                score_bounded=None if skipped else score / 2,
                standard_error=None if skipped else 0.01,
                alignment_target=None if skipped else 1.0,
                alignment_reference=None if skipped else 1.0 + score,
                skipped=skipped,
            )
        )
    return rows


def record(context: Context, plan: ChunkPlan, owner: str = OWNER) -> bool:
    """Records scores of a claimed chunk; True if it was the last one."""
    with context.sessions.begin() as session:
        return chunks.record_scores(session, context.queue, plan, owner, scores_for(plan))


def score_all(context: Context, audit_id: uuid.UUID) -> None:
    """Records scores of all chunks, so that the audit is ready to be summarised."""
    for chunk in chunks_of(context, audit_id):
        record(context, claim(context, chunk.id))


def begin_finalising(context: Context, audit_id: uuid.UUID, owner: str = OWNER) -> bool:
    """Takes an audit to summarise it; False if it is not to be had."""
    with context.sessions.begin() as session:
        return chunks.begin_finalising(session, audit_id, owner, LEASE_SECONDS)


def fail_finalising(context: Context, audit_id: uuid.UUID) -> None:
    """Tries to summarise an audit so often that it fails."""
    for _ in range(MAX_FINALISE_ATTEMPTS):
        assert begin_finalising(context, audit_id)
        with context.sessions.begin() as session:
            chunks.give_up_finalising(session, audit_id, OWNER, "ValueError: odd")


def finalise(context: Context, audit_id: uuid.UUID) -> None:
    """Summarises an audit whose scores are complete."""
    assert begin_finalising(context, audit_id)
    with context.sessions.begin() as session:
        chunks.finalise(session, audit_id, OWNER)


def succeeded_audit(context: Context, num_samples: int = 40) -> Audit:
    """An audit that has ended well."""
    audit = request_audit(context, num_samples)
    score_all(context, audit.id)
    finalise(context, audit.id)
    return audit_of(context, audit.id)


def with_settings(context: Context, **changes: object) -> Settings:
    """The settings with some changed."""
    return context.settings.model_copy(update=changes)


def fail_first_chunk(context: Context, audit_id: uuid.UUID) -> None:
    """Ends an audit as failed."""
    fail_chunk(context, chunks_of(context, audit_id)[0].id)


def fail_chunk(context: Context, chunk_id: uuid.UUID) -> None:
    """Ends a chunk, and its audit, as failed."""
    plan = claim(context, chunk_id)
    with context.sessions.begin() as session:
        chunks.fail_chunk(session, plan, OWNER, code="odd", detail="Something odd.", max_attempts=None)
