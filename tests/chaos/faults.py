"""How each kind of fault is done, and undone."""

import contextlib
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil  # type: ignore[import-untyped]
import psycopg
from redis import Redis
from redis.exceptions import RedisError

from tests.chaos.plan import PROGRAMS, Fault
from tests.chaos.rig import Rig

QUEUE = "sslmem"


class NotPossibleHere(Exception):
    """This machine does not allow the fault; it is counted as such."""


def strike(rig: Rig, fault: Fault, caught: str) -> None:
    """Does a fault and, after its time, undoes it.

    Args:
        rig: the service.
        fault: what to do.
        caught: the program that is in the fault's phase, which is the victim if it is of the victim's kind.
    """
    victim = caught if caught and caught.partition("-")[0] == fault.victim.partition("-")[0] else fault.victim
    with _KINDS[fault.kind.split()[0]](rig, fault, victim):
        time.sleep(fault.seconds)


@contextlib.contextmanager
def _kill(rig: Rig, fault: Fault, victim: str) -> Iterator[None]:
    with rig.held:
        for process in _victims(rig, fault, victim):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        if "lose its data" in fault.kind:
            rig.redis.child.wait()
            for part in (rig.home / "redis").iterdir():
                if part.name not in ("password", "redis.conf"):
                    shutil.rmtree(part) if part.is_dir() else part.unlink()
    yield


@contextlib.contextmanager
def _terminate(rig: Rig, fault: Fault, victim: str) -> Iterator[None]:  # noqa: ARG001  one form for all
    rig.process(victim).terminate()
    yield


@contextlib.contextmanager
def _stop(rig: Rig, fault: Fault, victim: str) -> Iterator[None]:
    stopped = _victims(rig, fault, victim)
    for process in stopped:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()
    try:
        yield
    finally:
        for process in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


def _victims(rig: Rig, fault: Fault, victim: str) -> list[psutil.Process]:
    kind = fault.kind.partition(" ")[2]
    match kind:
        case "child":
            return [rig.child_of(victim)]
        case "worker and child":
            return [rig.process(victim), *rig.process(victim).children(recursive=True)]
        case "everything":
            return rig.everything()
        case "backend":
            return [_backend(rig)]
        case "postgres" if fault.kind == "stop postgres":
            return [rig.process(victim), *rig.process(victim).children(recursive=True)]
        case _:
            return [rig.process(victim)]


def _backend(rig: Rig) -> psutil.Process:
    """The server's process that one of our programs last asked something."""
    with psycopg.connect(rig.postgres.url, connect_timeout=5) as connection:
        found = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'sslmem' ORDER BY query_start DESC LIMIT 1"
        ).fetchone()
    if found is None:
        return rig.process("postgres").children()[-1]
    return psutil.Process(found[0])


@contextlib.contextmanager
def _fill(rig: Rig, fault: Fault, victim: str) -> Iterator[None]:  # noqa: ARG001
    if victim not in rig.disks:
        raise NotPossibleHere("a file system of its own cannot be mounted")
    ballast = rig.disks[victim] / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as out:
        while True:
            out.write(bytes(2**16))
    try:
        yield
    finally:
        ballast.unlink()


@contextlib.contextmanager
def _line(rig: Rig, fault: Fault, victim: str) -> Iterator[None]:
    server = fault.kind.rpartition(" ")[2]
    lines = [rig.lines[name, server] for name in (PROGRAMS if victim == "all" else (victim,))]
    for line in lines:
        line.cut() if fault.kind.startswith("cut") else line.stall()
    try:
        yield
    finally:
        for line in lines:
            line.heal()


@contextlib.contextmanager
def _lose(rig: Rig, fault: Fault, victim: str) -> Iterator[None]:  # noqa: ARG001
    line = rig.lines[victim, "postgres"]
    line.swallowed.clear()
    line.swallow_commit()
    yield
    line.swallowed.wait(5)  # the next commit; the sweeper's comes with its next sweep, a worker's with a chunk


@contextlib.contextmanager
def _messages(rig: Rig, fault: Fault, victim: str) -> Iterator[None]:  # noqa: ARG001
    """Takes hold of the broker's real list for the time of the fault."""
    over = threading.Event()
    thread = threading.Thread(target=_meddle, args=(rig.redis.url, _MEDDLING[fault.kind.split()[0]], over))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


Held = list[Any]  # messages, as the broker has them


def _drop(broker: "Redis", _: Held) -> None:
    while broker.lpop(QUEUE):
        pass


def _delay(broker: "Redis", held: Held) -> None:
    while (message := broker.rpop(QUEUE)) is not None:
        held.append(message)


def _duplicate(broker: "Redis", held: Held) -> None:
    for message in broker.lrange(QUEUE, 0, -1):
        if message not in held:
            held.append(message)
            broker.rpush(QUEUE, message, message)


_MEDDLING: dict[str, Callable[["Redis", Held], None]] = {"drop": _drop, "delay": _delay, "duplicate": _duplicate}


def _meddle(url: str, act: Callable[["Redis", Held], None], over: threading.Event) -> None:
    held: Held = []
    with Redis.from_url(url, socket_timeout=2) as broker:
        while not over.wait(0.002):
            with contextlib.suppress(RedisError):
                act(broker, held)
        if act is _delay and held:
            with contextlib.suppress(RedisError):
                broker.rpush(QUEUE, *reversed(held))


_KINDS: dict[str, Callable[[Rig, Fault, str], contextlib.AbstractContextManager[None]]] = {
    "kill": _kill,
    "terminate": _terminate,
    "stop": _stop,
    "fill": _fill,
    "cut": _line,
    "hold": _line,
    "lose": _lose,
    "drop": _messages,
    "duplicate": _messages,
    "delay": _messages,
}
