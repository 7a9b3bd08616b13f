"""Requests per second of the running service: ``python -m benchmarks.load``.

The API as a process (``python -m api``) on PostgreSQL and Redis of its own, with a large summarised audit to read from and
one audit in the background that a real worker computes. Each kind of request is sent by one connection and by several
for a while. Beside it, in the same run: a bare FastAPI endpoint in a process of its own, and a bare SELECT of one row.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psycopg

from benchmarks.servers import fresh_context
from benchmarks.workers import add_inputs, program, request, workers_on
from service import tokens
from service.context import Context
from service.embedded.process import free_port
from tests.support import rows
from tests.support.waiting import eventually

BARE = "import fastapi; app = fastapi.FastAPI(); app.get('/')(lambda: {'state': 'running'})"
UPLOAD_BYTES = 4 * 2**20
AUDIT_SAMPLES = 20_000


@dataclass
class Kind:
    """Answers to one kind of request: seconds of each, and how many were errors."""

    seconds: list[float] = field(default_factory=list)
    errors: int = 0

    def figures(self, elapsed: float) -> dict[str, float]:
        """Rate and percentiles."""
        ordered = sorted(self.seconds)
        return {
            "requests_per_second": len(ordered) / elapsed,
            "p50_ms": 1000 * ordered[len(ordered) // 2],
            "p99_ms": 1000 * ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
            "errors": self.errors,
        }


Send = Callable[[httpx.Client, int], httpx.Response]


def press(url: str, token: str, send: Send, connections: int, seconds: float) -> dict[str, float]:
    """Sends requests of one kind by so many connections for a while, each as soon as its last was answered."""
    found, lock, until = Kind(), threading.Lock(), time.perf_counter() + seconds

    def one(connection: int) -> None:
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, trust_env=False) as client:
            number = connection
            while time.perf_counter() < until:
                number += connections
                began = time.perf_counter()
                failed = send(client, number).is_error
                took = time.perf_counter() - began
                with lock:
                    found.seconds.append(took)
                    found.errors += failed

    began = time.perf_counter()
    with ThreadPoolExecutor(connections) as pool:
        list(pool.map(one, range(connections)))
    return found.figures(time.perf_counter() - began)


def selects(database_url: str, connections: int, seconds: float) -> dict[str, float]:
    """Bare SELECTs of one row by so many connections."""
    found, lock, until = Kind(), threading.Lock(), time.perf_counter() + seconds

    def one(_: int) -> None:
        with psycopg.connect(database_url, autocommit=True) as connection:
            while time.perf_counter() < until:
                began = time.perf_counter()
                connection.execute("SELECT * FROM audits LIMIT 1").fetchone()
                with lock:
                    found.seconds.append(time.perf_counter() - began)

    began = time.perf_counter()
    with ThreadPoolExecutor(connections) as pool:
        list(pool.map(one, range(connections)))
    return found.figures(time.perf_counter() - began)


@contextmanager
def served(context: Context, command: list[str], port: int, **environment: str) -> Iterator[str]:
    """A server process on a port; gives its URL."""
    url = f"http://127.0.0.1:{port}"
    log = (context.settings.home / f"server-{port}.log").open("wb")
    process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log)  # noqa: S603
    try:
        eventually(lambda: process.poll() is None and _answers(url), 60)
        yield url
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).status_code < 500
    except httpx.HTTPError:
        return False


def requests_to(audit_id: str, running_id: str, blocks: list[bytes]) -> dict[str, Send]:
    """What is sent, by name."""
    scores = f"/v1/audits/{audit_id}/scores"

    def upload(client: httpx.Client, number: int) -> httpx.Response:
        """A file that is another one each time, which no worker will find to be a checkpoint."""
        content = number.to_bytes(8) + blocks[number % len(blocks)]
        return client.put(f"/v1/encoders?name=e{hashlib.sha256(content).hexdigest()[:8]}", content=content, timeout=60)

    return {
        "poll of a running audit": lambda client, _: client.get(f"/v1/audits/{running_id}"),
        "summary": lambda client, _: client.get(f"/v1/audits/{audit_id}/summary"),
        "page of 100 by sample": lambda client, _: client.get(scores),
        "page of 100 by score": lambda client, _: client.get(scores, params={"sort": "-score", "role": "candidate"}),
        "list of audits": lambda client, _: client.get("/v1/audits"),
        f"upload of {UPLOAD_BYTES >> 20} MiB": upload,
    }


def measure(context: Context, arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures, by name and number of connections."""
    done = rows.succeeded_audit(context, AUDIT_SAMPLES)
    running = request(context, add_inputs(context, 1024), views=64, samples_per_chunk=64)
    with context.sessions.begin() as session:
        token = tokens.create_token(session, "load")
    settings = context.settings
    environment = {
        "SSLMEM_DATABASE_URL": settings.require_database_url(),
        "SSLMEM_BROKER_URL": settings.require_broker_url(),
        "SSLMEM_HOME": str(settings.home),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    sends = requests_to(str(done.id), str(running.id), [os.urandom(UPLOAD_BYTES) for _ in range(4)])
    found: dict[str, dict[str, Any]] = {}
    port, bare = free_port(), free_port()
    bare_file = settings.home / "bare.py"
    bare_file.write_text(BARE, encoding="utf-8")
    bare_command = [sys.executable, "-m", "uvicorn", "--app-dir", str(settings.home), "bare:app", "--port", str(bare)]
    with (
        program(context, "worker", "worker"),
        served(context, [sys.executable, "-m", "api"], port, SSLMEM_PORT=str(port), **environment) as url,
        served(context, [*bare_command, "--log-level", "warning"], bare) as bare_url,
    ):
        eventually(lambda: workers_on(context, running) == 1, 120)
        for connections in (1, arguments.connections):
            every = {
                name: lambda send=send: press(url, token, send, connections, arguments.seconds)
                for name, send in sends.items()
            }  # noqa: E501, B023
            every["bare FastAPI endpoint"] = lambda: press(
                bare_url,
                token,
                lambda client, _: client.get("/"),
                connections,
                arguments.seconds,  # noqa: B023
            )
            every["bare SELECT"] = lambda: selects(settings.require_database_url(), connections, arguments.seconds)  # noqa: B023
            for name, run in every.items():
                figures = run()
                found.setdefault(name, {})[str(connections)] = figures
                print(f"{name}, {connections} connections: {figures['requests_per_second']:.0f}/s, p50 "
                      f"{figures['p50_ms']:.1f} ms, p99 {figures['p99_ms']:.1f} ms, {figures['errors']} errors", flush=True)  # fmt: skip
    return found


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5, help="for each kind of request")
    parser.add_argument("--connections", type=int, default=8, help="besides one")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    with fresh_context() as context:
        found = measure(context, arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
