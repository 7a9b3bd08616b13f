"""Pages of scores and of listings."""

import base64
import itertools
import json
import uuid

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import func, select, text, update

from models.audit import Score
from models.encoder import Encoder
from service import lifecycle, order, results
from service.context import Context
from service.database import Session
from service.errors import AuditNotSucceeded, InvalidRequest
from service.listing import newest
from service.results import Sort
from sslmem.report.columns import ScoreColumns
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
    audit = rows.request_audit(context, 100)
    rows.score_all(context, audit.id)
    with context.sessions.begin() as session:
        session.execute(update(Score).where(Score.score.is_not(None)).values(score=0.1 + 0.2))
    running = [row.position for row in walk(context, audit.id, sort)]
    rows.finalise(context, audit.id)
    found = [row.position for row in walk(context, audit.id, sort)]
    assert found == running == sorted(set(found), reverse=sort == "score")
    assert len(found) == 95


@pytest.mark.parametrize("block", [1, 3, 256])
def test_pages_by_score_are_the_same_before_and_after_the_summary(
    context: Context, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(order, "BLOCK", block)
    audit = rows.request_audit(context, 60)
    rows.score_all(context, audit.id)
    with context.sessions.begin() as session:  # few different scores, many of them equal
        session.execute(update(Score).where(Score.score.is_not(None)).values(score=func.round(Score.score * 5)))
        session.execute(update(Score).where(Score.role == "shared").values(score=None, skipped="lost"))
    asked: list[tuple[Sort, str | None, int]] = [
        (sort, role, limit)
        for sort in ("score", "-score")
        for role in (None, "candidate", "shared")
        for limit in (1, 7)
    ]

    def pages() -> list[list[int]]:
        return [
            [row.position for row in walk(context, audit.id, sort, role=role, limit=limit)]
            for sort, role, limit in asked
        ]

    running = pages()
    rows.finalise(context, audit.id)
    assert pages() == running
    assert len(running[0]) > 40


def test_page_by_score_reads_few_rows_of_a_summarised_audit(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "BLOCK", 4)
    audit = rows.succeeded_audit(context, 100)
    with context.sessions.begin() as session:
        for role in (order.ALL, "candidate", "no such role"):
            for after in (None, (0.0, 50), (9.0, 0), (-9.0, 0)):
                for falling in (True, False):
                    near = order.positions_near(session, audit.id, role, falling=falling, after=after, limit=6)
                    assert near is not None
                    assert len(near) <= 12


def test_deleting_an_audit_deletes_its_scores_alone(context: Context) -> None:
    first, second = (rows.succeeded_audit(context, count) for count in (20, 30))
    with context.sessions.begin() as session:
        lifecycle.remove_audit(session, first.id)
    with context.sessions.begin() as session:
        found = session.execute(select(Score.audit_id, func.count()).group_by(Score.audit_id)).all()
    assert [tuple(row) for row in found] == [(second.id, 30)]


def test_columns_and_rows_agree_whatever_the_text(context: Context) -> None:
    audit = rows.request_audit(context, 40)
    rows.score_all(context, audit.id)
    strange = ['a,"b"', "line\nbreak\r\n", "", " ", "\\N", "NULL", "nan", "ü", "'", ";"]
    with context.sessions.begin() as session:
        for position, name in enumerate(strange):
            values = {"sample": name, "skipped": name, "score": None, "score_bounded": None}
            session.execute(update(Score).where(Score.position == position).values(**values))
    with context.sessions.begin() as session:
        given = ScoreColumns.of(results.all_rows(session, audit.id))
        positions, found = results.all_columns(session, audit.id)
    assert positions.tolist() == list(range(40))
    for name in vars(given):
        np.testing.assert_array_equal(getattr(found, name), getattr(given, name), strict=True)
    assert found.sample[:10].tolist() == strange


def test_score_that_is_no_number_is_not_taken_for_an_absent_one(context: Context) -> None:
    audit = rows.request_audit(context, 40)
    rows.score_all(context, audit.id)
    with context.sessions.begin() as session:
        session.execute(update(Score).where(Score.position == 3).values(score=float("nan")))
    with context.sessions.begin() as session, pytest.raises(ValueError, match="finite"):
        results.all_columns(session, audit.id)


def test_evidence_is_computed_once(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = rows.succeeded_audit(context, 40)
    first = results.evidence_of(context.sessions, audit.id, confidence=0.9, fdr=0.1)
    calls: list[uuid.UUID] = []

    def all_columns(_: Session, audit_id: uuid.UUID) -> tuple[NDArray[np.int64], ScoreColumns]:
        calls.append(audit_id)
        return np.empty(0, dtype=np.int64), ScoreColumns.of([])

    monkeypatch.setattr(results, "all_columns", all_columns)
    assert results.evidence_of(context.sessions, audit.id, confidence=0.9, fdr=0.1) == first
    assert calls == []
    other = results.evidence_of(context.sessions, audit.id, confidence=0.8, fdr=0.1)
    assert len(calls) == 1
    assert other.metrics != first.metrics


def test_pages_of_one_role_hold_that_role_only(context: Context) -> None:
    audit = rows.succeeded_audit(context, 100)
    for sort in ("sample", "score", "-score"):
        found = walk(context, audit.id, sort, role="candidate")
        assert {row.role for row in found} == {"candidate"}
    assert len(walk(context, audit.id, "sample", role="candidate")) == 25


def test_page_of_one_role_by_sample_reads_no_other_roles_scores(context: Context) -> None:
    """However late in the order that role's samples are."""
    audit = rows.request_audit(context, 4000, chunk_seconds=3600)
    rows.score_all(context, audit.id)
    rows.finalise(context, audit.id)
    count = text(
        "SELECT coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables "
        "WHERE relname = 'scores'"
    )
    with context.sessions.begin() as session:
        session.execute(text("ANALYZE scores, role_entries, audits"))
        before = session.scalars(count).one()
        page = results.page_of_scores(session, audit.id, sort="sample", role="shared", limit=10, cursor=None)
        assert {row.role for row in page.items} == {"shared"}
        assert session.scalars(count).one() - before <= 20


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
