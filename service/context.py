"""What a process of the service needs, built once from the settings."""

from dataclasses import dataclass
from typing import Self

from sqlalchemy import Engine

from models.database import SessionFactory, create_database_engine, session_factory
from service.artifacts import ArtifactStore
from service.queue import JobQueue
from service.settings import Settings


@dataclass(frozen=True)
class Context:
    """Settings, database, artifacts and queue."""

    settings: Settings
    engine: Engine
    sessions: SessionFactory
    store: ArtifactStore
    queue: JobQueue

    @classmethod
    def from_settings(cls, settings: Settings, *, pool_size: int = 10) -> Self:
        """Builds them; nothing connects yet.

        Raises:
            ValueError: a setting is missing.
        """
        engine = create_database_engine(settings.require_database_url(), pool_size=pool_size)
        return cls(
            settings=settings,
            engine=engine,
            sessions=session_factory(engine),
            store=ArtifactStore(settings.artifact_root),
            queue=JobQueue(settings),
        )

    def close(self) -> None:
        """Gives connections back."""
        self.queue.app.close()
        self.engine.dispose()
