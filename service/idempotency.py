"""The same request again makes nothing new: by a key that the client chose."""

import hashlib
import json
import uuid
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from models.operations import IdempotencyKey
from service.errors import KeyReused


def digest_of(request: dict[str, Any]) -> str:
    """``sha256:`` and the hexadecimal digest of a request in one fixed spelling."""
    canonical = json.dumps(request, sort_keys=True, separators=(",", ":"), default=str)
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def recall(session: Session, project: str, key: str | None, request_digest: str) -> uuid.UUID | None:
    """What a request with this key made before; None if there was none, or no key.

    Until the transaction ends, others with the same key wait.

    Raises:
        KeyReused: the key came with another request.
    """
    if key is None:
        return None
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"{project} {key}", 0))))
    found = session.get(IdempotencyKey, (project, key))
    if found is None:
        return None
    if found.request_digest != request_digest:
        raise KeyReused(f"the Idempotency-Key {key!r} came with another request before; choose another key")
    return found.resource_id


def remember(session: Session, project: str, key: str | None, request_digest: str, resource_id: uuid.UUID) -> None:
    """Notes what a request with a key made; does nothing without one."""
    if key is not None:
        session.add(IdempotencyKey(project=project, key=key, request_digest=request_digest, resource_id=resource_id))
        session.flush()
