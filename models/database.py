"""Engine and sessions from a URL."""

from sqlalchemy import Engine, create_engine
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import Session, sessionmaker

from models import audit, dataset, encoder, event, operations, webhook  # noqa: F401  registers the tables
from models.base import Base

SessionFactory = sessionmaker[Session]

# A peer that vanished without a word, its machine or the network between gone, is noticed within half a minute instead
# of the system's two hours: by a program that waits for an answer, and by the server that keeps a vanished one's locks.
KEEPALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 25_000}
SERVER_KEEPALIVE = {
    "tcp_keepalives_idle": 10,
    "tcp_keepalives_interval": 5,
    "tcp_keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}
metadata = Base.metadata


def create_database_engine(url: str, *, pool_size: int = 10) -> Engine:
    """Creates an engine for a PostgreSQL URL.

    Raises:
        ValueError: the URL is not one of PostgreSQL.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ValueError(f"expected a URL such as postgresql://user:password@host/name ({error})") from error
    if parsed.get_backend_name() != "postgresql":
        raise ValueError(f"expected a postgresql:// URL; found {parsed.get_backend_name()}://")
    return create_engine(
        parsed.set(drivername="postgresql+psycopg"),
        pool_size=pool_size,
        hide_parameters=True,  # of statements in error messages: secrets are among them
        pool_pre_ping=True,  # a restarted database costs one reconnect, not one failed request per connection
        connect_args={"connect_timeout": 5, "application_name": "sslmem", **KEEPALIVE, **_options(parsed)},
    )


def _options(url: URL) -> dict[str, str]:
    """Settings of our sessions on the server, unless the URL has options of its own."""
    if "options" in url.query:
        return {}
    return {"options": " ".join(f"-c {name}={value}" for name, value in SERVER_KEEPALIVE.items())}


def session_factory(engine: Engine) -> SessionFactory:
    """Returns the maker of sessions on an engine."""
    return sessionmaker(engine, expire_on_commit=False)
