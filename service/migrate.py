"""Brings a database to the newest version, one process at a time."""

import logging
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from models.database import create_database_engine

logger = logging.getLogger(__name__)

# Any number that nothing else in the database uses.
MIGRATION_LOCK = 5_111_953_264


def alembic_config(connection: Connection | None = None) -> Config:
    """Alembic's configuration; with a connection, migrations run on it."""
    config = Config(Path(__file__).parent.parent / "alembic.ini")
    config.attributes["connection"] = connection
    return config


def upgrade(database_url: str, revision: str = "head") -> None:
    """Migrates a database under an advisory lock: of several processes that start at once, one does the work.

    Args:
        database_url: of a PostgreSQL server.
        revision: to end at.
    """
    engine = create_database_engine(database_url)
    try:
        # The lock lives in a session of its own: the migrations' transaction may end before its holder does.
        with engine.connect() as lock, engine.connect() as connection:
            lock.execute(text("SELECT pg_advisory_lock(:key)"), {"key": MIGRATION_LOCK})
            lock.commit()
            try:
                command.upgrade(alembic_config(connection), revision)
                connection.commit()
            finally:
                lock.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": MIGRATION_LOCK})
                lock.commit()
    finally:
        engine.dispose()
