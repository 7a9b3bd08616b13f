"""What all tables share: naming of constraints, ids, times, and the columns that make a row a job."""

import uuid
from datetime import datetime
from typing import Annotated, Any

from sqlalchemy import CheckConstraint, DateTime, MetaData, String, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Id = Annotated[uuid.UUID, mapped_column(primary_key=True, default=uuid.uuid4)]
Time = Annotated[datetime, mapped_column(DateTime(timezone=True))]
Now = Annotated[datetime, mapped_column(DateTime(timezone=True), server_default=func.clock_timestamp())]


class Base(DeclarativeBase):
    """Root of all tables."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {dict[str, Any]: JSONB, str: String}  # noqa: RUF012  SQLAlchemy reads it from the class


class Job:
    """Columns of a row that a worker works off: the row is the job, messages only say that there is one.

    Attributes:
        attempts: how often a worker has claimed it.
        lease_owner: the worker that has it now.
        lease_expires_at: when that worker counts as lost unless it renews.
        available_at: not to be claimed before, for back-off.
        enqueued_at: when a message was last sent for it.
        failure_code: of the last failure, stable.
        failure_detail: of the last failure, a sentence.
    """

    state: Mapped[str]
    attempts: Mapped[int] = mapped_column(default=0, server_default="0")
    lease_owner: Mapped[str | None]
    lease_expires_at: Mapped[Time | None]
    available_at: Mapped[Now]
    enqueued_at: Mapped[Time | None]
    failure_code: Mapped[str | None]
    failure_detail: Mapped[str | None]


def one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    """A constraint that a column has one of the values."""
    allowed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({allowed})", name=column)
