"""Scores of an audit: pages and streams, whose cost does not grow with what is not asked for."""

import tempfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv as pa_csv
from pydantic import Field, FiniteFloat, TypeAdapter
from sqlalchemy import ARRAY, Integer, and_, any_, func, literal, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from models.audit import Audit, AuditEvidence, Score
from models.database import SessionFactory
from models.dataset import RoleEntry
from service.audits import encoders_of, get_audit, lock_audit, suspicions_of
from service.cursors import decode_cursor, encode_cursor
from service.database import storable
from service.errors import AuditNotSucceeded, InvalidRequest, ScoresDeleted
from service.order import ALL, positions_near
from sslmem.report.columns import LISTS, NUMBERS, TEXTS, ScoreColumns
from sslmem.report.evidence import Evidence, gather_evidence
from sslmem.report.rows import ScoreRow
from sslmem.report.summary import Summary

Sort = Literal["sample", "score", "-score"]
BATCH = 5_000
CONFIDENCE, FDR = 0.95, 0.05  # of evidence, unless others are asked for

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


def require_scores(audit: Audit) -> None:
    """Accepts an audit whose scores were not deleted.

    Raises:
        ScoresDeleted: they were.
    """
    if audit.scores_deleted_at is not None:
        when = f"{audit.scores_deleted_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        raise ScoresDeleted(f"the scores of the audit were deleted at {when}; its summary is still there")


def evidence_of(sessions: SessionFactory, audit_id: uuid.UUID, *, confidence: float, fdr: float) -> Evidence:
    """Evidence of an audit that succeeded, computed the first time that it is asked for, then kept.

    Raises:
        AuditNotFound: there is none.
        AuditNotSucceeded: it has no summary (yet).
        ScoresDeleted: it has no scores any more.
    """
    values = {"audit_id": audit_id, "confidence": confidence, "fdr": fdr}
    with sessions.begin() as session:
        audit = get_audit(session, audit_id)
        require_scores(audit)
        summary = summary_of(audit)
        kept = session.get(AuditEvidence, values)
        if kept is not None:
            return Evidence.model_validate(kept.evidence)
        _, columns = all_columns(session, audit_id)
        _still_there(session, audit_id)
        suspicions = suspicions_of(encoders_of(session, audit_id))
    evidence = gather_evidence(columns, summary, confidence=confidence, fdr=fdr, suspicions=suspicions)
    with sessions.begin() as session:
        locked = lock_audit(session, audit_id)
        if locked is not None and locked.scores_deleted_at is None:
            found = storable(evidence.model_dump(mode="json"))
            session.execute(insert(AuditEvidence).values(**values, evidence=found).on_conflict_do_nothing())
    return evidence


def all_columns(session: Session, audit_id: uuid.UUID) -> tuple[NDArray[np.int64], ScoreColumns]:
    """Positions and columns of all scores of an audit, in the order of samples; no Python object is made per number.

    Raises:
        ValueError: a score is not a number.
    """
    driver = session.connection().connection.driver_connection
    if driver is None:
        raise RuntimeError("the session has no connection to the database")
    # Each row tells of as many encoders as any other that has a score.
    widths = session.execute(
        select(*(func.coalesce(func.max(func.cardinality(getattr(Score, name))), 0) for name in LISTS)).where(
            Score.audit_id == audit_id
        )
    ).one()
    lists = [f"{name}[{i + 1}]" for name, width in zip(LISTS, widths, strict=True) for i in range(width)]
    names = ["position", *TEXTS, *NUMBERS, *lists]
    query = f"COPY (SELECT {', '.join(names)} FROM scores WHERE audit_id = %s ORDER BY position) TO STDOUT CSV"  # noqa: S608  names of ours
    types = dict.fromkeys(names, pa.float64()) | dict.fromkeys(TEXTS, pa.string()) | {"position": pa.int64()}
    with driver.cursor() as cursor, cursor.copy(query, (audit_id,)) as copy, tempfile.TemporaryFile() as file:
        for block in copy:
            file.write(block)
        if not file.tell():
            return np.empty(0, dtype=np.int64), ScoreColumns.of([])
        file.seek(0)
        table = pa_csv.read_csv(
            file,
            read_options=pa_csv.ReadOptions(column_names=names),
            parse_options=pa_csv.ParseOptions(newlines_in_values=True),
            convert_options=pa_csv.ConvertOptions(
                column_types=types, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
            ),
        )
    if pc.any(pc.is_nan(table["score"])).as_py():
        raise ValueError("expected finite scores; one is not a number")
    values = {name: table[name].to_numpy() for name in ("position", *TEXTS, *NUMBERS)}
    for name in LISTS:
        columns = [table[one].to_numpy() for one in lists if one.startswith(f"{name}[")]
        values[name] = np.stack(columns, axis=1) if columns else np.empty((len(table), 0))
    return values.pop("position"), ScoreColumns(**values)


def page_of_scores(
    session: Session, audit_id: uuid.UUID, *, sort: Sort, role: str | None, limit: int, cursor: str | None
) -> Page:
    """Returns a page of scores; sorted by score, skipped samples are left out, and rising is the reverse of falling.

    Until the audit is summarised, a page by score sorts all that it has so far.

    Raises:
        InvalidRequest: the cursor is not one of this listing's.
    """
    statement = select(Score).where(Score.audit_id == audit_id)
    if role is not None:
        statement = statement.where(Score.role == role)
    if sort == "sample":
        after_position = decode_cursor(cursor, _AFTER_SAMPLE)[1] if cursor else -1
        statement = statement.where(Score.position > after_position).order_by(Score.position)
        near = None if role is None else _positions_of(session, audit_id, role, after_position, limit + 1)
    else:
        falling, after = sort == "-score", None
        order = (Score.score.desc(), Score.position) if falling else (Score.score.asc(), Score.position.desc())
        statement = statement.where(Score.score.is_not(None)).order_by(*order)
        if cursor:
            found, score, position = decode_cursor(cursor, _AFTER_SCORE)
            if found != sort:
                raise InvalidRequest(f"the cursor belongs to the listing sorted by {found}")
            after = (score, position)
            beyond = Score.score < score if falling else Score.score > score
            behind = Score.position > position if falling else Score.position < position
            statement = statement.where(or_(beyond, and_(Score.score == score, behind)))
        near = positions_near(session, audit_id, role or ALL, falling=falling, after=after, limit=limit + 1)
    if near is not None:
        statement = statement.where(Score.position == any_(literal(near, ARRAY(Integer))))
    rows = list(session.scalars(statement.limit(limit + 1)))
    if len(rows) <= limit:
        return Page(rows, None)
    last = rows[limit - 1]
    place = (last.position,) if sort == "sample" else (last.score, last.position)
    return Page(rows[:limit], encode_cursor(sort, *place))


def _positions_of(session: Session, audit_id: uuid.UUID, role: str, after: int, limit: int) -> Sequence[int] | None:
    """Where the next samples of a role are, which the table of roles knows; None while some have no score yet."""
    audit = get_audit(session, audit_id)
    if audit.summary is None:
        return None
    entries = select(RoleEntry.position).where(RoleEntry.role_set_id == audit.role_set_id, RoleEntry.role == role)
    return session.scalars(entries.where(RoleEntry.position > after).order_by(RoleEntry.position).limit(limit)).all()


def all_rows(session: Session, audit_id: uuid.UUID) -> Iterator[ScoreRow]:
    """Streams all scores of an audit in the order of samples, through a cursor on the server.

    Raises:
        ScoresDeleted: they were, perhaps a moment ago; so nobody takes a part for the whole.
    """
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
    with session.execute(statement) as found:
        _still_there(session, audit_id)
        for row in found:
            yield ScoreRow(*row)


def _still_there(session: Session, audit_id: uuid.UUID) -> None:
    """Accepts rows that were chosen a moment ago: what is deleted from now on is still among them.

    Raises:
        ScoresDeleted: they were deleted before.
    """
    if session.scalar(select(Audit.scores_deleted_at).where(Audit.id == audit_id)) is not None:
        raise ScoresDeleted
