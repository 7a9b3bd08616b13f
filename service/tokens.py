"""API tokens: random, shown once, kept as digests."""

import hashlib
import secrets

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from models.operations import ApiToken
from service.errors import Unauthorized

PREFIX = "sslmem_"


def create_token(session: Session, name: str) -> str:
    """Creates a token and returns it; it cannot be shown again."""
    token = PREFIX + secrets.token_urlsafe(32)
    session.add(ApiToken(name=name, digest=_digest(token)))
    session.flush()
    return token


def any_token(session: Session) -> bool:
    """Whether any token exists."""
    return bool(session.scalar(select(exists().select_from(ApiToken))))


def check_token(session: Session, authorization: str | None) -> str:
    """Accepts a request with a valid ``Authorization`` header, and returns the token's name.

    Raises:
        Unauthorized: the header is missing or its token unknown.
    """
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthorized
    name = session.scalar(select(ApiToken.name).where(ApiToken.digest == _digest(token.strip())))
    if name is None:
        raise Unauthorized("the API token is not known")
    return name


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
