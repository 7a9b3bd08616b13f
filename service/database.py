"""The names of the database layer that the outer layers may use, so that they need not know SQLAlchemy."""

from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

# What a database that is away raises; anything else is a mistake of ours.
UNAVAILABLE = (OperationalError, InterfaceError, PoolTimeoutError)

__all__ = ["UNAVAILABLE", "Session"]
