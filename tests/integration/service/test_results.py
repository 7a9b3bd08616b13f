"""Pages of scores and of listings."""

import base64
import itertools
import json
import uuid

import pytest
from sqlalchemy import update

from models.audit import Score
from models.encoder import Encoder
from service import results
from service.context import Context
from service.errors import AuditNotSucceeded, InvalidRequest
from service.listing import newest
from service.results import Sort
from tests.support import rows


def walk(context: Context, audit_id: uuid.UUID, sort: Sort, *, role: str | None = None, limit: int = 7) -> list[Score]:
    """All pages, one after the other."""
    found: list[Score] = []
    cursor = None
    while True:
        with context.sessions.begin() as session:
            page = results.page_of_scores(session, audit_id, sort=sort, role=role, limit=limit, cursor=cursor)
        assert len(page.items) == limit or page.next_cursor is None
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            return found


def test_pages_by_sample_hold_every_row_once_in_order(context: Context) -> None:
    audit = rows.succeeded_audit(context, 100)
    found = walk(context, audit.id, "sample")
    assert [row.sample for row in found] == rows.sample_paths(100)
    assert sum(row.skipped is not None for row in found) == 5


@pytest.mark.parametrize("sort", ["score", "-score"])
def test_pages_by_score_hold_every_scored_row_once_in_order(context: Context, sort: Sort) -> None:
    audit = rows.succeeded_audit(context, 100)
    for limit in (1, 7, 95, 1000):
        found = [row.score for row in walk(context, audit.id, sort, limit=limit) if row.score is not None]
        assert len(found) == 95
        assert found == sorted(found, reverse=sort == "-score")


@pytest.mark.parametrize("sort", ["score", "-score"])
def test_pages_of_equal_scores_hold_every_row_once(context: Context, sort: Sort) -> None:
    audit = rows.succeeded_audit(context, 100)
    with context.sessions.begin() as session:
        session.execute(update(Score).where(Score.score.is_not(None)).values(score=0.1 + 0.2))
    found = [row.position for row in walk(context, audit.id, sort)]
    assert found == sorted(set(found))
    assert len(found) == 95


def test_pages_of_one_role_hold_that_role_only(context: Context) -> None:
    audit = rows.succeeded_audit(context, 100)
    for sort in ("sample", "score", "-score"):
        found = walk(context, audit.id, sort, role="candidate")
        assert {row.role for row in found} == {"candidate"}
    assert len(walk(context, audit.id, "sample", role="candidate")) == 25


def test_pages_of_another_audit_are_not_mixed_in(context: Context) -> None:
    first, second = (rows.succeeded_audit(context, count) for count in (20, 30))
    assert len(walk(context, first.id, "sample")) == 20
    assert len(walk(context, second.id, "sample")) == 30


def test_scores_can_be_read_while_the_audit_runs(context: Context) -> None:
    audit = rows.request_audit(context)
    second = rows.chunks_of(context, audit.id)[1]
    rows.record(context, rows.claim(context, second.id))
    assert [row.position for row in walk(context, audit.id, "sample")] == list(range(16, 32))


def test_stream_and_pages_agree(context: Context) -> None:
    audit = rows.succeeded_audit(context, 100)
    with context.sessions.begin() as session:
        streamed = [(row.sample, row.role, row.score, row.skipped) for row in results.all_rows(session, audit.id)]
    assert streamed == [(row.sample, row.role, row.score, row.skipped) for row in walk(context, audit.id, "sample")]


def test_audit_without_summary_says_so(context: Context) -> None:
    with pytest.raises(AuditNotSucceeded, match="the audit is queued"):
        results.summary_of(rows.request_audit(context))


def packed(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


NOT_CURSORS = [
    "!",
    "a",
    "ä",
    "AAAA",
    packed(None),
    packed([]),
    packed({}),
    packed([1]),
    packed([None, None]),
    packed("sample"),
    packed([["a"], {"b": 1}]),
    packed([True, False]),
    packed([float("nan"), 1]),
    packed([float("inf"), 10**30]),
    packed([[[[]]]]),
]
OTHER_SCORES = [
    *NOT_CURSORS,
    packed(["sample", None]),
    packed(["sample", "1"]),
    packed(["sample", 1.5]),
    packed(["sample", True]),
    packed(["sample", -1]),
    packed(["sample", 2**31]),
    packed(["sample", 10**300]),
    packed(["score", 0.5, 2**63]),
    packed(["score", None, 1]),
    packed(["score", "0.5", 1]),
    packed(["score", float("nan"), 1]),
    packed(["-score", float("inf"), 1]),
    packed(["role", 0.5, 1]),
]


@pytest.mark.parametrize("sort", ["sample", "score", "-score"])
def test_cursor_that_was_not_given_out_is_refused(context: Context, sort: Sort) -> None:
    for cursor in OTHER_SCORES:
        with context.sessions.begin() as session, pytest.raises(InvalidRequest):
            results.page_of_scores(session, uuid.uuid4(), sort=sort, role=None, limit=5, cursor=cursor)


def test_cursor_belongs_to_one_order(context: Context) -> None:
    audit = rows.succeeded_audit(context, 20)
    orders: tuple[Sort, ...] = ("sample", "score", "-score")
    for sort, other in itertools.permutations(orders, 2):
        with context.sessions.begin() as session:
            page = results.page_of_scores(session, audit.id, sort=sort, role=None, limit=5, cursor=None)
            with pytest.raises(InvalidRequest, match="cursor"):
                results.page_of_scores(session, audit.id, sort=other, role=None, limit=5, cursor=page.next_cursor)


# Listings


def names_of(context: Context, limit: int, cursor: str | None) -> tuple[list[str], str | None]:
    with context.sessions.begin() as session:
        found, after = newest(session, Encoder, limit, cursor)
        return [row.name for row in found], after


def add(context: Context, *names: str) -> None:
    for name in names:
        with context.sessions.begin() as session:
            rows.add_encoder(session, name)


def test_listing_is_newest_first(context: Context) -> None:
    add(context, "a", "b", "c")
    assert names_of(context, 10, None) == (["c", "b", "a"], None)


def test_listing_is_paged_while_rows_come_and_go(context: Context) -> None:
    add(context, "a", "b", "c", "d", "e")
    first, cursor = names_of(context, 2, None)
    add(context, "f", "g")
    with context.sessions.begin() as session:
        session.delete(session.query(Encoder).filter_by(name="d").one())
    second, cursor = names_of(context, 2, cursor)
    third, end = names_of(context, 2, cursor)
    assert (first, second, third, end) == (["e", "d"], ["c", "b"], ["a"], None)


def test_last_page_that_is_full_has_no_successor(context: Context) -> None:
    add(context, "a", "b")
    assert names_of(context, 2, None) == (["b", "a"], None)


def test_rows_of_one_moment_are_listed_once_each(context: Context) -> None:
    add(context, *"abcdefg")
    with context.sessions.begin() as session:
        moment = session.query(Encoder).filter_by(name="a").one().created_at
        session.execute(update(Encoder).values(created_at=moment))
    found, cursor = names_of(context, 2, None)
    while cursor:
        more, cursor = names_of(context, 2, cursor)
        found += more
    assert sorted(found) == list("abcdefg")


OTHER_LISTINGS = [
    *NOT_CURSORS,
    packed(["2026-01-01T00:00:00+00:00", "not-a-uuid"]),
    packed(["2026-01-01T00:00:00", "00000000-0000-0000-0000-000000000000"]),
    packed([5, "00000000-0000-0000-0000-000000000000"]),
    packed(["2026-13-01T00:00:00Z", "00000000-0000-0000-0000-000000000000"]),
    packed(["2026-01-01T00:00:00Z", 0]),
    packed(["2026-01-01T00:00:00Z\0", "00000000-0000-0000-0000-000000000000"]),
]


def test_cursor_that_no_listing_gave_out_is_refused(context: Context) -> None:
    for cursor in OTHER_LISTINGS:
        with context.sessions.begin() as session, pytest.raises(InvalidRequest):
            newest(session, Encoder, 5, cursor)


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_cursor_at_the_ends_of_time_is_only_a_place(context: Context, moment: str) -> None:
    add(context, "a")
    cursor = packed([moment, "00000000-0000-0000-0000-000000000000"])
    assert names_of(context, 5, cursor)[0] in (["a"], [])
