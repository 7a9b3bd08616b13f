"""What the outer layers may know of the database layer, so that they need not know SQLAlchemy."""

import re
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

# What a database that is away raises; anything else is a mistake of ours.
UNAVAILABLE = (OperationalError, InterfaceError, PoolTimeoutError)

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")

__all__ = ["UNAVAILABLE", "Session", "limit_lock_wait", "storable"]


def limit_lock_wait(session: Session, seconds: float) -> None:
    """Lets the rest of the transaction wait for any lock at most so long."""
    session.execute(text(f"SET LOCAL lock_timeout = '{seconds}s'"))


def storable(value: Any) -> Any:  # noqa: ANN401  text, or JSON-able data with text in it
    """The value as PostgreSQL can keep it: NUL and lone surrogates, of files that strangers made, become U+FFFD."""
    match value:
        case str():
            return _UNSTORABLE.sub("\ufffd", value)
        case list():
            return [storable(item) for item in value]
        case dict():
            return {storable(key): storable(item) for key, item in value.items()}
        case _:
            return value
