"""Runs the whole service on one machine: servers, migration, API, worker and sweeper, stopped in order."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from models.database import create_database_engine, session_factory
from service.embedded.postgres import Postgres
from service.embedded.process import (
    ServiceStartError,
    alive,
    last_line,
    listening,
    spawn,
    started,
    stop,
    wait_until,
)
from service.embedded.redis import Redis, answers
from service.migrate import upgrade
from service.settings import Settings
from service.tokens import any_token, create_token

API_START_SECONDS = 60
STOP_SECONDS = {"api": 15.0, "sweeper": 5.0, "worker": 30.0}
PREDECESSOR_SECONDS = 20.0
MAX_BACK_OFF_SECONDS = 30.0
# Large blocks stay in the heap instead of going back to the system after each batch: page faults would take
# longer than a small encoder's forward pass.
WORKER_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "8589934592"}


@dataclass
class Program:
    """One of our own processes, started again with growing pauses when it ends by itself."""

    name: str
    module: str
    environment: dict[str, str]
    child: subprocess.Popen[bytes] | None = None
    failures: int = 0
    started: float = 0.0
    not_before: float = 0.0


@dataclass
class Supervisor:
    """The embedded service.

    Attributes:
        settings: of the deployment.
        say: prints a line for people.
    """

    settings: Settings
    say: Callable[[str], None]
    stopping: threading.Event = field(default_factory=threading.Event)
    hurry: threading.Event = field(default_factory=threading.Event)
    servers: dict[str, Postgres | Redis] = field(default_factory=dict)
    programs: list[Program] = field(default_factory=list)

    @property
    def home(self) -> Path:
        """Folder of all that the service keeps."""
        return self.settings.home.absolute()

    @property
    def url(self) -> str:
        """Where the API is."""
        return f"http://{self.settings.host}:{self.settings.port}"

    def run(self) -> None:
        """Starts everything, keeps it running, and stops it when told to.

        Raises:
            ServiceStartError: something is missing or in the way.
        """
        with self._locked():
            try:
                self._start()
                while not self.stopping.wait(0.2):
                    self._revive()
            finally:
                self._stop()

    def request_stop(self, *_: object) -> None:
        """Signal handler: the first call stops in order, the second hurries."""
        if self.stopping.is_set():
            self.hurry.set()
        self.stopping.set()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Makes sure that no other service uses the same folder."""
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            (self.home / "logs").mkdir(exist_ok=True)
            lock: IO[str] = (self.home / "lock").open("a")
        except OSError as error:
            raise ServiceStartError(
                f"expected a folder that can be written to at {self.home} ({error.strerror}); "
                "name another with SSLMEM_HOME"
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ServiceStartError(f"the service is already running in {self.home}{self._where()}") from error
            yield

    def _where(self) -> str:
        with contextlib.suppress(OSError, ValueError, KeyError):
            running = json.loads((self.home / "service.json").read_text(encoding="utf-8"))
            return f", at {running['url']} (process {running['pid']})"
        return ""

    def _start(self) -> None:
        self._await_predecessors()
        if listening(self.settings.port, self.settings.host):
            raise ServiceStartError(
                f"expected port {self.settings.port} of {self.settings.host} to be free; something listens there. "
                "Stop it, or choose another port with SSLMEM_PORT or --port"
            )
        environment = {**os.environ, **self._start_servers(), "PYTHONPATH": os.pathsep.join(sys.path)}
        upgrade(environment["SSLMEM_DATABASE_URL"])
        new_token = self._first_token(environment["SSLMEM_DATABASE_URL"])
        self.programs = [
            Program("api", "api", environment),
            Program("sweeper", "worker.sweeper", environment),
            Program("worker", "worker", {**environment, **WORKER_ENVIRONMENT}),
        ]
        for program in self.programs:
            self._launch(program)
        api = self.programs[0]
        if not wait_until(self._healthy, API_START_SECONDS, api.child):
            if self.stopping.is_set():
                return
            raise ServiceStartError(f"the API did not start: {last_line(self._log('api'))} (see {self._log('api')})")
        self._announce()
        self.say(f"sslmem is running at {self.url}  (documentation: {self.url}/docs, logs: {self.home / 'logs'})")
        if new_token is not None:
            self.say(f"API token, shown this once: {new_token}  (also kept in {self.home / 'token'})")
        self.say("Ctrl-C stops it.")

    def _await_predecessors(self) -> None:
        """Waits for the processes of a service that was killed: on Linux they end with it, but not at once."""
        try:
            noted = json.loads((self.home / "processes.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return

        def left() -> list[int]:
            return [pid for pid, start in noted.values() if start is not None and alive(pid) and started(pid) == start]

        if not wait_until(lambda: not left(), PREDECESSOR_SECONDS):
            for pid in left():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
            wait_until(lambda: not left(), PREDECESSOR_SECONDS)

    def _note_processes(self) -> None:
        """Writes down which processes are ours, for the service that follows if this one is killed."""
        children = {p.name: p.child for p in self.programs if p.child is not None}
        children |= {name: server.child for name, server in self.servers.items()}
        self._write("processes.json", {name: [child.pid, started(child.pid)] for name, child in children.items()})

    def _write(self, name: str, content: dict[str, Any]) -> None:
        fresh = self.home / f"{name}.new"
        fresh.write_text(json.dumps(content), encoding="utf-8")
        fresh.replace(self.home / name)

    def _start_servers(self) -> dict[str, str]:
        """Starts the servers that are not given by URL; returns the settings of the programs."""
        settings = self.settings
        if settings.database_url is not None:
            database_url = settings.database_url.get_secret_value()
        else:
            self._start_server("postgres")
            database_url = self.servers["postgres"].url
        if settings.broker_url is not None:
            broker_url = settings.broker_url.get_secret_value()
            if not answers(broker_url):
                raise ServiceStartError("expected a Redis server that answers at SSLMEM_BROKER_URL; there is none")
        else:
            self._start_server("redis")
            broker_url = self.servers["redis"].url
        return {
            "SSLMEM_DATABASE_URL": database_url,
            "SSLMEM_BROKER_URL": broker_url,
            "SSLMEM_HOME": str(self.home),
            "SSLMEM_HOST": settings.host,
            "SSLMEM_PORT": str(settings.port),
        }

    def _start_server(self, name: str, port: int | None = None) -> None:
        kind: type[Postgres | Redis] = Postgres if name == "postgres" else Redis
        self.servers[name] = kind.start(self.home / name, self._log(name), port=port)
        self._note_processes()

    def _first_token(self, database_url: str) -> str | None:
        """Creates a token if there is none yet, and keeps it where the local command line finds it."""
        engine = create_database_engine(database_url)
        try:
            with session_factory(engine).begin() as session:
                if any_token(session):
                    return None
                token = create_token(session, "first boot")
                file = self.home / "token"
                file.touch(mode=0o600)
                file.write_text(token, encoding="ascii")
                return token
        finally:
            engine.dispose()

    def _log(self, name: str) -> Path:
        return self.home / "logs" / f"{name}.log"

    def _launch(self, program: Program) -> None:
        command = [sys.executable, "-m", program.module]
        program.child = spawn(command, self._log(program.name), environment=program.environment)
        program.started = time.monotonic()
        self._note_processes()

    def _healthy(self) -> bool:
        if self.stopping.is_set():
            return True
        try:
            with urllib.request.urlopen(f"{self.url}/v1/health", timeout=2) as response:  # noqa: S310  our own URL
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _announce(self) -> None:
        """Writes where the service is for the command line on this machine."""
        self._write("service.json", {"url": self.url, "pid": os.getpid()})

    def _revive(self) -> None:
        """Starts again what ended by itself."""
        for name, server in list(self.servers.items()):
            if server.child.poll() is not None:
                self.say(f"{name} ended ({_status(server.child)}); starting it again")
                server.stop()
                try:
                    # On the same port and with the same password: the programs only have to reconnect.
                    self._start_server(name, server.port)
                except ServiceStartError as error:
                    self.say(f"{error}; trying again")
                    self.stopping.wait(2)
        now = time.monotonic()
        for program in self.programs:
            if program.child is not None and program.child.poll() is not None:
                program.failures = 0 if now - program.started > MAX_BACK_OFF_SECONDS else program.failures + 1
                pause = min(2.0 ** (program.failures - 1), MAX_BACK_OFF_SECONDS) if program.failures else 0.0
                self.say(
                    f"{program.name} ended ({_status(program.child)}); starting it again"
                    + (f" in {pause:.0f} s (see {self._log(program.name)})" if pause else "")
                )
                stop(program.child, signal.SIGKILL, 0)
                program.child, program.not_before = None, now + pause
            elif program.child is None and now >= program.not_before:
                self._launch(program)

    def _stop(self) -> None:
        self._stop_programs()
        for name in ("redis", "postgres"):
            if name in self.servers:
                self.servers.pop(name).stop()
        for name in ("service.json", "processes.json"):
            (self.home / name).unlink(missing_ok=True)

    def _stop_programs(self) -> None:
        """Asks all programs to end, then waits for each, at most its time; a second Ctrl-C cuts that short."""
        for program in self.programs:
            if program.child is not None and program.child.poll() is None:
                program.child.terminate()
        for program in self.programs:
            if program.child is not None:
                deadline = time.monotonic() + STOP_SECONDS[program.name]
                while program.child.poll() is None and time.monotonic() < deadline and not self.hurry.wait(0.05):
                    pass
                stop(program.child, signal.SIGKILL, 0)
                program.child = None


def _status(child: subprocess.Popen[bytes]) -> str:
    code = child.returncode
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"
