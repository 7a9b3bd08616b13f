"""Scores of an audit: pages and streams, whose cost does not grow with what is not asked for."""

import base64
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session

from models.audit import Audit, Score
from service.errors import AuditNotSucceeded, InvalidRequest
from sslmem.report.rows import ScoreRow
from sslmem.report.summary import Summary

Sort = Literal["sample", "score", "-score"]
BATCH = 5_000


@dataclass(frozen=True)
class Page:
    """Some rows, and where the next page begins if there is one."""

    items: list[Score]
    next_cursor: str | None


def summary_of(audit: Audit) -> Summary:
    """An audit's summary.

    Raises:
        AuditNotSucceeded: it has none (yet).
    """
    if audit.summary is None:
        raise AuditNotSucceeded(f"the audit is {audit.state}; it has a summary when it has succeeded")
    return Summary.model_validate(audit.summary)


def page_of_scores(
    session: Session, audit_id: uuid.UUID, *, sort: Sort, role: str | None, limit: int, cursor: str | None
) -> Page:
    """Returns a page of scores; sorted by score, skipped samples are left out.

    Raises:
        InvalidRequest: the cursor is not one of this listing's.
    """
    statement = select(Score).where(Score.audit_id == audit_id)
    if role is not None:
        statement = statement.where(Score.role == role)
    after = decode_cursor(cursor, 2) if cursor else None
    if sort == "sample":
        statement = statement.order_by(Score.position)
        if after:
            statement = statement.where(Score.position > after[1])
    else:
        order = Score.score.desc() if sort == "-score" else Score.score.asc()
        statement = statement.where(Score.score.is_not(None)).order_by(order, Score.position)
        if after:
            beyond = Score.score < after[0] if sort == "-score" else Score.score > after[0]
            statement = statement.where(or_(beyond, and_(Score.score == after[0], Score.position > after[1])))
    rows = list(session.scalars(statement.limit(limit + 1)))
    more = len(rows) > limit
    last = rows[limit - 1] if more else None
    return Page(rows[:limit], encode_cursor(last.score, last.position) if last else None)


def all_rows(session: Session, audit_id: uuid.UUID) -> Iterator[ScoreRow]:
    """Streams all scores of an audit in the order of samples, through a cursor on the server."""
    statement = (
        select(
            Score.sample,
            Score.role,
            Score.score,
            Score.score_bounded,
            Score.standard_error,
            Score.alignment_target,
            Score.alignment_reference,
            Score.skipped,
        )
        .where(Score.audit_id == audit_id)
        .order_by(Score.position)
        .execution_options(yield_per=BATCH)
    )
    for row in session.execute(statement):
        yield ScoreRow(*row)


def encode_cursor(*values: Any) -> str:  # noqa: ANN401  JSON-able values
    """Packs where a page ended."""
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode().rstrip("=")


def decode_cursor(cursor: str, length: int) -> list[Any]:
    """Unpacks where a page ended.

    Raises:
        InvalidRequest: it is not what ``encode_cursor`` packs.
    """
    try:
        values = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except ValueError as error:
        raise InvalidRequest("the cursor is not one that this service gave out") from error
    if not isinstance(values, list) or len(values) != length:
        raise InvalidRequest("the cursor belongs to another listing")
    return values
