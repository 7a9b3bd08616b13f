"""The whole service with a hand on everything: servers, programs, lines between them, disks of their own."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil  # type: ignore[import-untyped]

from models.database import create_database_engine, session_factory
from service.embedded.postgres import Postgres
from service.embedded.process import ServiceStartError, free_port, spawn, stop
from service.embedded.redis import Redis
from service.embedded.supervisor import WORKER_ENVIRONMENT
from service.migrate import upgrade
from service.tokens import create_token
from sslmem.client.http import Client
from tests.chaos.plan import LEASE_SECONDS, PROGRAMS
from tests.support.processes import QUICK, ROOT
from tests.support.proxy import Line, Watch

RESTART_SECONDS = 0.2
# So many that faults which hit one chunk again and again by chance do not end its audit, as they rightly would.
MAX_ATTEMPTS = 12
DISKS = {"artifacts": 64, "tmp": 32, "postgres": 512}  # MiB
MODULES = {"api": "api", "sweeper": "worker.sweeper", "worker-1": "worker", "worker-2": "worker"}
PHASES: dict[str, tuple[tuple[str, ...], bytes]] = {
    # What the programs send to the database then; parameters, since statements are prepared after a while.
    "claiming": (("worker-1", "worker-2"), rb"running.{0,300}?queued"),
    "committing": (("worker-1", "worker-2"), rb"COPY scores"),
    "finalising": (("worker-1", "worker-2"), rb"succeeded"),
    "checking": (("worker-1", "worker-2"), rb"checking"),
    "requesting": (("api",), rb'"views"'),
    "sweeping": (("sweeper",), rb"checking"),
}


@dataclass
class Program:
    """One of our processes."""

    environment: dict[str, str]
    child: subprocess.Popen[bytes]


class Rig:
    """Everything runs until the end of the block; what ends is started again, as a process manager would.

    Attributes:
        disks: those of DISKS that could be given a file system of their own.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.disks: dict[str, Path] = {}
        self.lines: dict[tuple[str, str], Line] = {}
        self.programs: dict[str, Program] = {}
        self.port = free_port()
        self._stopping = threading.Event()
        self.held = threading.Lock()  # nothing is started again while somebody holds it
        self._manager = threading.Thread(target=self._manage, daemon=True)

    def __enter__(self) -> Self:
        self.home.mkdir(parents=True, exist_ok=True)
        (self.home / "logs").mkdir()
        try:
            for name, mib in DISKS.items():
                self._mount(name, mib)
            self.postgres = Postgres.start(self.home / "postgres", self._log("postgres"))
            self.redis = Redis.start(self.home / "redis", self._log("redis"))
            upgrade(self.postgres.url)
            engine = create_database_engine(self.postgres.url)
            with session_factory(engine).begin() as session:
                self.token = create_token(session, "chaos")
            engine.dispose()
            for name in PROGRAMS:
                self._launch(name)
        except BaseException:
            self._end()
            raise
        self._manager.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopping.set()
        self._manager.join()
        self._end()

    def _end(self) -> None:
        for process in self.everything():
            with contextlib.suppress(psutil.Error):
                process.resume()
        for program in self.programs.values():
            stop(program.child, signal.SIGTERM, 10)
        for name in ("redis", "postgres"):
            if hasattr(self, name):
                getattr(self, name).stop()
        for line in self.lines.values():
            line.close()
        for folder in self.disks.values():
            subprocess.run(["umount", "--lazy", str(folder)], check=False)

    def _mount(self, name: str, mib: int) -> None:
        """Gives a folder a small file system of its own, where that is allowed."""
        folder = self.home / name
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "sslmem", str(folder)]
        if sys.platform == "linux" and subprocess.run(command, capture_output=True, check=False).returncode == 0:
            self.disks[name] = folder

    def _log(self, name: str) -> Path:
        return self.home / "logs" / f"{name}.log"

    def _launch(self, name: str) -> None:
        for server, found in (("postgres", self.postgres), ("redis", self.redis)):
            if (name, server) not in self.lines:
                self.lines[name, server] = Line(found.port, name)
        environment = {
            **os.environ,
            **QUICK,
            "SSLMEM_LEASE_SECONDS": str(LEASE_SECONDS),
            "SSLMEM_MAX_ATTEMPTS": str(MAX_ATTEMPTS),
            "SSLMEM_HOME": str(self.home),
            "SSLMEM_PORT": str(self.port),
            "SSLMEM_ARTIFACTS": str(self.home / "artifacts"),
            "SSLMEM_DATABASE_URL": self.lines[name, "postgres"].url(self.postgres.url),
            "SSLMEM_BROKER_URL": self.lines[name, "redis"].url(self.redis.url),
            "TMPDIR": str(self.home / "tmp"),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]),
            **(WORKER_ENVIRONMENT if name.startswith("worker") else {}),
        }
        child = spawn([sys.executable, "-m", MODULES[name]], self._log(name), environment=environment)
        self.programs[name] = Program(environment, child)

    def _manage(self) -> None:
        while not self._stopping.wait(RESTART_SECONDS):
            with self.held:
                self._revive()

    def _revive(self) -> None:
        for name, kind in (("postgres", Postgres), ("redis", Redis)):
            server = getattr(self, name)
            if server.child.poll() is not None:
                server.stop()
                # A server that cannot start, such as one without room, is tried again.
                with contextlib.suppress(ServiceStartError):
                    setattr(self, name, kind.start(self.home / name, self._log(name), port=server.port))
        for name, program in list(self.programs.items()):
            if program.child.poll() is not None:
                stop(program.child, signal.SIGKILL, 0)
                self._launch(name)

    # For faults

    def process(self, name: str) -> psutil.Process:
        """A program or server, as it is now."""
        child = getattr(self, name).child if name in ("postgres", "redis") else self.programs[name].child
        return psutil.Process(child.pid)

    def child_of(self, worker: str, seconds: float = 10) -> psutil.Process:
        """The process in which a worker computes; it may have to be started again first."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(psutil.Error):
                if children := self.process(worker).children():
                    return children[0]
            time.sleep(0.02)
        raise psutil.NoSuchProcess(0, worker, f"{worker} has no child")

    def everything(self) -> list[psutil.Process]:
        """All processes, servers included."""
        found = []
        for name in (*self.programs, *(name for name in ("redis", "postgres") if hasattr(self, name))):
            with contextlib.suppress(psutil.Error):
                process = self.process(name)
                found += [*process.children(recursive=True), process]
        return found

    def watch(self, phase: str) -> Watch:
        """Looks out for a program in a phase."""
        programs, pattern = PHASES[phase]
        watch = Watch(pattern)
        for name in programs:
            self.lines[name, "postgres"].watch(watch)
        return watch

    def unwatch(self, watch: Watch) -> None:
        for line in self.lines.values():
            line.unwatch(watch)

    def client(self) -> Client:
        return Client(f"http://127.0.0.1:{self.port}", self.token)

    def logs(self) -> dict[str, str]:
        """What everything wrote, by name."""
        return {path.stem: path.read_text(errors="replace") for path in (self.home / "logs").glob("*.log")}
