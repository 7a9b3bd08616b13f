"""Child processes that do not outlive their parent."""

import contextlib
import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1
POLL_SECONDS = 0.05


class ServiceStartError(Exception):
    """Something that the embedded service needs is missing or in the way; the message says what to do."""


def spawn(
    command: Sequence[str],
    log: Path,
    *,
    environment: Mapping[str, str] | None = None,
    death_signal: signal.Signals = signal.SIGTERM,
    preexec: Callable[[], None] | None = None,
) -> subprocess.Popen[bytes]:
    """Starts a child in a group of its own, so that Ctrl-C reaches the parent alone, with its output in a log.

    Args:
        command: program and arguments.
        log: file that its output is appended to.
        environment: of the child; None inherits.
        death_signal: what the child gets when its parent dies, where the system can do that (Linux).
        preexec: run in the child before the program.
    """

    def prepare() -> None:
        if preexec is not None:
            preexec()
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal)

    with log.open("ab") as out:
        return subprocess.Popen(  # noqa: S603  our own commands
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=None if environment is None else dict(environment),
            process_group=0,
            preexec_fn=prepare,  # noqa: PLW1509  sets a flag of the child only, takes no lock
        )


def stop(child: subprocess.Popen[bytes], number: signal.Signals, seconds: float) -> None:
    """Asks a child to end, and kills it and its group when it does not within so many seconds."""
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(seconds)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def free_port() -> int:
    """A port of the loopback address that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listening(port: int, host: str = "127.0.0.1") -> bool:
    """Whether something accepts connections there."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=0.5):
        return True
    return False


def wait_until(condition: Callable[[], bool], seconds: float, child: subprocess.Popen[bytes] | None = None) -> bool:
    """Waits until a condition holds; False when time is up or the child has ended."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline or (child is not None and child.poll() is not None):
            return False
        time.sleep(POLL_SECONDS)
    return True


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with contextlib.suppress(OSError):
        return _status(pid)[0] != "Z"
    return True


def started(pid: int) -> str | None:
    """When a process started, which tells it from a later one with its number; None if there is none (or no Linux)."""
    with contextlib.suppress(OSError):
        return _status(pid)[19]
    return None


def _status(pid: int) -> list[str]:
    """The fields of Linux' status of a process that follow its name, which may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()


def password(file: Path) -> str:
    """The password kept in a file, made at first; only its owner can read it."""
    if not file.is_file():
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as out:
            out.write(secrets.token_hex(24))
    return file.read_text(encoding="ascii")


def last_line(log: Path) -> str:
    """The last line of a log, for a message."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.is_file() else []
    return lines[-1].strip() if lines else "its log is empty"
