"""The application behind a real socket, in a thread."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from api.main import create_app
from service.settings import Settings
from tests.support.waiting import eventually


@contextmanager
def served(settings: Settings, port: int = 0) -> Iterator[str]:
    """Serves the application, on a free port unless told which; gives its URL."""
    config = uvicorn.Config(
        create_app(settings),
        host="127.0.0.1",
        port=port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        eventually(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
