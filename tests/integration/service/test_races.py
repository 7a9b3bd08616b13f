"""Races that only luck would hit, driven by locks and by a line that loses answers; no test here sleeps.

Each holds a row's lock, lets both sides arrive at it, sees in the database that both wait, and lets go: whoever wins,
the outcome must be one of the few that are right. The commit whose answer is lost is committed by the real server.
"""

import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx2 as httpx
import psycopg
import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from api.main import create_app
from models.audit import Audit, Chunk, Score
from service import chunks, jobs, lifecycle
from service.context import Context
from service.jobs import LeaseLost
from service.queue import FINALISE_AUDIT, SCORE_CHUNK
from service.settings import Settings
from service.sweep import sweep
from tests.conftest import Servers
from tests.support import rows
from tests.support.live import served
from tests.support.proxy import Line
from tests.support.queue import clear, messages
from tests.support.waiting import eventually
from worker.board import Board
from worker.run import Runner

Act = Callable[[], Any]


def at_once(database_url: str, audit_id: uuid.UUID, *acts: Act) -> list[Any]:
    """Lets all arrive at an audit's lock before any gets it; returns what each gave or raised, in their order."""
    outcomes: list[Any] = [None] * len(acts)

    def run(number: int) -> None:
        try:
            outcomes[number] = acts[number]()
        except Exception as error:  # noqa: BLE001  judged by the test
            outcomes[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(acts))]
    with psycopg.connect(database_url) as holder, psycopg.connect(database_url, autocommit=True) as observer:
        holder.execute("SELECT 1 FROM audits WHERE id = %s FOR UPDATE", (audit_id,))
        for number, thread in enumerate(threads, start=1):
            thread.start()
            eventually(lambda number=number: waiting(observer) == number)  # type: ignore[misc]
        holder.rollback()
        for thread in threads:
            thread.join()
    return outcomes


def waiting(observer: psycopg.Connection) -> int:
    found = observer.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    ).fetchone()
    assert found is not None
    return int(found[0])


@pytest.fixture(params=[False, True], ids=["as named", "the other way round"])
def both_orders(request: pytest.FixtureRequest) -> Callable[[Sequence[Act]], Sequence[Act]]:
    """Who comes first to a lock gets it first: both orders are tried."""
    return lambda acts: list(reversed(acts)) if request.param else acts


def within(context: Context, act: Callable[..., Any], *arguments: Any) -> Act:  # noqa: ANN401
    def run() -> Any:  # noqa: ANN401
        with context.sessions.begin() as session:
            return act(session, *arguments)

    return run


def expire(context: Context) -> None:
    with context.sessions.begin() as session:
        session.execute(update(Chunk).values(lease_expires_at=func.clock_timestamp() - jobs.seconds(1)))


def scored(context: Context, audit_id: uuid.UUID) -> list[int]:
    with context.sessions.begin() as session:
        return list(session.scalars(select(Score.position).where(Score.audit_id == audit_id).order_by(Score.position)))


def states(context: Context, audit_id: uuid.UUID) -> tuple[str, list[str]]:
    chunk_states = [chunk.state for chunk in rows.chunks_of(context, audit_id)]
    return rows.audit_of(context, audit_id).state, chunk_states


# The five of which no work may be lost, doubled or announced for nothing


def test_two_workers_claiming_one_chunk_get_it_once(context: Context, database_url: str) -> None:
    audit = rows.request_audit(context, 16)
    (chunk,) = rows.chunks_of(context, audit.id)
    plans = at_once(
        database_url, audit.id, *(within(context, chunks.claim_chunk, chunk.id, owner, 60) for owner in "ab")
    )
    assert sorted(plan is None for plan in plans) == [False, True]
    assert rows.chunks_of(context, audit.id)[0].attempts == 1


Orders = Callable[[Sequence[Act]], Sequence[Act]]


def test_lease_expiring_between_compute_and_commit_is_decided_once(
    context: Context, database_url: str, both_orders: Orders
) -> None:
    """The sweeper and the worker that comes back: either the scores are there, or the chunk is another's to take."""
    audit = rows.request_audit(context, 16)
    plan = rows.claim(context, rows.chunks_of(context, audit.id)[0].id)
    expire(context)
    acts = [lambda: rows.record(context, plan), within(context, sweep, context.queue, context.settings)]
    outcomes = at_once(database_url, audit.id, *both_orders(acts))
    if any(isinstance(outcome, LeaseLost) for outcome in outcomes):
        assert (states(context, audit.id), scored(context, audit.id)) == (("running", ["queued"]), [])
        rows.record(context, rows.claim(context, plan.chunk_id, "another"), "another")
    assert states(context, audit.id) == ("finalising", ["done"])
    assert scored(context, audit.id) == list(range(16))


@contextmanager
def by_line(settings: Settings, servers: Servers) -> Iterator[tuple[Settings, Line]]:
    """The settings of a program whose connections to the database go by a line of its own."""
    line = Line(servers.postgres.port)
    try:
        url = line.url(settings.require_database_url())
        yield settings.model_copy(update={"database_url": SecretStr(url)}), line
    finally:
        line.close()


def test_commit_of_scores_whose_acknowledgement_is_lost_neither_loses_nor_doubles_them(
    context: Context, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = rows.request_audit(context, 32)
    first, second = rows.chunks_of(context, audit.id)
    with by_line(context.settings, servers) as (settings, line):
        runner = Runner(settings, "worker:1", Board())
        monkeypatch.setattr(runner, "_score", lambda plan, _: _scores_before_a_lost_answer(plan, line))
        runner.score_chunk(first.id)
        assert line.swallowed.is_set()
        assert states(context, audit.id) == ("running", ["done", "queued"])
        line.swallowed.clear()
        runner.score_chunk(second.id)  # the worker goes on with a new connection, and loses the next answer, too
        assert line.swallowed.is_set()
        runner.context.close()
    assert states(context, audit.id) == ("finalising", ["done", "done"])
    assert scored(context, audit.id) == list(range(32))
    assert [chunk.attempts for chunk in rows.chunks_of(context, audit.id)] == [1, 1]
    assert [chunk.failure_code for chunk in rows.chunks_of(context, audit.id)] == [None, None]
    clear(context.settings)
    with context.sessions.begin() as session:  # the worker did not get to know that it was the last: the sweeper tells
        sweep(session, context.queue, context.settings.model_copy(update={"resend_seconds": 1e-6}))
    assert messages(context.settings) == [(FINALISE_AUDIT, str(audit.id))]


def _scores_before_a_lost_answer(plan: chunks.ChunkPlan, line: Line) -> list[chunks.RecordedScore]:
    line.swallow_commit()
    return rows.scores_for(plan)


def test_commit_of_a_claim_whose_acknowledgement_is_lost_is_freed_by_its_lease(
    context: Context, servers: Servers
) -> None:
    audit = rows.request_audit(context, 16)
    (chunk,) = rows.chunks_of(context, audit.id)
    with by_line(context.settings, servers) as (settings, line):
        broken = Context.from_settings(settings)
        line.swallow_commit()
        with pytest.raises(OperationalError):
            rows.claim(broken, chunk.id)
        broken.close()
    assert states(context, audit.id) == ("running", ["running"])
    expire(context)
    with context.sessions.begin() as session:
        sweep(session, context.queue, context.settings)
    rows.record(context, rows.claim(context, chunk.id, "another"), "another")
    assert scored(context, audit.id) == list(range(16))


def request_body(context: Context) -> dict[str, Any]:
    paths = rows.sample_paths(16)
    with context.sessions.begin() as session:
        target, reference = (rows.add_encoder(session, name) for name in ("target", "reference"))
        dataset = rows.add_dataset(session, paths)
        return {
            "target_ids": [str(target.id)],
            "reference_ids": [str(reference.id)],
            "dataset_id": str(dataset.id),
            "role_set_id": str(rows.add_roles(session, dataset, paths).id),
            "spec": {"views": 4},
        }


def audits_there(context: Context) -> list[uuid.UUID]:
    with context.sessions.begin() as session:
        return list(session.scalars(select(Audit.id)))


@pytest.mark.parametrize("how", [{"headers": {"Idempotency-Key": "once"}, "force": True}, {"headers": {}}])
def test_request_whose_commit_is_not_acknowledged_makes_one_audit_when_it_comes_again(
    context: Context, servers: Servers, token: str, how: dict[str, Any]
) -> None:
    body = {**request_body(context), "force": how.get("force", False)}
    with by_line(context.settings, servers) as (settings, line), TestClient(create_app(settings)) as client:
        headers = {"Authorization": f"Bearer {token}", **how["headers"]}
        client.get("/v1/audits", headers=headers)
        with _at_the_commit_of_an_audit(line):
            broken = client.post("/v1/audits", json=body, headers=headers)
        assert line.swallowed.is_set()
        assert (broken.status_code, broken.json()["code"]) == (503, "database-unavailable")
        again = client.post("/v1/audits", json=body, headers=headers)
    assert again.status_code == 200
    assert audits_there(context) == [uuid.UUID(again.json()["id"])]


@contextmanager
def _at_the_commit_of_an_audit(line: Line) -> Iterator[None]:
    """The token is checked in a transaction of its own before; the commit meant is that after the new audit."""
    line.swallow_commit(after=rb"INSERT INTO audits")
    yield


def test_request_whose_response_is_lost_after_the_commit_makes_one_audit_when_it_comes_again(
    context: Context, token: str
) -> None:
    body = request_body(context)
    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": "once"}
    with served(context.settings) as url:
        line = Line(int(url.rpartition(":")[2]))
        line.swallow_answer(rb"POST /v1/audits")
        with httpx.Client(base_url=f"http://127.0.0.1:{line.port}", headers=headers) as client:
            with pytest.raises(httpx.HTTPError):
                client.post("/v1/audits", json={**body, "force": True})
            (made,) = audits_there(context)
            again = client.post("/v1/audits", json={**body, "force": True})
        line.close()
    assert (again.status_code, again.json()["id"]) == (200, str(made))
    assert audits_there(context) == [made]


def try_again_and_fail_at_the_commit(context: Context, audit_id: uuid.UUID) -> None:
    with context.sessions.begin() as session:
        lifecycle.cancel(session, audit_id)
        lifecycle.retry(session, context.queue, audit_id)
        session.execute(text("CREATE TEMPORARY TABLE deferred (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)"))
        session.execute(text("INSERT INTO deferred VALUES (1), (1)"))


def test_nothing_is_enqueued_for_a_transaction_that_rolled_back(context: Context) -> None:
    """Not even when the rollback comes from the commit itself."""
    audit = rows.request_audit(context, 16)
    clear(context.settings)
    with pytest.raises(IntegrityError):
        try_again_and_fail_at_the_commit(context, audit.id)
    assert messages(context.settings) == []
    assert states(context, audit.id) == ("queued", ["queued"])


def test_no_response_leaves_before_its_commit(context: Context, database_url: str, token: str) -> None:
    """The commit is held up at a lock: the answer must wait for it, and be there for whoever reads the answer."""
    body = request_body(context)
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute(
            "CREATE FUNCTION wait_at_commit() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM pg_advisory_xact_lock(4711); RETURN NULL; END $$; "
            "CREATE CONSTRAINT TRIGGER wait_at_commit AFTER INSERT ON audits DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION wait_at_commit()"
        )
    answers: list[httpx.Response] = []
    try:
        with (
            served(context.settings) as url,
            httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=60) as client,
            psycopg.connect(database_url, autocommit=True) as observer,
            psycopg.connect(database_url) as holder,
        ):
            holder.execute("SELECT pg_advisory_xact_lock(4711)")
            thread = threading.Thread(target=lambda: answers.append(client.post("/v1/audits", json=body)))
            thread.start()
            eventually(lambda: waiting(observer) == 1)
            assert answers == []
            assert (audits_there(context), messages(context.settings)) == ([], [])
            holder.rollback()
            thread.join()
    finally:
        with psycopg.connect(database_url, autocommit=True) as admin:
            admin.execute("DROP TRIGGER wait_at_commit ON audits; DROP FUNCTION wait_at_commit()")
    assert answers[0].status_code == 202
    assert audits_there(context) == [uuid.UUID(answers[0].json()["id"])]
    assert [task for task, _ in messages(context.settings)] == [SCORE_CHUNK]


# Whoever else may meet


def test_two_sweepers_at_once_free_a_chunk_once(context: Context, database_url: str) -> None:
    audit = rows.request_audit(context, 16)
    rows.claim(context, rows.chunks_of(context, audit.id)[0].id)
    expire(context)
    clear(context.settings)
    outcomes = at_once(database_url, audit.id, *[within(context, sweep, context.queue, context.settings)] * 2)
    assert [outcome for outcome in outcomes if isinstance(outcome, Exception)] == []
    assert states(context, audit.id) == ("running", ["queued"])
    assert len(messages(context.settings)) == 1


def test_cancelling_meets_recording(context: Context, database_url: str, both_orders: Orders) -> None:
    audit = rows.request_audit(context, 16)
    plan = rows.claim(context, rows.chunks_of(context, audit.id)[0].id)
    acts = [within(context, lifecycle.cancel, audit.id), lambda: rows.record(context, plan)]
    outcomes = at_once(database_url, audit.id, *both_orders(acts))
    lost = any(isinstance(outcome, LeaseLost) for outcome in outcomes)
    assert states(context, audit.id) == ("cancelled", ["cancelled" if lost else "done"])
    assert scored(context, audit.id) == ([] if lost else list(range(16)))


def test_pausing_meets_claiming(context: Context, database_url: str, both_orders: Orders) -> None:
    audit = rows.request_audit(context, 32)
    first = rows.chunks_of(context, audit.id)[0]
    acts = [within(context, lifecycle.pause, audit.id), within(context, chunks.claim_chunk, first.id, "a", 60)]
    outcomes = at_once(database_url, audit.id, *both_orders(acts))
    claimed = any(isinstance(outcome, chunks.ChunkPlan) for outcome in outcomes)
    assert states(context, audit.id) == ("paused", ["running" if claimed else "queued", "queued"])


def test_trying_again_meets_a_worker_of_the_earlier_try(
    context: Context, database_url: str, both_orders: Orders
) -> None:
    audit = rows.request_audit(context, 16)
    plan = rows.claim(context, rows.chunks_of(context, audit.id)[0].id, "zombie")
    with context.sessions.begin() as session:
        lifecycle.cancel(session, audit.id)
    acts = [
        within(context, lifecycle.retry, context.queue, audit.id),
        lambda: rows.record(context, plan, "zombie"),
    ]
    outcomes = at_once(database_url, audit.id, *both_orders(acts))
    assert any(isinstance(outcome, LeaseLost) for outcome in outcomes)
    assert (states(context, audit.id), scored(context, audit.id)) == (("queued", ["queued"]), [])
    rows.score_all(context, audit.id)
    assert scored(context, audit.id) == list(range(16))


def test_deleting_meets_claiming(context: Context, database_url: str, both_orders: Orders) -> None:
    audit = rows.request_audit(context, 16)
    (chunk,) = rows.chunks_of(context, audit.id)
    with context.sessions.begin() as session:
        lifecycle.cancel(session, audit.id)
    acts = [within(context, lifecycle.remove_audit, audit.id), within(context, chunks.claim_chunk, chunk.id, "a", 60)]
    assert at_once(database_url, audit.id, *both_orders(acts)) == [None, None]
    assert audits_there(context) == []


def test_a_program_that_stops_while_it_has_an_audit_locked_does_not_hold_up_the_others(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = rows.request_audit(context, 16)
    plan = rows.claim(context, rows.chunks_of(context, audit.id)[0].id)
    monkeypatch.setattr("service.audits.LOCK_IDLE_SECONDS", 0.2)
    frozen = context.sessions()
    chunks.fail_chunk(frozen, plan, rows.OWNER, code="odd", detail="Something odd.", max_attempts=None)
    rows.record(context, plan)  # waits for the frozen program's lock, and gets it
    with pytest.raises(DBAPIError):
        frozen.commit()
    frozen.close()
    assert states(context, audit.id) == ("finalising", ["done"])


def test_two_finalisers_make_one_summary(context: Context, database_url: str) -> None:
    audit = rows.request_audit(context, 16)
    rows.score_all(context, audit.id)
    begin = within(context, chunks.begin_finalising, audit.id, rows.OWNER, 60)
    assert sorted(at_once(database_url, audit.id, begin, begin), key=str) == [False, True]
    outcomes = at_once(database_url, audit.id, *[within(context, chunks.finalise, audit.id, rows.OWNER)] * 2)
    assert sorted(map(str, outcomes)) == ["", "None"], "the other has lost its lease"
    ended = rows.audit_of(context, audit.id)
    assert (ended.state, ended.finalise_attempts) == ("succeeded", 1)
