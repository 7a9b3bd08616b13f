"""Calls to addresses that strangers chose: checked where the connection is made, so nothing lies between."""

import asyncio
import contextlib
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterable, Mapping
from typing import Any

import httpcore2 as httpcore

from service.addresses import Allowed, is_public

Place = tuple[Any, ...]  # as getaddrinfo says it
_LOOKUPS = threading.BoundedSemaphore(64)


class AddressRefused(Exception):
    """A host does not lead to public addresses. It does not say where to: that would be a view of the inside."""


class CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Resolves a host once, checks all its addresses, and connects to one of those very addresses."""

    def __init__(self, allowed: Allowed, *, plain: bool) -> None:
        self._allowed, self._plain = allowed, plain
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connects.

        Raises:
            AddressRefused: the host leads nowhere, or inside.
        """
        try:
            found = await _look_up(host, port)
        except (OSError, UnicodeError):
            found = []
        addresses = [ipaddress.ip_address(place[4][0]) for place in found]
        # Plain HTTP goes to the deployment's own network alone.
        well = [
            self._allowed.has(host.lower(), address) or (not self._plain and is_public(address))
            for address in addresses
        ]
        if not well or not all(well):
            raise AddressRefused(f"{host} does not lead to public addresses alone, which is expected of a webhook")
        return await self._network.connect_tcp(str(addresses[0]), port, timeout, local_address, socket_options)


async def _look_up(host: str, port: int) -> list[Place]:
    """Asks the system for a host's addresses, in a thread of its own.

    A lookup cannot be ended: a name server that does not answer keeps its thread for half a minute. In asyncio's few
    threads it would hold up everything else, and the end of the program.
    """
    if not _LOOKUPS.acquire(blocking=False):
        raise OSError("too many lookups hang")
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[Place]] = loop.create_future()

    def give(found: list[Place] | OSError | UnicodeError) -> None:
        if answer.cancelled():
            return
        if isinstance(found, Exception):
            answer.set_exception(found)
        else:
            answer.set_result(found)

    def run() -> None:
        found: list[Place] | OSError | UnicodeError
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            found = error
        finally:
            _LOOKUPS.release()
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(give, found)

    threading.Thread(target=run, daemon=True, name=f"lookup of {host}").start()
    return await answer


async def post(
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    allowed: Allowed,
    seconds: float,
    trusted: ssl.SSLContext | None = None,
) -> int:
    """Posts and returns the status. Follows no redirect, uses no proxy, and reads nothing of the answer's body.

    Args:
        url: to call.
        headers: of the request.
        body: of the request.
        allowed: what of the own network may be called.
        seconds: for all of it, name resolution and handshake included.
        trusted: whose certificates are accepted; None: those that the system trusts.

    Raises:
        AddressRefused: the host leads nowhere, or inside.
        TimeoutError: it took longer.
        httpcore.NetworkError: there was no connection, or it broke off.
        httpcore.ProtocolError: the answer is no HTTP.
    """
    network = CheckedNetwork(allowed, plain=url.lower().startswith("http:"))
    async with (
        asyncio.timeout(seconds),
        httpcore.AsyncConnectionPool(ssl_context=trusted, network_backend=network) as pool,
        pool.stream("POST", url, headers=list(headers.items()), content=body) as response,
    ):
        return response.status
