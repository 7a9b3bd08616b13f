"""Who may ask, and who works: API tokens, and signs of life of workers and sweepers."""

import uuid

from sqlalchemy import String
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Id, Now, Time


class ApiToken(Base):
    """A bearer token, of which only the digest is kept."""

    __tablename__ = "api_tokens"

    id: Mapped[Id]
    created_at: Mapped[Now]
    name: Mapped[str]
    digest: Mapped[str] = mapped_column(unique=True)


class Worker(Base):
    """A worker process, with its last sign of life.

    Attributes:
        device: where it computes.
        queues: that it takes work from.
        busy_with: what its process is at, in a few words; null if at nothing.
    """

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(primary_key=True)
    device: Mapped[str]
    queues: Mapped[list[str]] = mapped_column(ARRAY(String), default=["default"], server_default="{default}")
    started_at: Mapped[Now]
    last_seen_at: Mapped[Time]
    busy_with: Mapped[str | None]


class Sweeper(Base):
    """A process that looks for lost work, with the last time that it did.

    Attributes:
        broker_away_since: since when the broker does not answer it; null if it does.
    """

    __tablename__ = "sweepers"

    id: Mapped[str] = mapped_column(primary_key=True)
    started_at: Mapped[Now]
    last_seen_at: Mapped[Time]
    broker_away_since: Mapped[Time | None]


class IdempotencyKey(Base):
    """A key that a creating request came with, and what that made; the same key again gives the same.

    Attributes:
        project: whose key it is.
        request_digest: of the request, which must be the same again.
        resource_id: of what it made.
    """

    __tablename__ = "idempotency_keys"

    project: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_digest: Mapped[str]
    resource_id: Mapped[uuid.UUID]
    created_at: Mapped[Now] = mapped_column(index=True)
