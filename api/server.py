"""The server that the application runs in."""

import socket
import threading

import uvicorn

from api.main import create_app
from service.settings import Settings


class Server(uvicorn.Server):
    """Tells streams to end before it waits for the responses under way."""

    def __init__(self, config: uvicorn.Config, stopping: threading.Event) -> None:
        super().__init__(config)
        self.stopping = stopping

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends in order."""
        self.stopping.set()
        await super().shutdown(sockets)


def create_server(settings: Settings, *, host: str, port: int, graceful_seconds: int) -> Server:
    """The application behind a socket, not started yet."""
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=graceful_seconds,
    )
    return Server(config, app.state.stopping)
