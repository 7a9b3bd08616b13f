"""``/v1/datasets`` and the tables of roles below them."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from api.deps import AuthorizedRoute, ContextDep, SessionDep
from api.errors import already, problems
from api.paging import CursorParam, LimitParam, page_of
from api.polling import WaitParam, poll
from api.render import dataset_out, role_set_out
from api.schemas import DatasetBody, DatasetOut, Name, PageOut, RoleSetOut, SampleOut
from api.upload import raw_body, receive, receive_bytes
from models.dataset import Dataset
from service import intake, roles
from service.context import Context

router = APIRouter(prefix="/v1/datasets", tags=["datasets"], route_class=AuthorizedRoute)

NameParam = Annotated[Name, Query()]


@router.put(
    "",
    status_code=201,
    responses=already(DatasetOut) | problems(400, 413),
    openapi_extra=raw_body("application/octet-stream"),
)
async def upload_dataset(
    request: Request, response: Response, context: ContextDep, name: NameParam = "dataset"
) -> DatasetOut:
    """Uploads a dataset (docs/datasets.md) as the raw body; a worker then lists its samples: follow `links.self`."""
    digest, _ = await receive(request, context.store, context.settings.max_dataset_bytes)
    body = DatasetBody(name=name, artifact_digest=digest)
    return await run_in_threadpool(_register, context, body, response)


@router.post("", status_code=201, responses=already(DatasetOut) | problems(400, 404))
def register_dataset(body: DatasetBody, response: Response, context: ContextDep) -> DatasetOut:
    """Registers a dataset whose archive the service holds already."""
    return _register(context, body, response)


def _register(context: Context, body: DatasetBody, response: Response) -> DatasetOut:
    with context.sessions.begin() as session:
        dataset, new = intake.register(session, context.queue, context.store, Dataset, body.model_dump())
        answer = dataset_out(dataset, intake.reason_of(session, dataset))
    response.status_code = 201 if new else 200
    response.headers["Location"] = answer.links["self"]
    return answer


@router.get("", responses=problems(400))
def list_datasets(session: SessionDep, limit: LimitParam = 100, cursor: CursorParam = None) -> PageOut[DatasetOut]:
    """Lists the datasets, newest first."""
    rows, next_cursor = page_of(session, Dataset, limit, cursor)
    return PageOut(items=[dataset_out(row, intake.reason_of(session, row)) for row in rows], next_cursor=next_cursor)


@router.get("/{dataset_id}", responses=problems(404))
async def get_dataset(dataset_id: uuid.UUID, context: ContextDep, wait: WaitParam = 0) -> DatasetOut:
    """Shows a dataset; with `wait`, answers when it has been checked or the time is up."""

    def look() -> DatasetOut:
        with context.sessions.begin() as session:
            row = intake.get(session, Dataset, dataset_id)
            return dataset_out(row, intake.reason_of(session, row))

    return await poll(look, lambda _, now: now.state in ("ready", "refused"), wait)


@router.get("/{dataset_id}/samples", responses=problems(400, 404))
def list_samples(
    dataset_id: uuid.UUID,
    session: SessionDep,
    skipped: Annotated[bool, Query(description="Only those that cannot be scored, each with its reason.")] = False,
    limit: LimitParam = 100,
    cursor: CursorParam = None,
) -> PageOut[SampleOut]:
    """Lists the samples of a dataset in the order of their names."""
    rows, next_cursor = intake.page_of_samples(session, dataset_id, skipped=skipped, limit=limit, cursor=cursor)
    return PageOut(items=[SampleOut.model_validate(row) for row in rows], next_cursor=next_cursor)


@router.delete("/{dataset_id}", status_code=204, responses=problems(404, 409))
def delete_dataset(dataset_id: uuid.UUID, context: ContextDep) -> None:
    """Deletes a dataset that no audit uses, with its archive and its tables of roles."""
    with context.sessions.begin() as session:
        digests = intake.remove(session, Dataset, dataset_id)
    with context.sessions.begin() as session:
        intake.discard_artifacts(session, context.store, digests)


@router.put(
    "/{dataset_id}/roles",
    status_code=201,
    responses=already(RoleSetOut) | problems(400, 404, 409, 413),
    openapi_extra=raw_body("application/octet-stream"),
)
async def register_roles(
    dataset_id: uuid.UUID, request: Request, response: Response, context: ContextDep, name: NameParam = "roles"
) -> RoleSetOut:
    """Registers roles from a table with the columns `sample` and `role`, as CSV, JSON lines or Parquet.

    A sample is its name in the dataset, a folder such as `shared/`, or a range such as `train/0-39999`. Roles are
    shared, candidate, independent and external. The same roles again give 200 and the table there is.
    """
    content = await receive_bytes(request, context.settings.max_roles_bytes)

    def register() -> RoleSetOut:
        with context.sessions.begin() as session:
            role_set, new = roles.register_roles(session, dataset_id, content, name)
            response.status_code = 201 if new else 200
            return role_set_out(role_set)

    return await run_in_threadpool(register)


@router.get("/{dataset_id}/roles", responses=problems(404))
def list_roles(dataset_id: uuid.UUID, session: SessionDep) -> PageOut[RoleSetOut]:
    """Lists the tables of roles of a dataset, newest first."""
    return PageOut(items=[role_set_out(row) for row in roles.list_roles(session, dataset_id)])
