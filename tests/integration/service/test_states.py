"""The one table of legal moves: the database, the code and the page agree, and nobody gets around it."""

import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text, update
from sqlalchemy.exc import IntegrityError

from models.audit import Audit
from models.states import AUDIT_MOVES, CHUNK_MOVES, DELIVERY_MOVES, INTAKE_MOVES, TABLES, Moves, pairs
from service.context import Context
from tests.support import rows

PAGE = (Path(__file__).parents[3] / "docs" / "states.md").read_text(encoding="utf-8")
DRAWINGS = re.findall(r"```mermaid\n(.*?)```", PAGE, flags=re.DOTALL)


def test_triggers_hold_the_moves_of_the_code(context: Context) -> None:
    query = text(
        "SELECT tgrelid::regclass::text, encode(tgargs, 'escape') FROM pg_trigger WHERE tgname = 'state_moves'"
    )
    with context.sessions.begin() as session:
        found = {table: set(filter(None, arguments.split("\\000"))) for table, arguments in session.execute(query)}
    assert found == {table: set(pairs(moves)) for table, moves in TABLES.items()}


@pytest.mark.parametrize(
    ("number", "moves"), [(0, AUDIT_MOVES), (1, CHUNK_MOVES), (2, INTAKE_MOVES), (3, DELIVERY_MOVES)]
)
def test_page_draws_the_moves_of_the_code(number: int, moves: Moves) -> None:
    drawn = re.findall(r"^    (\w+) --> (\w+)", DRAWINGS[number], flags=re.MULTILINE)
    assert sorted(f"{before}>{after}" for before, after in drawn) == sorted(pairs(moves))


@pytest.mark.parametrize(
    ("before", "after"),
    [(a, b) for a in AUDIT_MOVES for b in AUDIT_MOVES if a != b and b not in AUDIT_MOVES[a]],
)
def test_database_refuses_every_other_move(context: Context, before: str, after: str) -> None:
    audit = rows.request_audit(context, 16)
    parts: dict[str, dict[str, Any]] = {"succeeded": {"summary": {}}, "failed": {"failure_code": "odd"}}

    def to(state: str) -> None:
        values = {"failure_code": None, **parts.get(state, {})}
        with context.sessions.begin() as session:
            if state == before:
                rows.without_rules(session)
            session.execute(update(Audit).where(Audit.id == audit.id).values(state=state, **values))

    to(before)
    with pytest.raises(IntegrityError, match=rf"a row of audits may not move from {before} to {after}"):
        to(after)
    assert rows.audit_of(context, audit.id).state == before
