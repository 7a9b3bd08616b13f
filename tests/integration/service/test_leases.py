"""Leases on rows: who has what, and for how long."""

import threading
import uuid

import psycopg
import pytest
from sqlalchemy import func, select, update

from models.encoder import Encoder
from service import jobs
from service.context import Context
from service.jobs import LeaseLost
from tests.support import rows
from tests.support.waiting import eventually


@pytest.fixture
def encoder(context: Context) -> Encoder:
    with context.sessions.begin() as session:
        return rows.add_encoder(session, state="received")


def claim(context: Context, row_id: uuid.UUID, owner: str, seconds: float = 60) -> bool:
    with context.sessions.begin() as session:
        return jobs.claim(session, Encoder, row_id, owner, seconds)


def renew(context: Context, row_id: uuid.UUID, owner: str) -> bool:
    with context.sessions.begin() as session:
        return jobs.renew(session, Encoder, row_id, owner, 60)


def leave(context: Context, row_id: uuid.UUID, owner: str, state: str) -> None:
    with context.sessions.begin() as session:
        jobs.leave(session, Encoder, row_id, owner, state)


def now(context: Context, row_id: uuid.UUID) -> Encoder:
    with context.sessions.begin() as session:
        return session.get_one(Encoder, row_id)


def seconds_left(context: Context, row_id: uuid.UUID) -> float:
    with context.sessions.begin() as session:
        left = select(func.extract("epoch", Encoder.lease_expires_at - func.clock_timestamp()))
        return float(session.scalars(left.where(Encoder.id == row_id)).one())


def test_claim_notes_the_owner_the_expiry_and_the_attempt(context: Context, encoder: Encoder) -> None:
    assert claim(context, encoder.id, "a", seconds=30)
    row = now(context, encoder.id)
    assert (row.state, row.lease_owner, row.attempts) == ("checking", "a", 1)
    assert 25 < seconds_left(context, encoder.id) <= 30


def test_claimed_row_is_not_to_be_had(context: Context, encoder: Encoder) -> None:
    assert claim(context, encoder.id, "a")
    assert not claim(context, encoder.id, "b")
    assert not claim(context, encoder.id, "a")
    assert now(context, encoder.id).attempts == 1


def test_row_that_backs_off_is_not_to_be_had_before_its_time(context: Context, encoder: Encoder) -> None:
    with context.sessions.begin() as session:
        session.execute(update(Encoder).values(available_at=func.clock_timestamp() + jobs.seconds(3600)))
    assert not claim(context, encoder.id, "a")


def test_unknown_row_is_not_to_be_had(context: Context) -> None:
    assert not claim(context, uuid.uuid4(), "a")


def test_owner_renews_and_nobody_else(context: Context, encoder: Encoder) -> None:
    claim(context, encoder.id, "a", seconds=1)
    assert not renew(context, encoder.id, "b")
    assert renew(context, encoder.id, "a")
    assert seconds_left(context, encoder.id) > 50


def test_expired_lease_that_nobody_took_is_renewed(context: Context, encoder: Encoder) -> None:
    claim(context, encoder.id, "a", seconds=-1)
    assert renew(context, encoder.id, "a")


def test_row_that_was_left_is_not_renewed(context: Context, encoder: Encoder) -> None:
    claim(context, encoder.id, "a")
    leave(context, encoder.id, "a", "ready")
    assert not renew(context, encoder.id, "a")


def test_leaving_gives_the_lease_up(context: Context, encoder: Encoder) -> None:
    claim(context, encoder.id, "a")
    leave(context, encoder.id, "a", "received")
    row = now(context, encoder.id)
    assert (row.state, row.lease_owner, row.lease_expires_at) == ("received", None, None)


def test_row_of_another_cannot_be_left(context: Context, encoder: Encoder) -> None:
    claim(context, encoder.id, "a")
    with pytest.raises(LeaseLost):
        leave(context, encoder.id, "b", "ready")
    assert now(context, encoder.id).state == "checking"


@pytest.mark.parametrize(("attempts", "pause"), [(1, 5), (2, 10), (3, 20), (4, 40)])
def test_each_failure_doubles_the_pause(context: Context, attempts: int, pause: float) -> None:
    with context.sessions.begin() as session:
        wait = select(func.extract("epoch", jobs.back_off(attempts) - func.clock_timestamp()))
        assert float(session.scalars(wait).one()) == pytest.approx(pause, abs=0.5)


def test_of_two_workers_that_claim_at_once_exactly_one_wins(
    context: Context, database_url: str, encoder: Encoder
) -> None:
    """Both updates wait for a lock on the row, so neither can be first by chance."""
    won = dict.fromkeys("abc", False)

    def compete(owner: str) -> None:
        won[owner] = claim(context, encoder.id, owner)

    threads = [threading.Thread(target=compete, args=(owner,)) for owner in won]
    with psycopg.connect(database_url) as holder, psycopg.connect(database_url, autocommit=True) as observer:
        holder.execute("SELECT 1 FROM encoders WHERE id = %s FOR UPDATE", (encoder.id,))
        for thread in threads:
            thread.start()
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        eventually(lambda: observer.execute(waiting).fetchone() == (len(threads),))
        holder.rollback()
    for thread in threads:
        thread.join()
    row = now(context, encoder.id)
    assert sum(won.values()) == 1
    assert won[row.lease_owner or ""]
    assert row.attempts == 1
