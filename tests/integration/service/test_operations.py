"""Tokens, workers' signs of life, and health."""

import os
import socket
import sys

import pytest
from pydantic import SecretStr
from sqlalchemy import func, select, text, update

from models.database import KEEPALIVE, SERVER_KEEPALIVE
from models.operations import ApiToken, Worker
from service import jobs, tokens
from service.context import Context
from service.embedded.process import free_port
from service.errors import Unauthorized
from service.health import broker_answers, database_answers
from service.workers import ALIVE_SECONDS, FORGET_SECONDS, beat, list_workers
from tests.support import rows


def test_token_is_accepted_and_only_its_digest_is_kept(context: Context) -> None:
    with context.sessions.begin() as session:
        assert not tokens.any_token(session)
        token = tokens.create_token(session, "me")
    with context.sessions.begin() as session:
        tokens.check_token(session, f"Bearer {token}")
        tokens.check_token(session, f"bearer  {token} ")
        assert tokens.any_token(session)
        kept = session.scalars(select(ApiToken)).one()
    assert token not in (kept.digest, kept.name)
    assert token.startswith("sslmem_")


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic abc", "sslmem_abc", "Bearer sslmem_abc", "Bearer ü", "Bearer \0"]
)
def test_anything_else_is_not_authorized(context: Context, header: str | None) -> None:
    with context.sessions.begin() as session:
        tokens.create_token(session, "me")
        with pytest.raises(Unauthorized):
            tokens.check_token(session, header)


def seen(context: Context, seconds_ago: float) -> None:
    with context.sessions.begin() as session:
        session.execute(update(Worker).values(last_seen_at=func.clock_timestamp() - jobs.seconds(seconds_ago)))


def workers(context: Context) -> list[tuple[str, str, bool]]:
    with context.sessions.begin() as session:
        return [(worker.id, worker.device, alive) for worker, alive in list_workers(session)]


def test_worker_is_alive_while_it_beats(context: Context) -> None:
    for device in ("cpu", "cuda"):
        with context.sessions.begin() as session:
            beat(session, "host:1", device)
    assert workers(context) == [("host:1", "cuda", True)]
    seen(context, ALIVE_SECONDS + 1)
    assert workers(context) == [("host:1", "cuda", False)]


def test_worker_that_was_not_seen_for_a_week_is_forgotten(context: Context) -> None:
    with context.sessions.begin() as session:
        beat(session, "old:1", "cpu")
    seen(context, FORGET_SECONDS + 1)
    with context.sessions.begin() as session:
        beat(session, "new:1", "cpu")
    assert [name for name, _, _ in workers(context)] == ["new:1"]


def test_servers_that_answer_are_well(context: Context) -> None:
    assert database_answers(context)
    assert broker_answers(context)


def test_servers_that_are_away_are_not(context: Context) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    settings = rows.with_settings(
        context,
        database_url=SecretStr(f"postgresql://sslmem:x@{nowhere}/sslmem"),
        broker_url=SecretStr(f"redis://:x@{nowhere}/0"),
    )
    away = Context.from_settings(settings)
    assert not database_answers(away)
    assert not broker_answers(away)
    away.close()


def test_a_database_that_vanished_is_noticed_by_both_ends(context: Context) -> None:
    with context.engine.connect() as connection:
        shown = {name: connection.scalar(text(f"SHOW {name}")) for name in SERVER_KEEPALIVE}
        driver = connection.connection.driver_connection
        assert driver is not None
        with socket.socket(fileno=os.dup(driver.fileno())) as ours:
            assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            if sys.platform == "linux":
                assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == KEEPALIVE["keepalives_idle"]
                assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == KEEPALIVE["tcp_user_timeout"]
    if sys.platform == "linux":
        assert shown == {name: str(value) for name, value in SERVER_KEEPALIVE.items()}
