"""Newest-first listings in pages that stay right while rows come and go."""

import uuid
from typing import TypeVar

from pydantic import AwareDatetime, TypeAdapter
from sqlalchemy import ColumnElement, select, tuple_
from sqlalchemy.orm import Session

from models.audit import Audit
from models.dataset import Dataset
from models.encoder import Encoder
from models.webhook import Webhook, WebhookDelivery
from service.cursors import decode_cursor, encode_cursor

Row = TypeVar("Row", Encoder, Dataset, Audit, Webhook, WebhookDelivery)

_AFTER = TypeAdapter(tuple[AwareDatetime, uuid.UUID])


def newest(
    session: Session, model: type[Row], limit: int, cursor: str | None, *where: ColumnElement[bool]
) -> tuple[list[Row], str | None]:
    """Returns a page of rows and the cursor of the next page, if there is one.

    Raises:
        InvalidRequest: the cursor is not one of this listing's.
    """
    statement = select(model).where(*where).order_by(model.created_at.desc(), model.id.desc()).limit(limit + 1)
    if cursor:
        statement = statement.where(tuple_(model.created_at, model.id) < decode_cursor(cursor, _AFTER))
    rows = list(session.scalars(statement))
    if len(rows) <= limit:
        return rows, None
    last = rows[limit - 1]
    return rows[:limit], encode_cursor(last.created_at, last.id)
