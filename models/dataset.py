"""Datasets, their samples, and the tables of roles registered for them."""

import uuid
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Id, Job, Now, Time, one_of
from models.encoder import INTAKE_STATES

ROLES = ("shared", "candidate", "independent", "external")


class Dataset(Job, Base):
    """One uploaded file of images.

    Attributes:
        format: what it is, in a few words; null, as what follows, until it was checked.
        num_samples: images in it.
        num_skipped: of them, that cannot be scored.
        num_equal: of them, that are the same file as another one.
        labels: how many samples have which label, of the most common ones.
        released_at: when the last audit that used it was deleted.
    """

    __tablename__ = "datasets"
    __table_args__ = (one_of("state", INTAKE_STATES), UniqueConstraint("artifact_digest", "name"))

    id: Mapped[Id]
    created_at: Mapped[Now]
    name: Mapped[str]
    artifact_digest: Mapped[str] = mapped_column(index=True)
    num_bytes: Mapped[int] = mapped_column(BigInteger)
    num_samples: Mapped[int | None]
    format: Mapped[str | None]
    num_skipped: Mapped[int | None]
    num_equal: Mapped[int | None]
    labels: Mapped[dict[str, Any] | None]
    released_at: Mapped[Time | None]


class DatasetSample(Base):
    """One image of a dataset, in the order of paths.

    Attributes:
        label: its class, where there is one.
        skipped: why it cannot be scored, if so.
        looks: its perceptual hash, 16 bytes; null if it cannot be decoded.
    """

    __tablename__ = "dataset_samples"
    __table_args__ = (
        UniqueConstraint("dataset_id", "path"),
        Index("ix_dataset_samples_skipped", "dataset_id", "position", postgresql_where=text("skipped IS NOT NULL")),
    )

    dataset_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("datasets.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    path: Mapped[str]
    sample_key: Mapped[str]
    label: Mapped[str | None]
    skipped: Mapped[str | None]
    looks: Mapped[bytes | None]


class RoleSet(Base):
    """A table of roles: which samples of a dataset take part in an audit, and as what.

    Attributes:
        twins: equal and alike images by pair of roles; null where that was not looked for.
    """

    __tablename__ = "role_sets"
    __table_args__ = (UniqueConstraint("dataset_id", "digest"),)

    id: Mapped[Id]
    created_at: Mapped[Now]
    dataset_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("datasets.id", ondelete="CASCADE"))
    name: Mapped[str]
    digest: Mapped[str]
    num_samples: Mapped[int]
    counts: Mapped[dict[str, Any]]
    twins: Mapped[list[dict[str, Any]] | None] = mapped_column(JSONB)


class RoleEntry(Base):
    """The role of one sample; positions are contiguous, so that a chunk is a range of them."""

    __tablename__ = "role_entries"
    __table_args__ = (one_of("role", ROLES), Index("ix_role_entries_role", "role_set_id", "role", "position"))

    role_set_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("role_sets.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    path: Mapped[str]
    sample_key: Mapped[str]
    role: Mapped[str]
