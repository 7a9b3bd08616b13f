"""The same request again makes nothing new: by a key that the client chose.

As draft-ietf-httpapi-idempotency-key-header has it; where that leaves a choice, docs/http-api.md says what was chosen.
"""

import hashlib
import json
import uuid
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from models.operations import IdempotencyKey
from service.errors import KeyReused, KeySpent
from service.jobs import seconds

KEPT_SECONDS = 7 * 24 * 3600


class Resource(Protocol):
    """A row that a request makes."""

    id: Any


Made = TypeVar("Made", bound=Resource)


def digest_of(request: dict[str, Any]) -> str:
    """``sha256:`` and the hexadecimal digest of a request in one fixed spelling."""
    canonical = json.dumps(request, sort_keys=True, separators=(",", ":"), default=str)
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def once(
    session: Session,
    project: str,
    key: str | None,
    request: dict[str, Any],
    model: type[Made],
    make: Callable[[], tuple[Made, bool]],
) -> tuple[Made, bool]:
    """Makes what a request asks for, or returns what the request with the same key made before.

    The key is remembered if the transaction commits: one of a request that failed may be used again. Until it ends,
    others with the same key wait. Keys are kept for a week.

    Args:
        session: of the transaction.
        project: whose key it is.
        key: that came with the request; None makes without one.
        request: everything that must be the same again: the route, the fields, the digest of a body.
        model: table of what is made.
        make: makes it; returns it, and whether it is new.

    Returns:
        What was made, and whether this request made it.

    Raises:
        KeyReused: the key came with another request.
        KeySpent: what the request made was deleted.
    """
    if key is None:
        return make()
    digest = digest_of(request)
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"{project} {key}", 0))))
    known = session.get(IdempotencyKey, (project, key))
    if known is None:
        made, new = make()
        session.add(IdempotencyKey(project=project, key=key, request_digest=digest, resource_id=made.id))
        session.flush()
        return made, new
    if known.request_digest != digest:
        raise KeyReused(f"the Idempotency-Key {key!r} came with another request before; choose another key")
    found = _find(session, model, known.resource_id)
    if found is None:
        raise KeySpent(f"what the request with the Idempotency-Key {key!r} made was deleted; choose another key")
    return found, False


def _find(session: Session, model: type[Made], resource_id: uuid.UUID) -> Made | None:
    return session.get(model, resource_id)


def forget(session: Session) -> None:
    """Deletes keys that are older than a week."""
    old = IdempotencyKey.created_at < func.clock_timestamp() - seconds(KEPT_SECONDS)
    session.execute(delete(IdempotencyKey).where(old))
