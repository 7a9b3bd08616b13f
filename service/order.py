"""The order of an audit's scores: kept in blocks of positions, so that a page by score reads only a few of them."""

import uuid
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from models.audit import ScoreBlock
from service.intake import copy_rows
from sslmem.report.columns import ScoreColumns

BLOCK = 256
ALL = ""  # the order of all roles together


def store_order(session: Session, audit_id: uuid.UUID, positions: NDArray[np.int64], columns: ScoreColumns) -> None:
    """Writes the order of all scores and that of each role, in place of an earlier attempt's."""
    session.execute(delete(ScoreBlock).where(ScoreBlock.audit_id == audit_id))
    scored = ~np.isnan(columns.score)
    falling = np.flatnonzero(scored)
    falling = falling[np.lexsort((positions[falling], -columns.score[falling]))]
    roles = columns.role[falling]
    lists = [(ALL, falling), *((role, falling[roles == role]) for role in sorted(set(roles.tolist())))]
    copy_rows(
        session,
        "score_blocks (audit_id, role, number, first_score, first_position, positions)",
        (
            (audit_id, role, number, float(columns.score[part[0]]), int(positions[part[0]]), positions[part].tolist())
            for role, ordered in lists
            for number, part in enumerate(np.split(ordered, range(BLOCK, len(ordered), BLOCK)))
            if len(part)
        ),
        ("uuid", "varchar", "int4", "float8", "int4", "int4[]"),
    )


def positions_near(
    session: Session, audit_id: uuid.UUID, role: str, *, falling: bool, after: tuple[float, int] | None, limit: int
) -> Sequence[int] | None:
    """Positions among which the next ``limit`` in order of score are.

    Args:
        session: of the transaction.
        audit_id: whose scores.
        role: whose order; :data:`ALL` for all.
        falling: the highest first, or the lowest.
        after: score and position of the row that they follow; None begins.
        limit: how many are wanted.

    Returns:
        None if the audit has no order (yet).
    """
    this = (ScoreBlock.audit_id == audit_id) & (ScoreBlock.role == role)
    number = ScoreBlock.number
    blocks = select(ScoreBlock.positions).where(this)
    if after is not None:
        score, position = after
        begins_before = or_(
            ScoreBlock.first_score > score, (ScoreBlock.first_score == score) & (ScoreBlock.first_position <= position)
        )
        containing = select(number).where(this, ScoreBlock.first_score >= score, begins_before)
        found = session.scalar(containing.order_by(ScoreBlock.first_score, number.desc()).limit(1)) or 0
        blocks = blocks.where(number >= found if falling else number <= found)
    num_blocks = 1 + -(-limit // BLOCK)  # the cursor may lie at the end of its block
    blocks = blocks.order_by(number if falling else number.desc()).limit(num_blocks)
    near = [position for positions in session.scalars(blocks) for position in positions]
    if near:
        return near
    known = session.scalar(select(number).where(ScoreBlock.audit_id == audit_id, ScoreBlock.role == ALL).limit(1))
    return None if known is None else near
