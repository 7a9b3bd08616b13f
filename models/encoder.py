"""Encoders: uploaded checkpoints and what the check by a worker found."""

from typing import Any

from sqlalchemy import BigInteger, Float, UniqueConstraint
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Id, Job, Now, Time, one_of

INTAKE_STATES = ("received", "checking", "ready", "refused")


# What makes a registration the same as an earlier one.
REGISTRATION = (
    "artifact_digest",
    "name",
    "given_architecture",
    "given_input_size",
    "mean",
    "std",
    "method",
    "branch",
    "options",
)


class Encoder(Job, Base):
    """One checkpoint with its architecture and preprocessing.

    Attributes:
        artifact_digest: of the file as uploaded.
        given_architecture: as it was registered, None if left to the check; ``architecture`` is then filled in by it.
        given_input_size: likewise.
        mean: of the normalisation, as it was registered; empty if that was left to the file. What is in effect stands
            in the load report.
        std: likewise.
        branch: which of several encoders in the file, as it was registered; None is its producer's default.
        options: what weights do not show, as it was registered.
        weights_artifact_digest: of the plain safetensors file made from it.
        method: how it was trained, if that was said.
        weights_digest: of the loaded tensors, as reports show it.
        load_report: how the entries of the file met the architecture's.
        views_per_second: one encoder's forward rate when it was checked, for planning.
        released_at: when the last audit that used it was deleted.
    """

    __tablename__ = "encoders"
    __table_args__ = (
        one_of("state", INTAKE_STATES),
        UniqueConstraint(
            *REGISTRATION,
            name="uq_encoders_registration",
            postgresql_nulls_not_distinct=True,
        ),
    )

    id: Mapped[Id]
    created_at: Mapped[Now]
    name: Mapped[str]
    artifact_digest: Mapped[str] = mapped_column(index=True)
    num_bytes: Mapped[int] = mapped_column(BigInteger)
    given_architecture: Mapped[str | None]
    given_input_size: Mapped[int | None]
    architecture: Mapped[str | None]
    input_size: Mapped[int | None]
    mean: Mapped[list[float]] = mapped_column(ARRAY(Float))
    std: Mapped[list[float]] = mapped_column(ARRAY(Float))
    method: Mapped[str | None]
    branch: Mapped[str | None]
    options: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")
    weights_artifact_digest: Mapped[str | None] = mapped_column(index=True)
    weights_digest: Mapped[str | None]
    load_report: Mapped[dict[str, Any] | None]
    representation_dim: Mapped[int | None]
    views_per_second: Mapped[float | None]
    released_at: Mapped[Time | None]

    @property
    def suspicions(self) -> list[str]:
        """What speaks against it, as the check found; with any it is suspect."""
        return list((self.load_report or {}).get("suspicions", []))

    def in_effect(self, name: str, told: Any) -> Any:  # noqa: ANN401  of the setting's type
        """The value of a setting that the check settled, or what was told before it is checked."""
        setting = (self.load_report or {}).get("settings", {}).get(name)
        return told if setting is None else setting["value"]
