"""Signs of life of workers and sweepers, and the queues that workers serve."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from models.audit import QUEUES, Audit, Chunk
from models.dataset import Dataset
from models.encoder import Encoder
from models.operations import Sweeper, Worker
from service.jobs import seconds
from service.queue import DEFAULT

HEARTBEAT_SECONDS = 5
ALIVE_SECONDS = 6 * HEARTBEAT_SECONDS
FORGET_SECONDS = 7 * 24 * 3600


def beat(
    session: Session, worker_id: str, device: str, queues: Sequence[str] = (DEFAULT,), busy_with: str | None = None
) -> None:
    """Notes that a worker is alive, and what it is at."""
    values = {"device": device, "queues": list(queues), "busy_with": busy_with, "last_seen_at": func.clock_timestamp()}
    statement = postgresql.insert(Worker).values(id=worker_id, **values)
    session.execute(statement.on_conflict_do_update(index_elements=[Worker.id], set_=values))
    session.execute(delete(Worker).where(Worker.last_seen_at < func.clock_timestamp() - seconds(FORGET_SECONDS)))


def beat_of_sweeper(session: Session, sweeper_id: str, *, broker_answers: bool = True) -> None:
    """Notes that a sweeper is about to look for lost work, and whether the broker answers it."""
    now = func.clock_timestamp()
    away = None if broker_answers else now
    statement = postgresql.insert(Sweeper).values(id=sweeper_id, last_seen_at=now, broker_away_since=away)
    still = None if broker_answers else func.coalesce(Sweeper.broker_away_since, now)
    values = {"last_seen_at": now, "broker_away_since": still}
    session.execute(statement.on_conflict_do_update(index_elements=[Sweeper.id], set_=values))
    session.execute(delete(Sweeper).where(Sweeper.last_seen_at < now - seconds(FORGET_SECONDS)))


def sweeper_lives(session: Session) -> bool:
    """Whether a sweeper looks for lost work."""
    return bool(session.scalar(select(func.bool_or(_seen(Sweeper)))))


def outage(session: Session) -> str | None:
    """Why what waits may not be found by a worker: no sweeper, or no broker; None if all is well."""
    alive = _seen(Sweeper)
    found = select(
        func.max(Sweeper.last_seen_at), func.bool_or(alive), func.min(Sweeper.broker_away_since).filter(alive)
    )
    seen, lives, away = session.execute(found).one()
    if seen is None:
        return "no sweeper has connected in the last week; start one with python -m worker.sweeper"
    if not lives:
        return f"no sweeper has been seen since {clock(seen)}"
    return None if away is None else f"the broker has not answered since {clock(away)}"


def list_workers(session: Session) -> list[tuple[Worker, bool]]:
    """All workers seen in the last week, latest first, and whether each is alive."""
    return list(session.execute(select(Worker, _seen(Worker)).order_by(Worker.last_seen_at.desc())))


def _seen(model: type[Worker] | type[Sweeper]) -> ColumnElement[bool]:
    """Whether it has given a sign of life of late."""
    alive: ColumnElement[bool] = model.last_seen_at > func.clock_timestamp() - seconds(ALIVE_SECONDS)
    return alive


@dataclass(frozen=True)
class Crew:
    """The workers of a queue."""

    queue: str
    workers_alive: int
    last_seen_at: datetime | None
    seconds_ago: float
    busy_with: Sequence[str]

    @property
    def absence(self) -> str | None:
        """Since when there is none; None if there is."""
        kind = "worker" if self.queue == DEFAULT else "GPU worker"
        if self.last_seen_at is None:
            return f"no {kind} has connected in the last week; start one with python -m worker"
        if not self.workers_alive:
            return f"no {kind} has been seen since {clock(self.last_seen_at)}"
        return None

    @property
    def presence(self) -> str:
        """How many there are, and their last sign of life."""
        kind = "worker" if self.queue == DEFAULT else "GPU worker"
        number = f"{self.workers_alive} {kind}{'s are' if self.workers_alive != 1 else ' is'} alive"
        # Each is told of once, with how many are at it.
        works = [f"{count} with {what}" for what, count in sorted(Counter(self.busy_with).items())]
        busy = (
            f", {'all ' if len(self.busy_with) == self.workers_alive else ''}busy: {', '.join(works)}" if works else ""
        )
        return f"{number}, last seen {max(0.0, self.seconds_ago):.0f} s ago{busy}"


def crew_of(session: Session, queue: str) -> Crew:
    """The workers of a queue as they are now."""
    ago = func.extract("epoch", func.clock_timestamp() - func.max(Worker.last_seen_at))
    works = func.array_remove(func.array_agg(Worker.busy_with).filter(_seen(Worker)), None)
    counts = select(func.count().filter(_seen(Worker)), func.max(Worker.last_seen_at), ago, works)
    alive, seen, seconds_ago, busy = session.execute(counts.where(Worker.queues.contains([queue]))).one()
    return Crew(queue, alive, seen, float(seconds_ago or 0), busy or ())


def clock(time: datetime) -> str:
    """A time for people."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


@dataclass(frozen=True)
class Waiting:
    """How much waits for the workers of a queue, and is under way. Checks are any worker's."""

    name: str
    workers_alive: int
    last_seen_at: datetime | None
    audits_open: int
    chunks_waiting: int
    chunks_running: int
    checks_waiting: int
    checks_running: int
    reason: str | None


def queues(session: Session) -> list[Waiting]:
    """What waits and what runs, by queue."""
    absence = outage(session)
    return [_waiting(session, name, absence) for name in QUEUES]


def _waiting(session: Session, name: str, absence: str | None) -> Waiting:
    crew = crew_of(session, name)
    of_chunks = (
        select(Chunk.state, func.count())
        .join(Audit, Audit.id == Chunk.audit_id)
        .where(Chunk.state.in_(("queued", "running")), Audit.queue == name)
    )
    states = dict(session.execute(of_chunks.group_by(Chunk.state)).all())
    open_states = ("queued", "running", "paused", "finalising")
    audits = session.scalar(select(func.count()).where(Audit.state.in_(open_states), Audit.queue == name)) or 0
    checks, checking = (
        sum(session.scalar(select(func.count()).where(model.state == state)) or 0 for model in (Encoder, Dataset))
        if name == DEFAULT
        else 0
        for state in ("received", "checking")
    )
    return Waiting(
        name=name,
        workers_alive=crew.workers_alive,
        last_seen_at=crew.last_seen_at,
        audits_open=audits,
        chunks_waiting=states.get("queued", 0),
        chunks_running=states.get("running", 0),
        checks_waiting=checks,
        checks_running=checking,
        reason=crew.absence or absence if audits or checks else None,
    )
