"""Runs migrations on the connection that ``service.migrate`` hands over, or on SSLMEM_DATABASE_URL."""

from alembic import context
from sqlalchemy import Connection

from models.database import create_database_engine, metadata
from service.migrate import LOCK_SECONDS
from service.settings import get_settings


def run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata, compare_type=True, compare_server_default=True)
    with context.begin_transaction():
        context.execute(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
        context.run_migrations()


given: Connection | None = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    engine = create_database_engine(get_settings().require_database_url())
    with engine.connect() as connection:
        run(connection)
    engine.dispose()
