"""The embedded service as a process of its own, and all the processes below it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from service.embedded.process import free_port
from sslmem.client.http import Client
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
BOOT_SECONDS = 90
QUICK = {
    "SSLMEM_DEVICE": "cpu",
    "SSLMEM_LEASE_SECONDS": "2",
    "SSLMEM_SWEEP_SECONDS": "0.3",
    "SSLMEM_RESEND_SECONDS": "1",
    "SSLMEM_CHUNK_SECONDS": "0.000001",  # as few samples in a chunk as there may be
    "OMP_NUM_THREADS": "1",
}


def command(*arguments: str) -> list[str]:
    """``python -m service`` with arguments."""
    return [sys.executable, "-m", "service", *arguments]


def environment(home: Path, **changes: str) -> dict[str, str]:
    """Of a service in a folder, with short times."""
    return {**os.environ, **QUICK, "SSLMEM_HOME": str(home), **changes}


class Service:
    """``python -m service up``, started and waited for until it says that it runs."""

    def __init__(self, home: Path, **changes: str) -> None:
        self.home, self.port = home, free_port()
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            command("up", "--port", str(self.port)),
            cwd=ROOT,
            env=environment(home, **changes),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        eventually(lambda: "Ctrl-C stops it." in self.lines or self.process.poll() is not None, BOOT_SECONDS)
        assert self.process.poll() is None, self.lines

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as out:
            for line in out:
                self.lines.append(line.rstrip("\n"))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def token(self) -> str:
        return (self.home / "token").read_text()

    def client(self) -> Client:
        return Client(self.url, self.token)

    def program(self, name: str) -> psutil.Process:
        """One of the processes by its name, as it is now."""
        return psutil.Process(self.pid(name))

    def pid(self, name: str) -> int:
        """The number of a process, or what it was, while it is started again."""
        noted: dict[str, list[int]] = json.loads((self.home / "processes.json").read_text())
        return noted[name][0]

    def below(self) -> list[psutil.Process]:
        """All processes below, and theirs."""
        return list(psutil.Process(self.process.pid).children(recursive=True))

    def stop(self, *signals: signal.Signals, seconds: float = 60) -> int:
        """Sends signals, waits for the end, and returns the status; SIGTERM unless told otherwise."""
        for number in signals or (signal.SIGTERM,):
            self.process.send_signal(number)
        status = self.process.wait(seconds)
        self._reader.join()
        return status

    def ensure_stopped(self) -> None:
        """Leaves nothing behind, whatever the test did."""
        if self.process.poll() is None:
            below = self.below()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop()
            self.process.kill()
            for process in below:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self.process.wait()
        self._reader.join()

    def logs(self) -> dict[str, str]:
        """What the processes wrote, by name."""
        return {path.stem: path.read_text(errors="replace") for path in (self.home / "logs").glob("*.log")}


def gone(process: psutil.Process) -> bool:
    """Whether a process has ended; one that only waits to be reaped has."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
