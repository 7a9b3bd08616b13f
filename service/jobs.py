"""Leases on rows: claim, renew, hand back. Every move is one conditional UPDATE by the database's clock."""

import uuid
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, func, update
from sqlalchemy.orm import Session

from models.audit import Audit, Chunk
from models.dataset import Dataset
from models.encoder import Encoder
from models.webhook import WebhookDelivery

JobModel = type[Encoder] | type[Dataset] | type[Chunk] | type[WebhookDelivery]
LeasedModel = JobModel | type[Audit]  # an audit is leased while it is summarised

BACK_OFF_SECONDS = 5


@dataclass(frozen=True)
class States:
    """The names of the states that a job of one kind goes through."""

    waiting: str
    working: str
    failed: str


STATES: dict[LeasedModel, States] = {
    Encoder: States("received", "checking", "refused"),
    Dataset: States("received", "checking", "refused"),
    Chunk: States("queued", "running", "failed"),
    Audit: States("finalising", "finalising", "failed"),
    WebhookDelivery: States("waiting", "sending", "failed"),
}


class LeaseLost(Exception):
    """The row is no longer this worker's: cancelled, deleted, or given to another after too long a silence."""


def seconds(number: float) -> Any:  # noqa: ANN401  an SQL expression
    """An interval of so many seconds."""
    return func.make_interval(0, 0, 0, 0, 0, 0, number)


def claim(session: Session, model: JobModel, row_id: uuid.UUID, owner: str, lease_seconds: float) -> bool:
    """Takes a waiting row, counting the attempt; False if it is not waiting (any more)."""
    states = STATES[model]
    statement = (
        update(model)
        .where(model.id == row_id, model.state == states.waiting, model.available_at <= func.clock_timestamp())
        .values(
            state=states.working,
            attempts=model.attempts + 1,
            lease_owner=owner,
            lease_expires_at=func.clock_timestamp() + seconds(lease_seconds),
        )
        .returning(model.id)
    )
    return session.scalar(statement) is not None


def renew(
    session: Session,
    model: LeasedModel,
    row_id: uuid.UUID,
    owner: str,
    lease_seconds: float,
    **progress: int,
) -> bool:
    """Renews a lease and notes progress; False if the row is no longer the owner's."""
    statement = (
        update(model)
        .where(model.id == row_id, model.state == STATES[model].working, model.lease_owner == owner)
        .values(lease_expires_at=func.clock_timestamp() + seconds(lease_seconds), **progress)
        .returning(model.id)
    )
    return session.scalar(statement) is not None


def leave(session: Session, model: JobModel, row_id: uuid.UUID, owner: str, state: str, **values: Any) -> None:  # noqa: ANN401
    """Moves a row of the owner's to another state and gives the lease up.

    Raises:
        LeaseLost: the row is no longer the owner's.
    """
    statement = (
        update(model)
        .where(model.id == row_id, model.state == STATES[model].working, model.lease_owner == owner)
        .values(state=state, lease_owner=None, lease_expires_at=None, **values)
        .returning(model.id)
    )
    if session.scalar(statement) is None:
        raise LeaseLost


def hand_back(session: Session, model: JobModel, row_id: uuid.UUID, owner: str, **values: Any) -> None:  # noqa: ANN401
    """Gives a row up unharmed, when the worker is asked to stop; the attempt does not count.

    Raises:
        LeaseLost: the row is no longer the owner's.
    """
    again = {"attempts": model.attempts - 1, "enqueued_at": None, **values}
    leave(session, model, row_id, owner, STATES[model].waiting, **again)


def expired(model: LeasedModel) -> ColumnElement[bool]:
    """Whether a row's worker has missed all its beats."""
    lost: ColumnElement[bool] = model.lease_expires_at < func.clock_timestamp()
    return (model.state == STATES[model].working) & lost


def back_off(attempts: int) -> Any:  # noqa: ANN401  an SQL expression
    """When to try again after so many attempts: 5, 10, 20, ... seconds from now."""
    return func.clock_timestamp() + seconds(BACK_OFF_SECONDS * 2 ** (attempts - 1))
