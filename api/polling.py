"""Long polls: looks again and again, holding neither a connection nor a thread meanwhile, until the server stops."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Annotated, TypeVar

from fastapi import Query
from starlette.concurrency import run_in_threadpool

Answer = TypeVar("Answer")
WaitParam = Annotated[float, Query(ge=0, le=60, description="Seconds to wait for a change before answering.")]
INTERVAL_SECONDS = 0.25


async def poll(
    look: Callable[[], Answer], changed: Callable[[Answer, Answer], bool], wait: float, stopping: threading.Event
) -> Answer:
    """Returns the first answer that ``changed(first, later)`` accepts, or the last one when time is up.

    Args:
        look: opens a transaction of its own, looks and closes it.
        changed: whether a later answer is worth returning; also asked of the first against itself.
        wait: seconds.
        stopping: set when the server stops: then the last answer goes out at once.
    """
    deadline = time.monotonic() + wait
    first = answer = await run_in_threadpool(look)
    while not changed(first, answer) and (left := deadline - time.monotonic()) > 0 and not stopping.is_set():
        await asyncio.sleep(min(INTERVAL_SECONDS, left))
        answer = await run_in_threadpool(look)
    return answer
