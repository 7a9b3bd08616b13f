"""Signs of life of the workers."""

from dataclasses import dataclass

from sqlalchemy import delete, func, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from models.audit import Audit, Chunk
from models.dataset import Dataset
from models.encoder import Encoder
from models.operations import Worker
from service.jobs import seconds

HEARTBEAT_SECONDS = 5
ALIVE_SECONDS = 6 * HEARTBEAT_SECONDS
FORGET_SECONDS = 7 * 24 * 3600


def beat(session: Session, worker_id: str, device: str) -> None:
    """Notes that a worker is alive."""
    statement = postgresql.insert(Worker).values(id=worker_id, device=device, last_seen_at=func.clock_timestamp())
    session.execute(
        statement.on_conflict_do_update(
            index_elements=[Worker.id], set_={"last_seen_at": func.clock_timestamp(), "device": device}
        )
    )
    session.execute(delete(Worker).where(Worker.last_seen_at < func.clock_timestamp() - seconds(FORGET_SECONDS)))


def list_workers(session: Session) -> list[tuple[Worker, bool]]:
    """All workers seen in the last week, latest first, and whether each is alive."""
    alive = Worker.last_seen_at > func.clock_timestamp() - seconds(ALIVE_SECONDS)
    return list(session.execute(select(Worker, alive).order_by(Worker.last_seen_at.desc())))


@dataclass(frozen=True)
class Waiting:
    """How much waits for workers and is under way."""

    workers_alive: int
    audits_open: int
    chunks_waiting: int
    chunks_running: int
    checks_waiting: int


def waiting(session: Session) -> Waiting:
    """Counts what waits and what runs."""
    states = dict(
        session.execute(
            select(Chunk.state, func.count()).where(Chunk.state.in_(("queued", "running"))).group_by(Chunk.state)
        ).all()
    )
    audits = select(func.count()).where(Audit.state.in_(("queued", "running", "paused", "finalising")))
    checks = sum(
        session.scalar(select(func.count()).where(model.state == "received")) or 0 for model in (Encoder, Dataset)
    )
    return Waiting(
        workers_alive=sum(alive for _, alive in list_workers(session)),
        audits_open=session.scalar(audits) or 0,
        chunks_waiting=states.get("queued", 0),
        chunks_running=states.get("running", 0),
        checks_waiting=checks,
    )
