"""The service that the demo talks to: the one that runs on this machine already, or one of its own."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

from service.embedded.process import ServiceStartError, free_port, last_line, listening, wait_until
from service.settings import Settings
from sslmem.cli.connection import connect, home
from sslmem.client.http import Client
from sslmem.errors import SslmemError

START_SECONDS = 120


@contextlib.contextmanager
def running_service() -> Iterator[Client]:
    """Connects to the service of this user, starting and stopping it if it is not running.

    Raises:
        ServiceStartError: it does not start; the message is the service's.
    """
    client = _client()
    if client is not None:
        print(f"using the service that is running at {client.url}")
        with client:
            yield client
        return
    settings = Settings()
    port = free_port() if listening(settings.port, settings.host) else settings.port
    print(f"starting the service on port {port} ...")
    errors = home() / "demo" / "service.log"
    with errors.open("wb") as out:
        child = subprocess.Popen(  # noqa: S603  our own command
            [sys.executable, "-m", "service", "up", "--port", str(port)],
            stdout=subprocess.DEVNULL,
            stderr=out,
            process_group=0,  # Ctrl-C reaches the demo, which then stops the service
        )
    try:
        if not wait_until((home() / "service.json").is_file, START_SECONDS, child):
            raise ServiceStartError(last_line(errors).removeprefix("sslmem: "))
        print(f"the service runs at http://{settings.host}:{port}")
        with connect(None, None) as client:
            yield client
    finally:
        if child.poll() is None:
            os.kill(child.pid, signal.SIGTERM)
        child.wait()


def _client() -> Client | None:
    """A client of the running service, if there is one that answers."""
    if not (home() / "service.json").is_file():
        return None
    try:
        client = connect(None, None)
        client.get("/v1/limits")
    except SslmemError:
        (home() / "service.json").unlink(missing_ok=True)  # of a service that was killed
        return None
    return client
