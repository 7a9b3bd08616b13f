"""``/v1/health``, ``/v1/limits``, ``/v1/workers``, ``/v1/queues``, and what is stored for how long."""

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Response
from pydantic import TypeAdapter

from api.deps import AuthorizedRoute, ContextDep, SessionDep
from api.errors import problems
from api.paging import CursorParam, LimitParam
from api.render import worker_out
from api.schemas import (
    ArtifactOut,
    Digest,
    DueOut,
    Health,
    Limits,
    PageOut,
    QueueOut,
    RetentionOut,
    StorageOut,
    WorkerOut,
)
from service import retention
from service.cursors import decode_cursor, encode_cursor
from service.health import broker_answers, database_answers, sweeper_lives
from service.storage import storage
from service.usage import page_of_artifacts
from service.workers import list_workers, queues
from sslmem import __version__

_AFTER: TypeAdapter[tuple[Digest]] = TypeAdapter(tuple[Digest])

public = APIRouter(prefix="/v1", tags=["operations"])
router = APIRouter(prefix="/v1", tags=["operations"], route_class=AuthorizedRoute)


@public.get("/health", responses={503: {"model": Health, "description": "Database or broker is away"}})
def get_health(context: ContextDep, response: Response) -> Health:
    """Whether database and broker answer, 503 if not; and whether a sweeper looks for lost work. Needs no token.

    Without a sweeper requests are served and audits run, but a worker's chunk that is lost stays so until there is one.
    """
    database, broker = database_answers(context), broker_answers(context)
    sweeper = database and sweeper_lives(context)
    response.status_code = 200 if database and broker else 503
    status: Literal["ok", "degraded"] = "ok" if database and broker and sweeper else "degraded"
    return Health(status=status, database=database, broker=broker, sweeper=sweeper, version=__version__)


@router.get("/limits", responses=problems())
def get_limits(context: ContextDep) -> Limits:
    """What the service accepts at most."""
    settings = context.settings
    return Limits(
        encoder_bytes=settings.max_encoder_bytes,
        dataset_bytes=settings.max_dataset_bytes,
        roles_bytes=settings.max_roles_bytes,
    )


@router.get("/workers", responses=problems())
def get_workers(session: SessionDep) -> PageOut[WorkerOut]:
    """The workers seen in the last week, latest first."""
    return PageOut(items=[worker_out(worker, alive=alive) for worker, alive in list_workers(session)])


@router.get("/queues", responses=problems())
def get_queues(session: SessionDep) -> PageOut[QueueOut]:
    """How much waits for workers by queue, how many of them there are, and why nothing moves if so."""
    return PageOut(items=[QueueOut.model_validate(queue) for queue in queues(session)])


@router.get("/artifacts", responses=problems(400))
def list_artifacts(
    session: SessionDep, context: ContextDep, limit: LimitParam = 100, cursor: CursorParam = None
) -> PageOut[ArtifactOut]:
    """Lists the stored files by digest: how many encoders, datasets and audits need each, and since when none."""
    after = decode_cursor(cursor, _AFTER)[0] if cursor else None
    rows, more = page_of_artifacts(session, context.store, limit, after)
    items = [ArtifactOut.model_validate(row) for row in rows]
    return PageOut(items=items, next_cursor=encode_cursor(more) if more else None)


@router.get("/storage", responses=problems())
def get_storage(session: SessionDep, context: ContextDep) -> StorageOut:
    """How much is stored: files by kind, rows by table, and the room that is left."""
    return StorageOut.model_validate(storage(session, context.store))


@router.get("/retention", responses=problems())
def get_retention(session: SessionDep, context: ContextDep, limit: LimitParam = 100) -> RetentionOut:
    """The policies, and what they will delete next and when; asking deletes nothing."""
    settings = context.settings
    return RetentionOut(
        keep_scores_days=settings.keep_scores_days,
        keep_audits_days=settings.keep_audits_days,
        keep_unused_days=settings.keep_unused_days,
        keep_unnamed_files_days=retention.UNNAMED_SECONDS / retention.DAY,
        num_audits_kept=retention.num_kept(session),
        items=[DueOut.model_validate(due) for due in retention.upcoming(session, context.store, settings, limit)],
    )


@router.head("/artifacts/{digest}", responses=problems(400, 404))
def has_artifact(
    digest: Annotated[str, Path(examples=["sha256:" + "0" * 64])], context: ContextDep, response: Response
) -> None:
    """Whether the service holds a file with this digest: 200 or 404."""
    response.headers["X-Artifact-Bytes"] = str(context.store.path(digest).stat().st_size)
