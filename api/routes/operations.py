"""``/v1/health``, ``/v1/limits``, ``/v1/workers``, ``/v1/queues`` and ``/v1/artifacts``."""

from typing import Annotated

from fastapi import APIRouter, Path, Response

from api.deps import AuthorizedRoute, ContextDep, SessionDep
from api.errors import problems
from api.render import worker_out
from api.schemas import Health, Limits, PageOut, QueueOut, WorkerOut
from service.health import broker_answers, database_answers
from service.workers import list_workers, queues
from sslmem import __version__

public = APIRouter(prefix="/v1", tags=["operations"])
router = APIRouter(prefix="/v1", tags=["operations"], route_class=AuthorizedRoute)


@public.get("/health", responses={503: {"model": Health, "description": "Database or broker is away"}})
def get_health(context: ContextDep, response: Response) -> Health:
    """Whether database and broker answer; 503 if not. Needs no token."""
    database, broker = database_answers(context), broker_answers(context)
    well = database and broker
    response.status_code = 200 if well else 503
    return Health(status="ok" if well else "degraded", database=database, broker=broker, version=__version__)


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


@router.head("/artifacts/{digest}", responses=problems(400, 404))
def has_artifact(
    digest: Annotated[str, Path(examples=["sha256:" + "0" * 64])], context: ContextDep, response: Response
) -> None:
    """Whether the service holds a file with this digest: 200 or 404."""
    response.headers["X-Artifact-Bytes"] = str(context.store.path(digest).stat().st_size)
