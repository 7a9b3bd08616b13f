"""Delivers to webhooks, from a thread of the sweeper's process: the only one that calls strangers' addresses."""

import asyncio
import logging
import os
import socket
import ssl
import threading
import uuid

import httpcore2 as httpcore

from service import deliveries
from service.addresses import Allowed
from service.context import Context
from service.deliveries import Letter
from service.jobs import LeaseLost
from service.outgoing import AddressRefused, post

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
AT_ONCE = 16
LEASES_PER_ATTEMPT = 3  # an attempt ends well before its lease


def run(context: Context, stop: threading.Event, trusted: ssl.SSLContext | None = None) -> None:
    """Delivers until told to stop; what is under way then is tried again by whoever comes next."""
    asyncio.run(Courier(context, trusted).work(stop))


class Courier:
    """Claims what is due and sends it, some at once."""

    def __init__(self, context: Context, trusted: ssl.SSLContext | None = None) -> None:
        self._context, self._trusted = context, trusted or httpcore.default_ssl_context()
        self._allowed = Allowed.of(context.settings.webhook_allow)
        self._under_way: set[asyncio.Task[None]] = set()

    async def work(self, stop: threading.Event) -> None:
        """Looks again and again; a database that is away is waited for."""
        while not stop.is_set():
            owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
            try:
                for letter in await asyncio.to_thread(self._claim, owner):
                    task = asyncio.create_task(self._deliver(letter, owner))
                    self._under_way.add(task)
                    task.add_done_callback(self._under_way.discard)
            except Exception:
                logger.exception("deliveries were not looked for; trying again")
            await asyncio.sleep(LOOK_SECONDS)

    def _claim(self, owner: str) -> list[Letter]:
        settings = self._context.settings
        lease = settings.webhook_timeout_seconds * LEASES_PER_ATTEMPT
        with self._context.sessions.begin() as session:
            deliveries.tidy(session, settings)
            return deliveries.claim_due(session, owner, lease, AT_ONCE - len(self._under_way))

    async def _deliver(self, letter: Letter, owner: str) -> None:
        status, error = None, None
        seconds = self._context.settings.webhook_timeout_seconds
        try:
            status = await post(
                letter.url, letter.headers(), letter.body, allowed=self._allowed, seconds=seconds, trusted=self._trusted
            )
        except AddressRefused as refused:
            error = str(refused)
        except TimeoutError:
            error = f"expected an answer within {seconds:g} seconds; none came"
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as broken:
            error = f"no answer ({type(broken).__name__}: {broken})"
        except Exception as unexpected:
            logger.exception("delivery %s failed", letter.delivery_id)
            error = f"an unexpected error ({type(unexpected).__name__})"
        try:
            await asyncio.to_thread(self._settle, letter, owner, status, error)
        except LeaseLost:
            logger.info("delivery %s is no longer ours", letter.delivery_id)
        except Exception:
            logger.exception("what came of delivery %s was not noted; it is tried again", letter.delivery_id)

    def _settle(self, letter: Letter, owner: str, status: int | None, error: str | None) -> None:
        with self._context.sessions.begin() as session:
            deliveries.settle(session, letter, owner, self._context.settings, status=status, error=error)
