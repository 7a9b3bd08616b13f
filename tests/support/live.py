"""The application behind a real socket, in a thread."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from api.server import create_server
from service.settings import Settings
from tests.support.waiting import eventually


@contextmanager
def served(settings: Settings, port: int = 0) -> Iterator[str]:
    """Serves the application, on a free port unless told which; gives its URL."""
    server = create_server(settings, host="127.0.0.1", port=port, graceful_seconds=5)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        eventually(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
