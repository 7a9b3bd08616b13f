"""Rows of the database as bodies of responses."""

from datetime import datetime
from typing import Any

from api.schemas import (
    AuditOut,
    ChunkOut,
    DatasetOut,
    EncoderOut,
    EventOut,
    Failure,
    ProgressOut,
    RoleSetOut,
    TwinsOut,
    WorkerOut,
)
from models.audit import Audit, Chunk
from models.dataset import Dataset, RoleSet
from models.encoder import Encoder
from models.event import AuditEvent
from models.operations import Worker
from service.standing import Standing

ENTRIES = ("loaded", "dropped")  # of a load report: a line for each entry of the file


def _failure(row: Encoder | Dataset | Audit | Chunk, *, failed: bool) -> Failure | None:
    if not failed or row.failure_code is None:
        return None
    return Failure(code=row.failure_code, detail=row.failure_detail or "")


def _resource(row: Encoder | Dataset, collection: str, reason: str | None, num_audits: int) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "state": row.state,
        "reason": reason,
        "failure": _failure(row, failed=row.state == "refused"),
        "artifact_digest": row.artifact_digest,
        "num_bytes": row.num_bytes,
        "num_audits": num_audits,
        "created_at": row.created_at,
        "links": {"self": f"/v1/{collection}/{row.id}"},
    }


def encoder_out(row: Encoder, reason: str | None, num_audits: int, *, brief: bool = False) -> EncoderOut:
    """An encoder; briefly, without what became of each entry of its file."""
    report = row.load_report or {}
    return EncoderOut(
        **_resource(row, "encoders", reason, num_audits),
        architecture=row.architecture,
        input_size=row.input_size,
        mean=row.in_effect("mean", row.mean) or None,
        std=row.in_effect("std", row.std) or None,
        method=report.get("method", row.method),
        branch=report.get("branch", row.branch),
        other_branches=report.get("other_branches"),
        options={name: row.in_effect(name, row.options.get(name)) for name in report.get("told_again", row.options)},
        settings=report.get("settings"),
        suspect=bool(row.suspicions) if row.load_report is not None else None,
        suspicions=row.suspicions,
        weights_digest=row.weights_digest,
        representation_dim=row.representation_dim,
        views_per_second=row.views_per_second,
        load_report=row.load_report and {k: v for k, v in report.items() if not (brief and k in ENTRIES)},
    )


def dataset_out(row: Dataset, reason: str | None, num_audits: int) -> DatasetOut:
    """A dataset."""
    answer = DatasetOut(
        **_resource(row, "datasets", reason, num_audits),
        format=row.format,
        num_samples=row.num_samples,
        num_skipped=row.num_skipped,
        num_equal=row.num_equal,
        labels=row.labels,
    )
    answer.links["samples"] = f"{answer.links['self']}/samples"
    return answer


def role_set_out(row: RoleSet, num_audits: int) -> RoleSetOut:
    """A table of roles."""
    return RoleSetOut(
        id=row.id,
        dataset_id=row.dataset_id,
        name=row.name,
        digest=row.digest,
        num_samples=row.num_samples,
        counts=row.counts,
        twins=None if row.twins is None else [TwinsOut.model_validate(pair) for pair in row.twins],
        num_audits=num_audits,
        created_at=row.created_at,
    )


def audit_out(row: Audit, standing: Standing, deadline: datetime | None) -> AuditOut:
    """An audit."""
    progress = standing.progress
    here = f"/v1/audits/{row.id}"
    return AuditOut(
        id=row.id,
        name=row.name,
        state=row.state,
        project=row.project,
        priority=row.priority,
        queue=row.queue,
        progress=ProgressOut(
            samples_done=progress.samples_done,
            samples_total=progress.samples_total,
            seconds_left=progress.seconds_left,
        ),
        reason=standing.reason,
        deadline_at=deadline,
        failure=_failure(row, failed=row.state == "failed"),
        dataset_id=row.dataset_id,
        role_set_id=row.role_set_id,
        target_ids=standing.encoder_ids["target"],
        reference_ids=standing.encoder_ids["reference"],
        spec=row.spec,
        spec_digest=row.spec_digest,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        kept_at=row.kept_at,
        scores_deleted_at=row.scores_deleted_at,
        suspicions=standing.suspicions,
        links={
            "self": here,
            "events": f"{here}/events",
            "summary": f"{here}/summary",
            "evidence": f"{here}/evidence",
            "chunks": f"{here}/chunks",
            "scores": f"{here}/scores",
            "report": f"{here}/report",
        },
    )


def chunk_out(row: Chunk) -> ChunkOut:
    """A chunk."""
    return ChunkOut(
        number=row.number,
        start=row.start,
        stop=row.stop,
        state=row.state,
        attempts=row.attempts,
        samples_done=row.num_done,
        worker=row.lease_owner and row.lease_owner.rpartition(":")[0],  # without the name of the claim
        lease_expires_at=row.lease_expires_at,
        available_at=row.available_at,
        failure=_failure(row, failed=row.failure_code is not None),
    )


def event_out(row: AuditEvent) -> EventOut:
    """An event."""
    return EventOut.model_validate(row)


def worker_out(row: Worker, *, alive: bool) -> WorkerOut:
    """A worker."""
    return WorkerOut(
        id=row.id,
        device=row.device,
        queues=row.queues,
        alive=alive,
        busy_with=row.busy_with,
        started_at=row.started_at,
        last_seen_at=row.last_seen_at,
    )
