"""``/v1/audits``."""

import csv
import io
import uuid
from collections.abc import Iterator, Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.responses import HTMLResponse, StreamingResponse

from api.deps import AuthorizedRoute, ContextDep, OnceDep, ProjectDep, SessionDep, StoppingDep
from api.errors import already, problems
from api.export import parquet_stream
from api.paging import CursorParam, LimitParam, page_of
from api.polling import WaitParam, poll
from api.render import audit_out, chunk_out
from api.schemas import AuditBody, AuditOut, ChunkOut, PageOut, ScoreOut
from models.audit import Audit
from models.dataset import Dataset
from service import audits, chunks, lifecycle, results
from service.context import Context
from service.database import Session
from service.deadlines import deadline_of
from service.standing import standings
from sslmem.datasets.source import open_dataset
from sslmem.report.evidence import Evidence
from sslmem.report.html import render_report
from sslmem.report.rows import CSV_COLUMNS, Scales, values_of
from sslmem.report.summary import Summary
from sslmem.roles import Role

router = APIRouter(prefix="/v1/audits", tags=["audits"], route_class=AuthorizedRoute)


def _out(session: Session, context: Context, audit: Audit) -> AuditOut:
    return _outs(session, context, [audit])[0]


def _outs(session: Session, context: Context, rows: Sequence[Audit]) -> list[AuditOut]:
    found = zip(rows, standings(session, rows), strict=True)
    return [audit_out(row, standing, deadline_of(row, context.settings)) for row, standing in found]


@router.post("", status_code=202, responses=already(AuditOut) | problems(400, 404, 409, 410))
def request_audit(
    body: AuditBody,
    response: Response,
    session: SessionDep,
    context: ContextDep,
    project: ProjectDep,
    once: OnceDep,
) -> AuditOut:
    """Requests an audit of targets against references; follow it at `Location`.

    The same encoders, dataset, roles and spec again give 200 and the audit there is, unless it failed or was
    cancelled, its scores were deleted, or `force` asks for another.
    """

    def make() -> tuple[Audit, bool]:
        return audits.request_audit(
            session,
            context.queue,
            context.settings,
            name=body.name,
            target_ids=body.target_ids,
            reference_ids=body.reference_ids,
            dataset_id=body.dataset_id,
            role_set_id=body.role_set_id,
            spec=body.spec.model_dump(exclude_unset=True),
            project=project,
            priority=body.priority,
            worker_queue=body.queue,
            force=body.force,
        )

    audit, new = once(session, {"route": "audits", **body.model_dump(exclude_unset=True)}, Audit, make)
    response.status_code = 202 if new else 200
    response.headers["Location"] = f"/v1/audits/{audit.id}"
    response.headers["Retry-After"] = "2"
    return _out(session, context, audit)


@router.get("", responses=problems(400))
def list_audits(
    session: SessionDep, context: ContextDep, limit: LimitParam = 100, cursor: CursorParam = None
) -> PageOut[AuditOut]:
    """Lists the audits, newest first."""
    rows, next_cursor = page_of(session, Audit, limit, cursor)
    return PageOut(items=_outs(session, context, rows), next_cursor=next_cursor)


@router.get("/{audit_id}", responses=problems(404))
async def get_audit(audit_id: uuid.UUID, context: ContextDep, stopping: StoppingDep, wait: WaitParam = 0) -> AuditOut:
    """Shows an audit; with `wait`, answers when its state or progress changes, it has ended, or the time is up."""

    def look() -> AuditOut:
        with context.sessions.begin() as session:
            return _out(session, context, audits.get_audit(session, audit_id))

    def changed(first: AuditOut, now: AuditOut) -> bool:
        # The time left is another one at every look.
        before, after = ((audit.state, audit.progress.samples_done) for audit in (first, now))
        return now.finished_at is not None or before != after

    return await poll(look, changed, wait, stopping)


@router.get("/{audit_id}/chunks", responses=problems(400, 404))
def list_chunks(
    audit_id: uuid.UUID, session: SessionDep, limit: LimitParam = 100, cursor: CursorParam = None
) -> PageOut[ChunkOut]:
    """Lists the chunks of an audit in the order of samples: who has them, how often they were tried, what failed."""
    rows, next_cursor = chunks.page_of_chunks(session, audits.get_audit(session, audit_id).id, limit, cursor)
    return PageOut(items=[chunk_out(row) for row in rows], next_cursor=next_cursor)


@router.post("/{audit_id}/cancel", responses=problems(404))
def cancel_audit(audit_id: uuid.UUID, session: SessionDep, context: ContextDep) -> AuditOut:
    """Cancels an audit; one that has ended stays as it is."""
    return _out(session, context, lifecycle.cancel(session, audit_id))


@router.post("/{audit_id}/pause", responses=problems(404, 409))
def pause_audit(audit_id: uuid.UUID, session: SessionDep, context: ContextDep) -> AuditOut:
    """Lets no further chunk begin; those under way end."""
    return _out(session, context, lifecycle.pause(session, audit_id))


@router.post("/{audit_id}/resume", responses=problems(404, 409))
def resume_audit(audit_id: uuid.UUID, session: SessionDep, context: ContextDep) -> AuditOut:
    """Goes on with a paused audit."""
    return _out(session, context, lifecycle.resume(session, context.queue, audit_id))


@router.post("/{audit_id}/retry", responses=problems(404, 409, 410))
def retry_audit(audit_id: uuid.UUID, session: SessionDep, context: ContextDep) -> AuditOut:
    """Tries an audit again that failed or was cancelled; only what is missing is computed."""
    return _out(session, context, lifecycle.retry(session, context.queue, audit_id))


@router.post("/{audit_id}/keep", responses=problems(404))
def keep_audit(audit_id: uuid.UUID, session: SessionDep, context: ContextDep) -> AuditOut:
    """Keeps an audit and its scores: no policy deletes them, and nobody can until it is released."""
    return _out(session, context, lifecycle.keep(session, audit_id, kept=True))


@router.delete("/{audit_id}/keep", responses=problems(404))
def release_audit(audit_id: uuid.UUID, session: SessionDep, context: ContextDep) -> AuditOut:
    """Leaves an audit to the policies again."""
    return _out(session, context, lifecycle.keep(session, audit_id, kept=False))


@router.delete("/{audit_id}", status_code=204, responses=problems(404, 409))
def delete_audit(audit_id: uuid.UUID, context: ContextDep) -> None:
    """Deletes an audit that has ended, with its scores."""
    lifecycle.delete_audit(context.sessions, audit_id)


@router.delete("/{audit_id}/scores", status_code=204, responses=problems(404, 409))
def delete_scores(audit_id: uuid.UUID, context: ContextDep) -> None:
    """Deletes the scores of an audit that has ended, and the evidence; the summary stays."""
    lifecycle.delete_scores(context.sessions, audit_id)


@router.get("/{audit_id}/summary", responses=problems(404, 409))
def get_summary(audit_id: uuid.UUID, session: SessionDep) -> Summary:
    """What an audit found: scores by role, contrasts with intervals, the extremes, and a finding in one sentence."""
    return results.summary_of(audits.get_audit(session, audit_id))


@router.get("/{audit_id}/evidence", responses=problems(404, 409, 410))
def get_evidence(
    audit_id: uuid.UUID,
    context: ContextDep,
    confidence: Annotated[
        float, Query(ge=0.5, lt=1, description="Two-sided level of the intervals.")
    ] = results.CONFIDENCE,
    fdr: Annotated[float, Query(gt=0, le=0.5, description="False discovery rate of single images.")] = results.FDR,
) -> Evidence:
    """What a release decision about an audit that succeeded may rest on: metrics with intervals, checks, limits."""
    return results.evidence_of(context.sessions, audit_id, confidence=confidence, fdr=fdr)


@router.get("/{audit_id}/scores", responses=problems(400, 404, 410))
def list_scores(
    audit_id: uuid.UUID,
    session: SessionDep,
    sort: Annotated[results.Sort, Query(description="By sample, or by score with the skipped left out.")] = "sample",
    role: Role | None = None,
    limit: LimitParam = 100,
    cursor: CursorParam = None,
) -> PageOut[ScoreOut]:
    """Lists the scores of an audit in pages, also while it runs."""
    page = results.page_of_scores(session, audit_id, sort=sort, role=role, limit=limit, cursor=cursor)
    audit = audits.get_audit(session, audit_id)  # after the page, which may have lost rows if they were being deleted
    results.require_scores(audit)
    scales = Scales() if audit.summary is None else results.summary_of(audit).scales
    items = [ScoreOut.model_validate(row).model_copy(update=scales.relate(row.score)) for row in page.items]
    return PageOut(items=items, next_cursor=page.next_cursor)


def _attachment(audit_id: uuid.UUID, suffix: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="scores-{audit_id}.{suffix}"'}


@router.get("/{audit_id}/scores.csv", response_class=StreamingResponse, responses={
    200: {"content": {"text/csv": {"schema": {"type": "string"}}}}, **problems(404, 409, 410)
})  # fmt: skip
def get_csv(audit_id: uuid.UUID, context: ContextDep) -> StreamingResponse:
    """The scores of an audit that succeeded, as CSV."""
    with context.sessions.begin() as session:
        audit = audits.get_audit(session, audit_id)
        results.require_scores(audit)
        scales = results.summary_of(audit).scales

    def lines() -> Iterator[str]:
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(CSV_COLUMNS)
        with context.sessions.begin() as session:
            for row in results.all_rows(session, audit_id):
                writer.writerow(values_of(row, scales, CSV_COLUMNS))
                if buffer.tell() > 2**16:
                    yield buffer.getvalue()
                    buffer.seek(0)
                    buffer.truncate()
        yield buffer.getvalue()

    return StreamingResponse(lines(), media_type="text/csv", headers=_attachment(audit_id, "csv"))


@router.get("/{audit_id}/scores.parquet", response_class=StreamingResponse, responses={
    200: {"content": {"application/vnd.apache.parquet": {"schema": {"type": "string", "format": "binary"}}}},
    **problems(404, 409, 410),
})  # fmt: skip
def get_parquet(audit_id: uuid.UUID, context: ContextDep) -> StreamingResponse:
    """The scores of an audit that succeeded, as Parquet."""
    with context.sessions.begin() as session:
        audit = audits.get_audit(session, audit_id)
        results.require_scores(audit)
        summary = results.summary_of(audit)
    return StreamingResponse(
        parquet_stream(context, audit_id, summary),
        media_type="application/vnd.apache.parquet",
        headers=_attachment(audit_id, "parquet"),
    )


@router.get("/{audit_id}/report", response_class=HTMLResponse, responses=problems(404, 409, 410))
def get_report(audit_id: uuid.UUID, context: ContextDep) -> HTMLResponse:
    """The report of an audit that succeeded, as one HTML file that needs nothing else."""
    with context.sessions.begin() as session:
        audit = audits.get_audit(session, audit_id)
        results.require_scores(audit)
        summary = results.summary_of(audit)
        digest = session.get_one(Dataset, audit.dataset_id).artifact_digest
        title = f"Audit {audit.name}"
        suspicions = audits.suspicions_of(audits.encoders_of(session, audit_id))
    with open_dataset(context.store.path(digest)) as dataset:
        return HTMLResponse(render_report(summary, dataset.read, title=title, suspicions=suspicions))
