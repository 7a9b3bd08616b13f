"""A line between a program and its server that can be watched, cut, held up, or lose the answer to a commit."""

import asyncio
import contextlib
import re
import threading
from collections.abc import Coroutine
from typing import Any
from urllib.parse import urlsplit, urlunsplit

HOLD_SECONDS = 1.5
BLOCK = 2**16


class Watch:
    """Waits for bytes of a pattern on their way to a server, and holds them while something is done to the world.

    Attributes:
        seen: they came; they go on when ``proceed`` is set, or after a moment.
        line: the name of the line that they came on.
    """

    def __init__(self, pattern: bytes, hold_seconds: float = HOLD_SECONDS) -> None:
        self.pattern = re.compile(pattern, re.DOTALL)
        self.hold_seconds = hold_seconds
        self.seen, self.proceed = threading.Event(), threading.Event()
        self.line = ""


class _Pair:
    """One connection, on both sides of the line."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client, self.server = client, server
        self.met = self.swallows = False

    def abort(self) -> None:
        for side in (self.client, self.server):
            side.transport.abort()


class Line:
    """A TCP proxy in a thread of its own, to a server on this machine.

    Attributes:
        port: to connect to.
        swallowed: set when the answer to a commit was lost.
    """

    def __init__(self, server_port: int, name: str = "") -> None:
        self.name, self._server_port = name, server_port
        self.swallowed = threading.Event()
        self._watches: list[Watch] = []
        self._pairs: set[_Pair] = set()
        self._cut = False
        self._swallows: tuple[bytes, bytes] | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port: int = self._call(self._open())

    def url(self, url: str) -> str:
        """The URL of the server, by way of this line."""
        parts = urlsplit(url)
        return urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{self.port}"))

    def watch(self, watch: Watch) -> None:
        """Holds the next bytes that a watch looks for."""
        self._watches.append(watch)

    def unwatch(self, watch: Watch) -> None:
        """Forgets a watch."""
        with contextlib.suppress(ValueError):
            self._watches.remove(watch)

    def cut(self) -> None:
        """Breaks all connections, and every new one, until it is healed."""
        self._cut = True
        self._call(self._abort())

    def stall(self) -> None:
        """Lets nothing through in either direction until it is healed; connections stay open."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def swallow_commit(self, after: bytes = b"") -> None:
        """Lets the next commit reach the server, but not its answer the client, whose connection breaks.

        Args:
            after: the commit of a connection that sent this before.
        """
        self._swallows = (after, b"COMMIT")

    def swallow_answer(self, request: bytes) -> None:
        """The same for the answer to a request."""
        self._swallows = (b"", request)

    def heal(self) -> None:
        """Lets everything through again."""
        self._cut, self._swallows = False, None
        self._loop.call_soon_threadsafe(self._flowing.set)

    def close(self) -> None:
        self._call(self._shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401  whatever the coroutine gives
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _open(self) -> int:
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def _abort(self) -> None:
        for pair in list(self._pairs):
            pair.abort()

    async def _shut(self) -> None:
        self._server.close()
        self._flowing.set()
        await self._abort()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
        if self._cut:
            client_out.transport.abort()
            return
        try:
            server_in, server_out = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            client_out.transport.abort()
            return
        pair = _Pair(client_out, server_out)
        self._pairs.add(pair)
        pumps = [
            asyncio.ensure_future(self._to_server(client_in, pair)),
            asyncio.ensure_future(self._to_client(server_in, pair)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for side in (client_out, server_out):
                side.close()  # what was written still arrives
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._pairs.discard(pair)

    async def _to_server(self, source: asyncio.StreamReader, pair: _Pair) -> None:
        while data := await source.read(BLOCK):
            for watch in [watch for watch in self._watches if watch.pattern.search(data)]:
                await self._hold(watch)
            await self._flowing.wait()
            if self._swallows is not None:
                before, last = self._swallows
                pair.met = pair.met or before in data
                if pair.met and last in data:
                    self._swallows, pair.swallows = None, True
            pair.server.write(data)
            await pair.server.drain()

    async def _to_client(self, source: asyncio.StreamReader, pair: _Pair) -> None:
        while data := await source.read(BLOCK):
            await self._flowing.wait()
            if pair.swallows:
                pair.abort()
                self.swallowed.set()
                return
            pair.client.write(data)
            await pair.client.drain()

    async def _hold(self, watch: Watch) -> None:
        self.unwatch(watch)
        if watch.seen.is_set():  # on another line
            return
        watch.line = self.name
        watch.seen.set()
        deadline = self._loop.time() + watch.hold_seconds
        while not watch.proceed.is_set() and self._loop.time() < deadline:
            await asyncio.sleep(0.005)
