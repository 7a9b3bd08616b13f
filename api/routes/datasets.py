"""``/v1/datasets`` and the tables of roles below them."""

import hashlib
import uuid
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from api.deps import AuthorizedRoute, ContextDep, Once, OnceDep, SessionDep, StoppingDep
from api.errors import already, problems
from api.paging import CursorParam, LimitParam, page_of
from api.polling import WaitParam, poll
from api.render import dataset_out, role_set_out
from api.schemas import DatasetBody, DatasetOut, Name, PageOut, RoleSetOut, SampleOut
from api.upload import raw_body, receive_bytes, received
from models.dataset import Dataset, RoleSet
from service import intake, roles, usage
from service.artifacts import IncomingArtifact
from service.context import Context
from service.database import Session

router = APIRouter(prefix="/v1/datasets", tags=["datasets"], route_class=AuthorizedRoute)

NameParam = Annotated[Name, Query()]


@router.put(
    "",
    status_code=201,
    responses=already(DatasetOut) | problems(400, 410, 413),
    openapi_extra=raw_body("application/octet-stream"),
)
async def upload_dataset(
    request: Request, response: Response, context: ContextDep, once: OnceDep, name: NameParam = "dataset"
) -> DatasetOut:
    """Uploads a dataset (docs/datasets.md) as the raw body; a worker then lists its samples: follow `links.self`."""
    async with received(request, context.store, context.settings.max_dataset_bytes) as artifact:
        body = DatasetBody(name=name, artifact_digest=artifact.digest)
        return await run_in_threadpool(_register, context, body, response, once, artifact)


@router.post("", status_code=201, responses=already(DatasetOut) | problems(400, 404, 410))
def register_dataset(body: DatasetBody, response: Response, context: ContextDep, once: OnceDep) -> DatasetOut:
    """Registers a dataset whose archive the service holds already."""
    return _register(context, body, response, once)


def _register(
    context: Context, body: DatasetBody, response: Response, once: Once, upload: IncomingArtifact | None = None
) -> DatasetOut:
    with context.sessions.begin() as session:

        def make() -> tuple[Dataset, bool]:
            if upload is not None:
                intake.store_upload(session, upload)
            return intake.register(session, context.queue, context.store, Dataset, body.model_dump())

        dataset, new = once(session, {"route": "datasets", **body.model_dump()}, Dataset, make)
        answer = _out(session, dataset)
    response.status_code = 201 if new else 200
    response.headers["Location"] = answer.links["self"]
    return answer


def _out(session: Session, row: Dataset) -> DatasetOut:
    return dataset_out(row, intake.reason_of(session, row), usage.num_audits(session, Dataset, [row.id])[row.id])


@router.get("", responses=problems(400))
def list_datasets(session: SessionDep, limit: LimitParam = 100, cursor: CursorParam = None) -> PageOut[DatasetOut]:
    """Lists the datasets, newest first."""
    rows, next_cursor = page_of(session, Dataset, limit, cursor)
    counts = usage.num_audits(session, Dataset, [row.id for row in rows])
    items = [dataset_out(row, intake.reason_of(session, row), counts[row.id]) for row in rows]
    return PageOut(items=items, next_cursor=next_cursor)


@router.get("/{dataset_id}", responses=problems(404))
async def get_dataset(
    dataset_id: uuid.UUID, context: ContextDep, stopping: StoppingDep, wait: WaitParam = 0
) -> DatasetOut:
    """Shows a dataset; with `wait`, answers when it has been checked or the time is up."""

    def look() -> DatasetOut:
        with context.sessions.begin() as session:
            return _out(session, intake.get(session, Dataset, dataset_id))

    return await poll(look, lambda _, now: now.state in ("ready", "refused"), wait, stopping)


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
    responses=already(RoleSetOut) | problems(400, 404, 409, 410, 413),
    openapi_extra=raw_body("application/octet-stream"),
)
async def register_roles(
    dataset_id: uuid.UUID,
    request: Request,
    response: Response,
    context: ContextDep,
    once: OnceDep,
    name: NameParam = "roles",
) -> RoleSetOut:
    """Registers roles from a table with the columns `sample` and `role`, as CSV, JSON lines or Parquet.

    A sample is its name in the dataset, a folder such as `shared/`, or a range such as `train/0-39999`. Roles are
    shared, candidate, independent and external. The same roles again give 200 and the table there is.
    """
    content = await receive_bytes(request, context.settings.max_roles_bytes)

    def register() -> RoleSetOut:
        asked = {"route": "roles", "dataset": dataset_id, "name": name, "content": hashlib.sha256(content).hexdigest()}
        with context.sessions.begin() as session:
            role_set, new = once(
                session, asked, RoleSet, lambda: roles.register_roles(session, dataset_id, content, name)
            )
            response.status_code = 201 if new else 200
            response.headers["Location"] = f"/v1/datasets/{dataset_id}/roles/{role_set.id}"
            return _roles_out(session, [role_set])[0]

    return await run_in_threadpool(register)


@router.get("/{dataset_id}/roles", responses=problems(404))
def list_roles(dataset_id: uuid.UUID, session: SessionDep) -> PageOut[RoleSetOut]:
    """Lists the tables of roles of a dataset, newest first."""
    return PageOut(items=_roles_out(session, roles.list_roles(session, dataset_id)))


@router.get("/{dataset_id}/roles/{role_set_id}", responses=problems(404))
def get_roles(dataset_id: uuid.UUID, role_set_id: uuid.UUID, session: SessionDep) -> RoleSetOut:
    """Shows a table of roles."""
    return _roles_out(session, [roles.get_roles(session, dataset_id, role_set_id)])[0]


@router.delete("/{dataset_id}/roles/{role_set_id}", status_code=204, responses=problems(404, 409))
def delete_roles(dataset_id: uuid.UUID, role_set_id: uuid.UUID, session: SessionDep) -> None:
    """Deletes a table of roles that no audit uses."""
    roles.remove_roles(session, dataset_id, role_set_id)


def _roles_out(session: Session, rows: Sequence[RoleSet]) -> list[RoleSetOut]:
    counts = usage.num_audits(session, RoleSet, [row.id for row in rows])
    return [role_set_out(row, counts[row.id]) for row in rows]
