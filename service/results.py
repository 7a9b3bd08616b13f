"""Scores of an audit: pages and streams, whose cost does not grow with what is not asked for."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, TypeAdapter
from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session

from models.audit import Audit, Score
from service.cursors import decode_cursor, encode_cursor
from service.errors import AuditNotSucceeded, InvalidRequest
from sslmem.report.rows import ScoreRow
from sslmem.report.summary import Summary

Sort = Literal["sample", "score", "-score"]
BATCH = 5_000

# Where a page ended: the order it is in, the last row's score if it is by score, and its position.
_Position = Annotated[int, Field(ge=0, lt=2**31)]
_AFTER_SAMPLE = TypeAdapter(tuple[Literal["sample"], _Position])
_AFTER_SCORE = TypeAdapter(tuple[Sort, FiniteFloat, _Position])


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
    if sort == "sample":
        statement = statement.order_by(Score.position)
        if cursor:
            _, position = decode_cursor(cursor, _AFTER_SAMPLE)
            statement = statement.where(Score.position > position)
    else:
        order = Score.score.desc() if sort == "-score" else Score.score.asc()
        statement = statement.where(Score.score.is_not(None)).order_by(order, Score.position)
        if cursor:
            found, score, position = decode_cursor(cursor, _AFTER_SCORE)
            if found != sort:
                raise InvalidRequest(f"the cursor belongs to the listing sorted by {found}")
            beyond = Score.score < score if sort == "-score" else Score.score > score
            statement = statement.where(or_(beyond, and_(Score.score == score, Score.position > position)))
    rows = list(session.scalars(statement.limit(limit + 1)))
    if len(rows) <= limit:
        return Page(rows, None)
    last = rows[limit - 1]
    place = (last.position,) if sort == "sample" else (last.score, last.position)
    return Page(rows[:limit], encode_cursor(sort, *place))


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
            Score.sample_key,
            Score.alignment_targets,
            Score.alignment_references,
            Score.reference_spread,
            Score.num_views,
        )
        .where(Score.audit_id == audit_id)
        .order_by(Score.position)
        .execution_options(yield_per=BATCH)
    )
    for row in session.execute(statement):
        yield ScoreRow(*row)
