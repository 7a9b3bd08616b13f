"""Datasets, their samples, and the tables of roles registered for them."""

import uuid
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Id, Job, Now, Time, one_of
from models.encoder import INTAKE_STATES

ROLES = ("shared", "candidate", "independent", "external")


class Dataset(Job, Base):
    """One uploaded zip archive of images.

    Attributes:
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
    released_at: Mapped[Time | None]


class DatasetSample(Base):
    """One image of a dataset, in the order of paths."""

    __tablename__ = "dataset_samples"
    __table_args__ = (UniqueConstraint("dataset_id", "path"),)

    dataset_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("datasets.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    path: Mapped[str]
    sample_key: Mapped[str]


class RoleSet(Base):
    """A table of roles: which samples of a dataset take part in an audit, and as what."""

    __tablename__ = "role_sets"
    __table_args__ = (UniqueConstraint("dataset_id", "digest"),)

    id: Mapped[Id]
    created_at: Mapped[Now]
    dataset_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("datasets.id", ondelete="CASCADE"))
    name: Mapped[str]
    digest: Mapped[str]
    num_samples: Mapped[int]
    counts: Mapped[dict[str, Any]]


class RoleEntry(Base):
    """The role of one sample; positions are contiguous, so that a chunk is a range of them."""

    __tablename__ = "role_entries"
    __table_args__ = (one_of("role", ROLES),)

    role_set_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("role_sets.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    path: Mapped[str]
    sample_key: Mapped[str]
    role: Mapped[str]
