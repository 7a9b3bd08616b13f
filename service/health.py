"""Whether the servers that everything stands on answer."""

from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from service.context import Context
from service.workers import sweeper_lives as lives


def database_answers(context: Context) -> bool:
    """Whether the database answers a query."""
    try:
        with context.engine.connect() as connection:
            connection.execute(text("SELECT 1"))
    except SQLAlchemyError:
        return False
    return True


def sweeper_lives(context: Context) -> bool:
    """Whether a sweeper looks for lost work."""
    try:
        with context.sessions.begin() as session:
            return lives(session)
    except SQLAlchemyError:
        return False


def broker_answers(context: Context) -> bool:
    """Whether the broker answers a ping."""
    url = context.settings.require_broker_url()
    try:
        with Redis.from_url(url, socket_connect_timeout=2, socket_timeout=2) as client:
            return bool(client.ping())
    except RedisError:
        return False
