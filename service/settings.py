"""Deployment settings, from the environment; nothing is read at import."""

import functools
from pathlib import Path
from typing import Literal

from platformdirs import user_data_dir
from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.addresses import Allowed

GIB = 2**30
DAY = 24 * 3600


class Settings(BaseSettings):
    """Settings of the service; each is read from ``SSLMEM_`` and its name in capitals."""

    model_config = SettingsConfigDict(env_prefix="SSLMEM_", frozen=True)

    home: Path = Field(
        default_factory=lambda: Path(user_data_dir("sslmem")),
        description="Folder of the embedded service: database, broker, artifacts, logs, token. "
        "Defaults to the user's data folder.",
    )
    database_url: SecretStr | None = Field(
        default=None, description="PostgreSQL server to use, as postgresql://user:password@host/name. Unset: embedded."
    )
    broker_url: SecretStr | None = Field(
        default=None, description="Redis server to use, as redis://:password@host:6379/0. Unset: embedded."
    )
    artifacts: Path | None = Field(
        default=None, description="Folder for uploaded files, shared by API and workers. Defaults to HOME/artifacts."
    )
    host: str = Field(default="127.0.0.1", description="Address that the API listens on.")
    port: int = Field(default=8000, ge=1, le=65535, description="Port that the API listens on.")
    device: str = Field(default="auto", description="Where workers compute: auto, cpu, cuda or cuda:N.")
    batch_size: int | None = Field(default=None, ge=1, description="Samples per batch. Unset: chosen by the worker.")
    queue: str = Field(default="sslmem", description="Prefix of the queues' names, to share a broker.")
    lease_seconds: float = Field(
        default=60, gt=0, description="A worker that has not renewed its lease for so long counts as lost."
    )
    sweep_seconds: float = Field(default=5, gt=0, le=20, description="How often the sweeper looks for lost work.")
    resend_seconds: float = Field(
        default=20, gt=0, description="After so long without being claimed, work is announced again."
    )
    stall_seconds: float = Field(
        default=600, gt=0, description="A worker's process that shows no progress for so long is killed."
    )
    waiting_seconds: float = Field(
        default=7 * DAY, gt=0, description="An audit, encoder or dataset that no worker takes up for so long ends."
    )
    paused_seconds: float = Field(default=30 * DAY, gt=0, description="An audit that is paused for so long ends.")
    chunk_seconds: float = Field(default=20, gt=0, description="Computing time that one chunk is planned for.")
    max_attempts: int = Field(default=3, ge=1, description="How often a chunk is tried before its audit fails.")
    max_encoder_bytes: int = Field(default=8 * GIB, ge=1, description="Largest checkpoint accepted.")
    max_dataset_bytes: int = Field(default=64 * GIB, ge=1, description="Largest dataset accepted.")
    max_roles_bytes: int = Field(default=GIB, ge=1, description="Largest table of roles accepted.")
    webhook_allow: str = Field(
        default="",
        description="Hosts and networks of one's own that webhooks may call, over http, too, such as "
        "10.1.0.0/16,hooks.intranet. All others must be public and https.",
    )
    webhook_attempts: int = Field(default=9, ge=1, description="How often a delivery to a webhook is tried.")
    webhook_retry_seconds: float = Field(
        default=5, gt=0, description="Pause after the first try of a delivery; each next one is four times as long."
    )
    webhook_timeout_seconds: float = Field(default=10, gt=0, description="What one try of a delivery may take in all.")
    keep_scores_days: float | None = Field(
        default=None, gt=0, description="Scores of an audit that has ended are deleted after so long. Unset: never."
    )
    keep_audits_days: float | None = Field(
        default=None, gt=0, description="An audit that has ended is deleted after so long. Unset: never."
    )
    keep_unused_days: float | None = Field(
        default=None,
        gt=0,
        description="An encoder or dataset that no audit has used for so long is deleted with its files. Unset: never.",
    )
    retention_seconds: float = Field(
        default=60, gt=0, description="How often the sweeper looks for what those three say is to be deleted."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(default="INFO", description="What is logged.")

    @field_validator("webhook_allow")
    @classmethod
    def _can_be_read(cls, text: str) -> str:
        Allowed.of(text)
        return text

    @property
    def artifact_root(self) -> Path:
        """Folder for uploaded files."""
        return self.artifacts or self.home / "artifacts"

    def require_database_url(self) -> str:
        """The database's URL.

        Raises:
            ValueError: it is not set.
        """
        if self.database_url is None:
            raise ValueError("expected SSLMEM_DATABASE_URL to name a PostgreSQL server; it is not set")
        return self.database_url.get_secret_value()

    def require_broker_url(self) -> str:
        """The broker's URL.

        Raises:
            ValueError: it is not set.
        """
        if self.broker_url is None:
            raise ValueError("expected SSLMEM_BROKER_URL to name a Redis server; it is not set")
        return self.broker_url.get_secret_value()


@functools.cache
def get_settings() -> Settings:
    """The settings of this process, read once."""
    return Settings()


def settings_page() -> str:
    """The documentation of all settings, as Markdown."""
    lines = [
        "# Settings",
        "",
        "Environment variables of the service. Generated from `service/settings.py` by `make docs`; do not edit.",
        "",
        "| variable | default | meaning |",
        "|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        default = "" if field.default_factory or field.default is None else f"`{field.default}`"
        lines.append(f"| `SSLMEM_{name.upper()}` | {default} | {field.description} |")
    return "\n".join(lines) + "\n"
