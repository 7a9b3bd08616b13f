"""Messages are sent after the commit, and only then."""

import time
import uuid

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from models.encoder import Encoder
from service import intake
from service.context import Context
from service.queue import CHECK_ENCODER, JobQueue
from service.sweep import sweep
from tests.support import rows
from tests.support.queue import clear, messages
from tests.support.servers import OwnRedis


def test_message_is_sent_once_the_transaction_has_committed(context: Context) -> None:
    row_id = uuid.uuid4()
    with context.sessions.begin() as session:
        session.execute(text("SELECT 1"))
        context.queue.send_after_commit(session, CHECK_ENCODER, row_id)
        session.flush()
        assert messages(context.settings) == []
    assert messages(context.settings) == [(CHECK_ENCODER, str(row_id))]


def test_message_is_sent_once_only(context: Context) -> None:
    with context.sessions() as session:
        context.queue.send_after_commit(session, CHECK_ENCODER, "first")
        session.commit()
        session.execute(text("SELECT 1"))
        session.commit()
    assert messages(context.settings) == [(CHECK_ENCODER, "first")]


def test_messages_are_sent_in_the_order_of_the_work(context: Context) -> None:
    with context.sessions.begin() as session:
        for name in ("a", "b", "c"):
            context.queue.send_after_commit(session, CHECK_ENCODER, name)
    assert [row_id for _, row_id in messages(context.settings)] == ["a", "b", "c"]


def test_message_is_dropped_when_the_transaction_rolls_back(context: Context) -> None:
    with context.sessions() as session:
        session.execute(text("SELECT 1"))
        context.queue.send_after_commit(session, CHECK_ENCODER, "never")
        session.rollback()
        session.execute(text("SELECT 1"))
        session.commit()
    assert messages(context.settings) == []


def fail_after_sending(context: Context) -> None:
    with context.sessions.begin() as session:
        context.queue.send_after_commit(session, CHECK_ENCODER, "never")
        session.execute(text("SELECT 1 / 0"))


def test_message_is_dropped_when_the_work_raises(context: Context) -> None:
    with pytest.raises(DBAPIError):
        fail_after_sending(context)
    assert messages(context.settings) == []


def fail_at_commit(context: Context) -> None:
    with context.sessions.begin() as session:
        session.execute(text("CREATE TEMPORARY TABLE t (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)"))
        session.execute(text("INSERT INTO t VALUES (1), (1)"))
        context.queue.send_after_commit(session, CHECK_ENCODER, "never")


def test_message_is_dropped_when_the_commit_itself_fails(context: Context) -> None:
    with pytest.raises(DBAPIError):
        fail_at_commit(context)
    assert messages(context.settings) == []


def test_release_of_a_savepoint_sends_nothing_yet(context: Context) -> None:
    with context.sessions.begin() as session:
        with session.begin_nested():
            context.queue.send_after_commit(session, CHECK_ENCODER, "inner")
        assert messages(context.settings) == []
    assert messages(context.settings) == [(CHECK_ENCODER, "inner")]


def test_message_of_a_released_savepoint_is_dropped_when_the_transaction_rolls_back(context: Context) -> None:
    with context.sessions() as session:
        with session.begin_nested():
            context.queue.send_after_commit(session, CHECK_ENCODER, "never")
        session.rollback()
        session.commit()
    assert messages(context.settings) == []


def test_message_of_a_savepoint_is_dropped_with_it_and_those_around_it_are_sent(context: Context) -> None:
    with context.sessions.begin() as session:
        context.queue.send_after_commit(session, CHECK_ENCODER, "before")
        with session.begin_nested() as outer:
            with session.begin_nested():
                context.queue.send_after_commit(session, CHECK_ENCODER, "never")
            outer.rollback()
        context.queue.send_after_commit(session, CHECK_ENCODER, "after")
    assert [row_id for _, row_id in messages(context.settings)] == ["before", "after"]


def test_row_is_committed_when_its_message_is_sent(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a quick worker would find nothing to claim."""
    seen = []

    def send(_: JobQueue, __: str, row_id: object, ___: str) -> None:
        with context.sessions.begin() as session:
            seen.append(session.scalar(select(Encoder.name).where(Encoder.id == row_id)))

    monkeypatch.setattr(JobQueue, "send", send)
    with context.sessions.begin() as session:
        encoder = rows.add_encoder(session, "visible")
        context.queue.send_after_commit(session, CHECK_ENCODER, encoder.id)
    assert seen == ["visible"]


def register(context: Context, queue: JobQueue, name: str) -> Encoder:
    values = {
        "name": name,
        "artifact_digest": rows.store(context, name.encode()),
        "architecture": None,
        "input_size": None,
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    with context.sessions.begin() as session:
        return intake.register(session, queue, context.store, Encoder, values)[0]


def test_work_is_accepted_while_the_broker_is_down_and_announced_when_it_is_back(
    context: Context, own_redis: OwnRedis, caplog: pytest.LogCaptureFixture
) -> None:
    settings = own_redis.used_by(context.settings)
    queue = JobQueue(settings)
    queue.send(CHECK_ENCODER, "opens a connection")
    own_redis.stop()
    encoder = register(context, queue, "patient")
    assert "not sent, the sweeper will" in caplog.text
    own_redis.start()
    clear(settings)
    with context.sessions.begin() as session:
        sweep(session, queue, settings.model_copy(update={"resend_seconds": 1e-6}))
    queue.app.close()
    assert messages(settings) == [(CHECK_ENCODER, str(encoder.id))]


def test_broker_that_never_answered_does_not_hold_up_a_request(context: Context, own_redis: OwnRedis) -> None:
    queue = JobQueue(own_redis.used_by(context.settings))
    own_redis.stop()
    started = time.monotonic()
    assert register(context, queue, "patient").state == "received"
    queue.app.close()
    assert time.monotonic() - started < 5
