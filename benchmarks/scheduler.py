"""The scheduler at the size of a cluster: ``python -m benchmarks.scheduler``.

A discrete-event simulation of many workers on one real PostgreSQL. Planning, turns, claims, leases, the sweeper's
freeing of lost chunks and the done marks are the service's own code and real transactions; computing is virtual time
(a rate with some spread, and stragglers). Left out: rows of scores, entries of roles, heartbeats, the broker's delay
(a free worker looks at once), and the summary.

Events are worked off in the order of virtual time, so the database's clock, which turns go by, runs in the same order.
A lease that has run out in virtual time is made to have run out by the database's clock just before the sweep.
"""

import argparse
import heapq
import json
import random
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, quantiles
from typing import Any

from sqlalchemy import func, select, update

from benchmarks.servers import fresh_context, plan_audit
from models.audit import Chunk
from service import chunks, jobs
from service.audits import lock_audit
from service.chunks import ChunkPlan
from service.claims import claim_next
from service.context import Context
from service.standing import standing_of
from service.sweep import sweep

LEASE = 60.0
SWEEP = 5.0


@dataclass
class Run:
    """State of a simulation; times are virtual seconds, costs real ones."""

    context: Context
    arguments: argparse.Namespace
    dice: random.Random
    events: list[tuple[float, int, str, Any]] = field(default_factory=list)
    count: int = 0
    idle: list[int] = field(default_factory=list)
    costs: dict[str, list[float]] = field(default_factory=lambda: {"claim": [], "record": [], "look": []})
    waits: list[float] = field(default_factory=list)
    arrived: dict[uuid.UUID, float] = field(default_factory=dict)
    computed: float = 0.0
    lost: int = 0
    makespan: float = 0.0

    def later(self, at: float, kind: str, what: object) -> None:
        """Schedules an event."""
        self.count += 1
        heapq.heappush(self.events, (at, self.count, kind, what))

    def take(self, now: float, worker: int) -> None:
        """Lets a free worker take a chunk, and computes it in virtual time."""
        start = time.perf_counter()
        plan = claim_next(self.context.sessions, uuid.UUID(int=0), f"{worker}:{self.count}", 10**6)
        self.costs["claim"].append(time.perf_counter() - start)
        if plan is None:
            self.idle.append(worker)
            return
        if plan.audit_id in self.arrived:
            self.waits.append(now - self.arrived.pop(plan.audit_id))
        seconds = self.arguments.chunk_seconds * self.dice.uniform(0.95, 1.05)
        if self.dice.random() < self.arguments.stragglers:
            seconds *= 5
        if self.dice.random() < self.arguments.failures:
            self.lost += 1
            died = now + self.dice.uniform(0, seconds)
            self.later(died + LEASE + self.dice.uniform(0, SWEEP), "sweep", plan)
            self.later(died + 30, "free", worker)  # it is started again
            return
        self.computed += seconds
        self.later(now + seconds, "done", (worker, f"{worker}:{self.count}", plan))

    def record(self, owner: str, plan: ChunkPlan) -> None:
        """Marks a chunk done as ``chunks.record_scores`` does, with no score."""
        start = time.perf_counter()
        with self.context.sessions.begin() as session:
            chunks.record_scores(session, self.context.queue, plan, owner, [])
        self.costs["record"].append(time.perf_counter() - start)

    def sweep(self, plan: ChunkPlan) -> None:
        """Frees a lost worker's chunk by the real sweeper."""
        with self.context.sessions.begin() as session:
            past = func.clock_timestamp() - jobs.seconds(1)
            session.execute(update(Chunk).where(Chunk.id == plan.chunk_id).values(lease_expires_at=past))
            sweep(session, self.context.queue, self.context.settings)

    def wake(self, now: float) -> None:
        """Workers without work look again."""
        idle, self.idle = self.idle, []
        for worker in idle:
            self.later(now, "free", worker)


def simulate(context: Context, arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs large audits with small ones arriving meanwhile; returns the figures."""
    run = Run(context, arguments, random.Random(arguments.seed))  # noqa: S311  not for security
    start = time.perf_counter()
    each = arguments.chunks // arguments.audits
    planned = [plan_audit(context, each * 64, 64, "large").id for _ in range(arguments.audits)]
    planning = time.perf_counter() - start
    ideal = arguments.chunks * arguments.chunk_seconds / arguments.workers
    for number in range(arguments.gates):
        run.later(ideal * (number + 1) / (arguments.gates + 1), "gate", number)
    for worker in range(arguments.workers):
        run.later(0.0, "free", worker)
    while run.events:
        now, _, kind, what = heapq.heappop(run.events)
        if kind == "free":
            run.take(now, what)
        elif kind == "done":
            worker, owner, plan = what
            run.record(owner, plan)
            run.makespan = now
            run.take(now, worker)
        elif kind == "sweep":
            run.sweep(what)
            run.wake(now)
        else:
            gate = plan_audit(context, 100, 100, f"gate {what}")
            run.arrived[gate.id] = now
            run.wake(now)
            with context.sessions.begin() as session:
                audit = lock_audit(session, planned[0])
                begin = time.perf_counter()
                if audit is not None:
                    standing_of(session, audit)
                run.costs["look"].append(time.perf_counter() - begin)
    with context.sessions.begin() as session:
        open_chunks = session.scalar(select(func.count()).where(Chunk.state != "done"))
    return {
        "workers": arguments.workers,
        "audits": arguments.audits,
        "chunks": arguments.chunks,
        "chunk_seconds": arguments.chunk_seconds,
        "planning_seconds": planning,
        "chunks_left": open_chunks,
        "workers_lost": run.lost,
        "makespan": run.makespan,
        "makespan_over_computed": run.makespan / (run.computed / arguments.workers),
        "gate_waits": {"mean": mean(run.waits), "max": max(run.waits)} if run.waits else None,
        "milliseconds": {
            name: {"mean": 1e3 * mean(found), "p99": 1e3 * quantiles(found, n=100)[98]}
            for name, found in run.costs.items()
            if len(found) > 1
        },
        "claim_ms_first_and_last_tenth": [
            1e3 * mean(part)
            for part in (run.costs["claim"][: arguments.chunks // 10], run.costs["claim"][-arguments.chunks // 10 :])
        ],
        "database_busy": (sum(run.costs["claim"]) + sum(run.costs["record"])) / run.makespan,
    }


def main() -> None:
    """Simulates and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scheduler", description=__doc__)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--chunks", type=int, default=22_000, help="of the large audits together")
    parser.add_argument("--audits", type=int, default=1, help="large ones, all requested at the start")
    parser.add_argument("--chunk-seconds", type=float, default=20.0)
    parser.add_argument("--gates", type=int, default=20, help="audits of 100 samples that arrive meanwhile")
    parser.add_argument("--stragglers", type=float, default=0.01, help="share of chunks that take five times as long")
    parser.add_argument("--failures", type=float, default=0.002, help="share of claims whose worker dies")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    with fresh_context() as context:
        found = simulate(context, arguments)
    print(json.dumps(found, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
