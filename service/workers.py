"""Signs of life of the workers."""

from sqlalchemy import delete, func, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

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
