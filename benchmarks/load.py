"""Requests per second of the running service: ``python -m benchmarks.load``.

The API as a process on PostgreSQL and Redis of its own, with a sweeper, a large audit to read from, and one audit in
the background that a real worker computes all the while. Each kind of request is sent for a while by one connection
and by several, each as soon as its last was answered. Beside them, in the same turns: a bare FastAPI endpoint, served
alike, and a bare SELECT of one row by its key. Whatever is not the answer that was asked for counts as an error.
"""

import argparse
import http.client
import itertools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg

from benchmarks.servers import fresh_context
from benchmarks.workers import add_inputs, program, request, state_of, workers_on
from service import tokens
from service.context import Context
from service.embedded.process import free_port, spawn, stop
from tests.support import rows
from tests.support.waiting import eventually

BARE = "import fastapi; app = fastapi.FastAPI(); app.get('/')(lambda: {'state': 'running'})"
UPLOAD_BYTES = 4 * 2**20
NUMBERS = itertools.count()

Send = Callable[[], bool]  # whether the answer was right
HangUp = Callable[[], None]
Connect = Callable[[], tuple[Send, HangUp]]


def press(connect: Connect, connections: int, seconds: float) -> dict[str, float]:
    """Sends by so many connections for a while; the rate of right answers, milliseconds of all, and errors."""
    took: list[float] = []
    errors, lock, until = 0, threading.Lock(), time.perf_counter() + seconds

    def one(_: int) -> None:
        nonlocal errors
        send, hang_up = connect()
        while time.perf_counter() < until:
            began = time.perf_counter()
            try:
                right = send()
            except (OSError, http.client.HTTPException, psycopg.Error):
                right = False
                hang_up()
                send, hang_up = connect()
            with lock:
                took.append(time.perf_counter() - began)
                errors += not right
        hang_up()

    began = time.perf_counter()
    with ThreadPoolExecutor(connections) as pool:
        list(pool.map(one, range(connections)))
    elapsed, ordered = time.perf_counter() - began, sorted(took)
    return {
        "requests_per_second": (len(ordered) - errors) / elapsed,
        "p50_ms": 1000 * ordered[len(ordered) // 2],
        "p99_ms": 1000 * ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
        "errors": errors,
        "seconds": elapsed,
    }


def asking(url: str, token: str, method: str, path: str, content: Callable[[], bytes] | None = None) -> Connect:
    """Requests of one kind over a connection that stays open; ``content`` makes a new body for each."""
    server = urlsplit(url)

    def connect() -> tuple[Send, HangUp]:
        connection = http.client.HTTPConnection(server.hostname or "", server.port, timeout=60)

        def send() -> bool:
            body = content() if content else None
            connection.request(method, path, body, {"Authorization": f"Bearer {token}"})
            answer = connection.getresponse()
            answer.read()
            return 200 <= answer.status < 300

        return send, connection.close

    return connect


def selecting(database_url: str, audit_id: str) -> Connect:
    """Bare SELECTs of an audit by its key."""

    def connect() -> tuple[Send, HangUp]:
        connection = psycopg.connect(database_url, autocommit=True)

        def send() -> bool:
            return connection.execute("SELECT * FROM audits WHERE id = %s", (audit_id,)).fetchone() is not None

        return send, connection.close

    return connect


@contextmanager
def served(command: list[str], port: int, log: Path, **environment: str) -> Iterator[str]:
    """A server process on a port; gives its URL once it answers."""
    process = spawn(command, log, environment=os.environ | environment)

    def answers() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended: {log.read_text()[-2000:]}")
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
            try:
                connection.request("GET", "/")
                return connection.getresponse().status < 500
            except OSError:
                return False

    try:
        eventually(answers, 60)
        yield f"http://127.0.0.1:{port}"
    finally:
        stop(process, signal.SIGTERM, 30)


def new_file() -> bytes:
    """A file that the service never saw."""
    return next(NUMBERS).to_bytes(8) + FILLING


FILLING = os.urandom(UPLOAD_BYTES - 8)


def measure(context: Context, arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures, by kind of request and number of connections."""
    settings = context.settings
    settings.home.mkdir(parents=True, exist_ok=True)
    done = rows.succeeded_audit(context, arguments.samples)
    background = request(context, add_inputs(context, 1024), arguments.views, 64)
    with context.sessions.begin() as session:
        token = tokens.create_token(session, "load")
    database_url = settings.require_database_url()
    environment = {
        "SSLMEM_DATABASE_URL": database_url,
        "SSLMEM_BROKER_URL": settings.require_broker_url(),
        "SSLMEM_HOME": str(settings.home),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    port, bare = free_port(), free_port()
    (settings.home / "bare.py").write_text(BARE, encoding="utf-8")
    plain = [sys.executable, "-m", "uvicorn", "--app-dir", str(settings.home), "bare:app", "--log-level", "warning"]
    found: dict[str, dict[str, Any]] = {}
    with (
        program(context, "worker.sweeper", "sweeper"),
        program(context, "worker", "worker"),
        served([sys.executable, "-m", "api"], port, settings.home / "api.log", SSLMEM_PORT=str(port), **environment)
        as url,
        served([*plain, "--port", str(bare)], bare, settings.home / "bare.log") as bare_url,
    ):  # fmt: skip
        audit = f"/v1/audits/{done.id}"
        kinds = {
            "bare FastAPI endpoint": asking(bare_url, token, "GET", "/"),
            "bare SELECT": selecting(database_url, str(done.id)),
            "poll of the running audit": asking(url, token, "GET", f"/v1/audits/{background.id}"),
            "summary": asking(url, token, "GET", f"{audit}/summary"),
            "page of 100 scores by sample": asking(url, token, "GET", f"{audit}/scores"),
            "page of 100 candidates by score": asking(url, token, "GET", f"{audit}/scores?sort=-score&role=candidate"),
            "list of audits": asking(url, token, "GET", "/v1/audits"),
            # Last: the worker has to look at each of them, which holds up the audit.
            f"upload of {UPLOAD_BYTES >> 20} MiB": asking(url, token, "PUT", "/v1/encoders?name=load", new_file),
        }
        eventually(lambda: workers_on(context, background) == 1, 120)
        for name, connect in kinds.items():
            for connections in (1, arguments.connections):
                figures = press(connect, connections, arguments.seconds)
                found.setdefault(name, {})[str(connections)] = figures
                print(
                    f"{name}, {connections} connections: {figures['requests_per_second']:.0f}/s, p50 "
                    f"{figures['p50_ms']:.1f} ms, p99 {figures['p99_ms']:.1f} ms, {figures['errors']} errors",
                    flush=True,
                )
            if state_of(context, background) != "running":
                raise RuntimeError("the audit in the background ended too soon; ask for more views")
    return {"samples": arguments.samples, "connections": arguments.connections, "kinds": found}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5, help="for each kind of request and number of connections")
    parser.add_argument("--connections", type=int, default=8, help="besides one")
    parser.add_argument("--samples", type=int, default=20_000, help="of the audit that is read from")
    parser.add_argument("--views", type=int, default=128, help="of the audit in the background")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    with fresh_context() as context:
        found = measure(context, arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
