"""Where a page of a listing ended, packed so that clients need not understand it."""

import base64
from typing import TypeVar

from pydantic import TypeAdapter
from pydantic_core import to_json

from service.errors import InvalidRequest

Place = TypeVar("Place")


def encode_cursor(*values: object) -> str:
    """Packs where a page ended."""
    return base64.urlsafe_b64encode(to_json(values)).decode().rstrip("=")


def decode_cursor(cursor: str, place: TypeAdapter[Place]) -> Place:
    """Unpacks where a page ended.

    Raises:
        InvalidRequest: it is not what ``encode_cursor`` packs, or belongs to a listing with other places.
    """
    try:
        return place.validate_json(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)), strict=True)
    except ValueError as error:
        raise InvalidRequest("the cursor is not one that this listing gave out") from error
