"""Brings a database to the newest version, one process at a time."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from psycopg.errors import DeadlockDetected, LockNotAvailable
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from models.database import create_database_engine, metadata

logger = logging.getLogger(__name__)

# Any number that nothing else in the database uses.
MIGRATION_LOCK = 5_111_953_264
# A migration that cannot have a lock at once gives way to the service that runs, and tries again.
LOCK_SECONDS = 3.0
PAUSE_SECONDS = 2.0
TRIES = 30


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

    Raises:
        OperationalError: others have held its tables for some minutes; nothing was changed.
    """
    engine = create_database_engine(database_url)
    try:
        # The lock lives in a session of its own: the migrations' transaction may end before its holder does.
        with engine.connect() as lock, engine.connect() as connection:
            lock.execute(text("SELECT pg_advisory_lock(:key)"), {"key": MIGRATION_LOCK})
            lock.commit()
            try:
                _patiently(lambda: command.upgrade(alembic_config(connection), revision), connection)
            finally:
                lock.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": MIGRATION_LOCK})
                lock.commit()
    finally:
        engine.dispose()


def _patiently(migrate: Callable[[], None], connection: Connection) -> None:
    """Tries again while others hold what a migration must lock: waiting for it would make others wait, too."""
    for left in reversed(range(TRIES)):
        try:
            migrate()
            connection.commit()
        except OperationalError as error:
            connection.rollback()
            if not left or not isinstance(error.orig, LockNotAvailable | DeadlockDetected):
                raise
            logger.warning("the migration waits for others that use the tables; trying again")
            time.sleep(PAUSE_SECONDS)
        else:
            return


def downgrade(database_url: str, revision: str = "base") -> None:
    """Takes a database back to an earlier revision, with the data that newer tables hold lost."""
    engine = create_database_engine(database_url)
    try:
        with engine.connect() as connection:
            command.downgrade(alembic_config(connection), revision)
            connection.commit()
    finally:
        engine.dispose()


def differences(database_url: str) -> list[str]:
    """How the tables of a migrated database differ from the models; empty if they agree."""
    engine = create_database_engine(database_url)
    try:
        with engine.connect() as connection:
            options = {"compare_type": True, "compare_server_default": True}
            context = MigrationContext.configure(connection, opts=options)
            return [str(difference) for difference in compare_metadata(context, metadata)]
    finally:
        engine.dispose()
