"""Several workers on one audit, and what a chunk costs besides its computing: ``python -m benchmarks.workers``.

Real worker processes with one thread each, and a sweeper, on PostgreSQL and Redis of their own; ResNet-18 on images of
32 pixels, two encoders. One long audit is worked off by one worker and by two, in turns: the second joins and leaves
in the middle of it. The cost of a chunk follows from one audit in few and in many chunks, by one worker: whatever grows
with the number of chunks is not computing (messages, claim, dataset, first look at the encoders, COPY, commit).
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
import torchvision
from safetensors.torch import save_file
from sqlalchemy import func, select, text

from benchmarks.servers import fresh_context
from models.audit import Audit, Chunk
from models.event import AuditEvent
from service import audits, lifecycle
from service.context import Context
from service.embedded.process import spawn, stop
from service.embedded.supervisor import WORKER_ENVIRONMENT
from service.standing import samples_done
from tests.support.materials import png, zip_of
from tests.support.rows import add_dataset, add_encoder, add_roles, sample_paths
from tests.support.waiting import eventually

WAIT_SECONDS = 900
SIZE = 32


@contextmanager
def program(context: Context, module: str, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """``python -m MODULE`` with one thread, on the servers of the context."""
    settings = context.settings
    environment = os.environ | WORKER_ENVIRONMENT | {
        "SSLMEM_DATABASE_URL": settings.require_database_url(),
        "SSLMEM_BROKER_URL": settings.require_broker_url(),
        "SSLMEM_HOME": str(settings.home),
        "SSLMEM_DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }  # fmt: skip
    child = spawn([sys.executable, "-m", module], settings.home / f"{name}.log", environment=environment)
    try:
        yield child
    finally:
        stop(child, signal.SIGTERM, 30)


def add_inputs(context: Context, num_samples: int) -> dict[str, Any]:
    """Two encoders and a dataset with roles, as their checks leave them."""
    paths = sample_paths(num_samples)
    archive = context.settings.home / "images.zip"
    archive.write_bytes(zip_of({path: png(number) for number, path in enumerate(paths)}))
    with context.sessions.begin() as session:
        ids = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            module = torchvision.models.resnet18()
            module.fc = torch.nn.Identity()
            weights = context.settings.home / f"encoder-{seed}.safetensors"
            save_file({name: value.contiguous() for name, value in module.state_dict().items()}, weights)
            digest = context.store.put_file(weights)
            ids.append(add_encoder(session, str(seed), weights_artifact_digest=digest, input_size=SIZE).id)
        dataset = add_dataset(session, paths, artifact_digest=context.store.put_file(archive))
        role_set_id = add_roles(session, dataset, paths).id
    return {"target_ids": ids[:1], "reference_ids": ids[1:], "dataset_id": dataset.id, "role_set_id": role_set_id}


def request(context: Context, inputs: dict[str, Any], views: int, samples_per_chunk: int) -> Audit:
    """An audit in chunks of so many samples."""
    seconds = samples_per_chunk * views * 2 / 1000  # of the rate that add_encoder says
    settings = context.settings.model_copy(update={"chunk_seconds": seconds})
    with context.sessions.begin() as session:
        spec = {"views": views}
        return audits.request_audit(session, context.queue, settings, name="audit", spec=spec, force=True, **inputs)[0]


def state_of(context: Context, audit: Audit) -> str:
    """An audit's state.

    Raises:
        RuntimeError: it failed.
    """
    with context.sessions.begin() as session:
        found = session.get_one(Audit, audit.id)
        if found.state == "failed":
            raise RuntimeError(f"the audit failed: {found.failure_detail}")
        return found.state


def seconds_of(context: Context, inputs: dict[str, Any], views: int, samples_per_chunk: int) -> tuple[float, int]:
    """Seconds from the first to the last chunk of a new audit done, and the chunks between."""
    audit = request(context, inputs, views, samples_per_chunk)
    eventually(lambda: state_of(context, audit) == "succeeded", WAIT_SECONDS, interval=0.05)
    with context.sessions.begin() as session:
        done = (AuditEvent.audit_id == audit.id) & (AuditEvent.type == "chunk.done")
        times = select(func.min(AuditEvent.created_at), func.max(AuditEvent.created_at), func.count()).where(done)
        first, last, count = session.execute(times).one()
    return (last - first).total_seconds(), count - 1


def cost_of_a_chunk(context: Context, inputs: dict[str, Any], arguments: argparse.Namespace) -> list[float]:
    """Seconds that a chunk costs besides its computing, once for each turn."""
    found = []
    for _ in range(arguments.turns):
        per_sample = []
        for size in (arguments.small, arguments.large):
            seconds, chunks = seconds_of(context, inputs, arguments.views, size)
            per_sample.append(seconds / (chunks * size))
        # seconds per sample = computing + cost / size, for both sizes
        cost = (per_sample[0] - per_sample[1]) / (1 / arguments.small - 1 / arguments.large)
        found.append(cost)
        print(f"a chunk costs {1000 * cost:.0f} ms besides {1 / per_sample[1]:.0f} samples/s of computing", flush=True)
    return found


def rate(context: Context, audit: Audit, seconds: float) -> float:
    """Samples done per second over a while, those of chunks under way included."""

    def done() -> int:
        with context.sessions.begin() as session:
            return session.scalars(select(samples_done()).where(Chunk.audit_id == audit.id)).one()

    first, began = done(), time.perf_counter()
    time.sleep(seconds)
    return (done() - first) / (time.perf_counter() - began)


def workers_on(context: Context, audit: Audit) -> int:
    """How many workers have a chunk of an audit."""
    with context.sessions.begin() as session:
        running = select(func.count()).where(Chunk.audit_id == audit.id, Chunk.state == "running")
        return session.scalars(running).one()


def connections_to(context: Context) -> int:
    """How many connections the database has."""
    clients = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
    with context.sessions.begin() as session:
        return int(session.execute(text(clients)).scalar_one())


def join(context: Context, inputs: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """One audit, by one worker and by two in turns."""
    audit = request(context, inputs, arguments.views_of_long, arguments.large)
    eventually(lambda: workers_on(context, audit) == 1, WAIT_SECONDS)
    alone, together, joined, connections = [], [], [], []
    for turn in range(arguments.turns):
        alone.append(rate(context, audit, arguments.seconds))
        before, began = connections_to(context), time.perf_counter()
        with program(context, "worker", f"second-{turn}"):
            eventually(lambda: workers_on(context, audit) == 2, WAIT_SECONDS)
            joined.append(time.perf_counter() - began)
            time.sleep(10)  # it loads torch and the encoders
            together.append(rate(context, audit, arguments.seconds))
            connections.append(connections_to(context) - before)
        print(f"alone {alone[-1]:.1f}, two {together[-1]:.1f} samples/s; joined in {joined[-1]:.1f} s", flush=True)
    if state_of(context, audit) != "running":
        raise RuntimeError("the audit ended too soon; ask for more samples")
    with context.sessions.begin() as session:
        lifecycle.cancel(session, audit.id)
    return {
        "alone": alone,
        "together": together,
        "speed_up": mean(together) / mean(alone),
        "speed_ups": [two / one for one, two in zip(alone, together, strict=True)],
        "seconds_from_start_to_first_chunk": joined,
        "connections_of_a_worker": max(connections),
        "cores": os.cpu_count(),
    }


def measure(context: Context, arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    inputs = add_inputs(context, arguments.samples)
    with program(context, "worker.sweeper", "sweeper"), program(context, "worker", "first"):
        seconds_of(context, inputs, arguments.views, arguments.large)  # torch and the encoders are loaded
        costs = cost_of_a_chunk(context, inputs, arguments)
        joining = join(context, inputs, arguments)
    cost = median(costs)
    return {
        "samples": arguments.samples,
        "costs_of_a_chunk": costs,
        "cost_of_a_chunk": cost,
        "share_of_a_20_second_chunk": cost / 20,
        **joining,
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers", description=__doc__)
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--small", type=int, default=16, help="samples of a small chunk")
    parser.add_argument("--large", type=int, default=128, help="samples of a large chunk")
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--views-of-long", type=int, default=64, help="of the audit that the second worker joins")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20, help="that a rate is measured over")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    with fresh_context() as context:
        found = measure(context, arguments)
    print(json.dumps(found, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
