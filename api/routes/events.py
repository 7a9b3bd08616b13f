"""``/v1/audits/{id}/events``, as they happen, and ``/v1/audits/{id}/log``, in pages."""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool

from api.deps import AuthorizedRoute, ContextDep, SessionDep
from api.errors import NothingMore, problems
from api.paging import CursorParam, LimitParam
from api.polling import INTERVAL_SECONDS
from api.render import event_out
from api.schemas import EventOut, PageOut, ProgressOut
from service import audits
from service.context import Context
from service.cursors import decode_cursor, encode_cursor
from service.database import UNAVAILABLE
from service.errors import AuditNotFound
from service.events import PAGE_PLACE, News, news
from service.standing import standing_of

logger = logging.getLogger(__name__)
router = APIRouter(prefix="/v1/audits", tags=["audits"], route_class=AuthorizedRoute)

RETRY_MILLISECONDS = 1000
LOOKS_PER_PROGRESS = 4  # progress costs more than events
MAX_NUMBER = 2**31 - 1


def get_place(
    audit_id: uuid.UUID,
    context: ContextDep,
    after: Annotated[int, Query(ge=0, le=MAX_NUMBER, description="Begin after the event of this number.")] = 0,
    last_event_id: Annotated[
        int | None, Header(ge=0, le=MAX_NUMBER, description="Likewise; what a client that reconnects sends.")
    ] = None,
) -> int:
    """Where a stream begins; refused before it does, and nothing (204) if there is nothing more to come."""
    place = after if last_event_id is None else last_event_id
    found = _look(context, audit_id, place)
    if found.complete and not found.events:
        raise NothingMore
    return place


def _look(context: Context, audit_id: uuid.UUID, after: int) -> News:
    with context.sessions.begin() as session:
        return news(session, audit_id, after)


def _progress(context: Context, audit_id: uuid.UUID) -> ProgressOut:
    with context.sessions.begin() as session:
        found = standing_of(session, audits.get_audit(session, audit_id)).progress
    return ProgressOut(
        samples_done=found.samples_done, samples_total=found.samples_total, seconds_left=found.seconds_left
    )


@router.get(
    "/{audit_id}/events",
    response_class=EventSourceResponse,
    responses={**problems(400, 404), 204: {"description": "The audit has ended, and nothing came after that event"}},
)
async def stream_events(
    audit_id: uuid.UUID, request: Request, context: ContextDep, place: Annotated[int, Depends(get_place)]
) -> AsyncIterator[ServerSentEvent]:
    """Streams what happens to an audit as server-sent events until it has ended.

    Each event has its number as `id`, so a client that reconnects with `Last-Event-ID` misses none and gets none twice;
    204 tells it that there is nothing more. Between them come events `progress` without an id, which are not repeated.
    """
    yield ServerSentEvent(retry=RETRY_MILLISECONDS)
    shown: int | None = None
    looks = 0
    while not request.app.state.stopping.is_set():
        try:
            found = await run_in_threadpool(_look, context, audit_id, place)
            for event in found.events:
                place = event.number
                yield ServerSentEvent(id=str(place), event=event.type, data=event_out(event))
            if found.complete:
                return
            if looks % LOOKS_PER_PROGRESS == 0:
                progress = await run_in_threadpool(_progress, context, audit_id)
                if progress.samples_done != shown:
                    shown = progress.samples_done
                    yield ServerSentEvent(event="progress", data=progress)
        except AuditNotFound:
            return  # it was deleted
        except UNAVAILABLE as error:
            logger.warning("a stream waits for the database: %s", error)
        looks += 1
        await asyncio.sleep(INTERVAL_SECONDS)


@router.get("/{audit_id}/log", responses=problems(400, 404))
def list_events(
    audit_id: uuid.UUID, session: SessionDep, limit: LimitParam = 100, cursor: CursorParam = None
) -> PageOut[EventOut]:
    """Lists what has happened to an audit, oldest first."""
    after = decode_cursor(cursor, PAGE_PLACE)[0] if cursor else 0
    found = news(session, audit_id, after, limit + 1).events
    more = encode_cursor(found[limit - 1].number) if len(found) > limit else None
    return PageOut(items=[event_out(event) for event in found[:limit]], next_cursor=more)
