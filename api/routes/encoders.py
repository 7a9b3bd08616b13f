"""``/v1/encoders``."""

import json
import math
import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from api.deps import AuthorizedRoute, ContextDep, Once, OnceDep, SessionDep, StoppingDep
from api.errors import already, problems
from api.paging import CursorParam, LimitParam, page_of
from api.polling import WaitParam, poll
from api.render import encoder_out
from api.schemas import Architecture, Branch, EncoderBody, EncoderOut, Method, Name, PageOut
from api.upload import raw_body, received
from models.encoder import Encoder
from service import intake, usage
from service.artifacts import IncomingArtifact
from service.context import Context
from service.database import Session
from service.errors import InvalidRequest
from sslmem.encoders.settings import check_options

router = APIRouter(prefix="/v1/encoders", tags=["encoders"], route_class=AuthorizedRoute)

OptionsParam = Annotated[
    str | None, Query(description='What weights do not show, as a JSON object such as {"num_heads": 6}.')
]
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
ChannelsParam = Annotated[str | None, Query(description="Three numbers for red, green, blue, such as 0.5,0.5,0.5.")]


@router.put(
    "",
    status_code=201,
    responses=already(EncoderOut) | problems(400, 410, 413),
    openapi_extra=raw_body("application/octet-stream"),
)
async def upload_encoder(
    request: Request,
    response: Response,
    context: ContextDep,
    once: OnceDep,
    name: Annotated[Name, Query()] = "encoder",
    architecture: Annotated[Architecture | None, Query()] = None,
    input_size: Annotated[int | None, Query(ge=1, le=2048)] = None,
    mean: ChannelsParam = None,
    std: ChannelsParam = None,
    method: Annotated[Method | None, Query(description="How it was trained, such as simclr, dino or mae.")] = None,
    branch: Annotated[Branch | None, Query(description="Which of several encoders in the file.")] = None,
    options: OptionsParam = None,
) -> EncoderOut:
    """Uploads a checkpoint as the raw body and registers it with its architecture and preprocessing.

    A header `Content-Digest: sha-256=:BASE64:` is verified. A worker then checks the encoder: follow `links.self`.
    The same file with the same settings gives 200 and the encoder there is.
    """
    settings = {"mean": _channels("mean", mean), "std": _channels("std", std)}
    fields = {
        "name": name,
        "architecture": architecture,
        "input_size": input_size,
        "method": method,
        "branch": branch,
        "options": _options(options),
        **{key: value for key, value in settings.items() if value is not None},
    }
    async with received(request, context.store, context.settings.max_encoder_bytes) as artifact:
        body = EncoderBody.model_validate({**fields, "artifact_digest": artifact.digest})
        return await run_in_threadpool(_register, context, body, response, once, artifact)


@router.post("", status_code=201, responses=already(EncoderOut) | problems(400, 404, 410))
def register_encoder(body: EncoderBody, response: Response, context: ContextDep, once: OnceDep) -> EncoderOut:
    """Registers an encoder whose file the service holds already; ask with `HEAD /v1/artifacts/{digest}`."""
    return _register(context, body, response, once)


def _register(
    context: Context, body: EncoderBody, response: Response, once: Once, upload: IncomingArtifact | None = None
) -> EncoderOut:
    with context.sessions.begin() as session:

        def make() -> tuple[Encoder, bool]:
            if upload is not None:
                intake.store_upload(session, upload)
            return intake.register(session, context.queue, context.store, Encoder, _values(body))

        encoder, new = once(session, {"route": "encoders", **body.model_dump()}, Encoder, make)
        answer = _out(session, encoder)
    response.status_code = 201 if new else 200
    response.headers["Location"] = answer.links["self"]
    return answer


def _out(session: Session, row: Encoder) -> EncoderOut:
    return encoder_out(row, intake.reason_of(session, row), usage.num_audits(session, Encoder, [row.id])[row.id])


def _channels(name: str, text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)) or (name == "std" and min(numbers) <= 0):
        raise InvalidRequest(f"{name}: expected three {'positive ' if name == 'std' else ''}numbers; found {text!r}")
    return numbers


def _options(text: str | None) -> dict[str, object]:
    """The options of an upload, looked at before its body is received."""
    try:
        found = json.loads(text) if text is not None else {}
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InvalidRequest(f"options: expected a JSON object; found {text!r}")
    check_options(found)
    return found


def _values(body: EncoderBody) -> dict[str, Any]:
    """Columns of the row; a normalisation of which nothing is told is left to the file."""
    check_options(body.options)
    values = body.model_dump()
    if body.mean is None and body.std is None:
        return {**values, "mean": [], "std": []}
    return {**values, "mean": body.mean or list(IMAGENET["mean"]), "std": body.std or list(IMAGENET["std"])}


@router.get("", responses=problems(400))
def list_encoders(session: SessionDep, limit: LimitParam = 100, cursor: CursorParam = None) -> PageOut[EncoderOut]:
    """Lists the encoders, newest first; their load reports without the lists of entries, which each one's own has."""
    rows, next_cursor = page_of(session, Encoder, limit, cursor)
    counts = usage.num_audits(session, Encoder, [row.id for row in rows])
    items = [encoder_out(row, intake.reason_of(session, row), counts[row.id], brief=True) for row in rows]
    return PageOut(items=items, next_cursor=next_cursor)


@router.get("/{encoder_id}", responses=problems(404))
async def get_encoder(
    encoder_id: uuid.UUID, context: ContextDep, stopping: StoppingDep, wait: WaitParam = 0
) -> EncoderOut:
    """Shows an encoder; with `wait`, answers when it has been checked or the time is up."""

    def look() -> EncoderOut:
        with context.sessions.begin() as session:
            return _out(session, intake.get(session, Encoder, encoder_id))

    return await poll(look, lambda _, now: now.state in ("ready", "refused"), wait, stopping)


@router.delete("/{encoder_id}", status_code=204, responses=problems(404, 409))
def delete_encoder(encoder_id: uuid.UUID, context: ContextDep) -> None:
    """Deletes an encoder that no audit uses, with its file."""
    with context.sessions.begin() as session:
        digests = intake.remove(session, Encoder, encoder_id)
    with context.sessions.begin() as session:
        intake.discard_artifacts(session, context.store, digests)
