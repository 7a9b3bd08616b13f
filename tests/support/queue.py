"""The real queue as tests look at it."""

import base64
import json
from typing import Any

from redis import Redis

from service.settings import Settings


def messages(settings: Settings) -> list[tuple[str, str]]:
    """The messages that wait in the queue, oldest first, as (task, id)."""
    with Redis.from_url(settings.require_broker_url()) as redis:
        waiting: list[Any] = redis.lrange(settings.queue, 0, -1)
    return [_decode(message) for message in reversed(waiting)]


def take(settings: Settings, seconds: float = 0.2) -> tuple[str, str] | None:
    """Takes the oldest message, waiting so long for one."""
    with Redis.from_url(settings.require_broker_url()) as redis:
        found: Any = redis.brpop([settings.queue], seconds)
    return None if found is None else _decode(found[1])


def clear(settings: Settings) -> None:
    """Loses all messages, as a broker that lost its data would."""
    with Redis.from_url(settings.require_broker_url()) as redis:
        redis.delete(settings.queue)


def _decode(message: bytes) -> tuple[str, str]:
    envelope = json.loads(message)
    arguments, _, _ = json.loads(base64.b64decode(envelope["body"]))
    return envelope["headers"]["task"], arguments[0]
