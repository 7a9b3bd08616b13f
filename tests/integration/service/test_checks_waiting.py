"""Encoders and datasets whose check does not begin, or failed for no fault of theirs."""

import re
from typing import Any

import pytest

from models.encoder import Encoder
from service import intake, jobs
from service.context import Context
from service.queue import CHECK_ENCODER
from service.workers import beat, beat_of_sweeper
from tests.support import rows
from tests.support.queue import clear, messages


def register(context: Context, name: str = "encoder") -> tuple[Encoder, bool]:
    values: dict[str, Any] = {
        "name": name,
        "artifact_digest": rows.store(context, b"weights"),
        "architecture": None,
        "input_size": None,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
    }
    with context.sessions.begin() as session:
        return intake.register(session, context.queue, context.store, Encoder, values)


def reason(context: Context, encoder: Encoder) -> str:
    with context.sessions.begin() as session:
        return intake.reason_of(session, session.get_one(Encoder, encoder.id)) or ""


def test_reason_tells_that_there_is_no_worker(context: Context) -> None:
    encoder, _ = register(context)
    assert reason(context, encoder) == "no worker has connected in the last week; start one with python -m worker"


def test_reason_counts_what_is_ahead(context: Context) -> None:
    first, second = register(context, "first")[0], register(context, "second")[0]
    with context.sessions.begin() as session:
        beat(session, "host:1", "cpu")
        beat_of_sweeper(session, "host:2")
    pattern = r"waiting for a worker to check it: {}; 1 worker is alive, last seen \d+ s ago"
    assert re.fullmatch(pattern.format("it is next"), reason(context, first))
    assert re.fullmatch(pattern.format("1 is ahead"), reason(context, second))


def test_reason_tells_that_a_lost_message_is_not_sent_again(context: Context) -> None:
    encoder, _ = register(context)
    with context.sessions.begin() as session:
        beat(session, "host:1", "cpu")
    assert reason(context, encoder).endswith(
        "; but no sweeper has connected in the last week; start one with python -m worker.sweeper"
    )


def test_reason_tells_when_a_failed_check_is_tried_again(context: Context) -> None:
    encoder, _ = register(context)
    with context.sessions.begin() as session:
        beat(session, "host:1", "cpu")
        assert jobs.claim(session, Encoder, encoder.id, rows.OWNER, 60)
        intake.retry_later(
            session, Encoder, encoder.id, rows.OWNER, max_attempts=3, code="internal-error", detail="Something odd."
        )
    assert re.fullmatch(r"the check failed and is tried again at 2.*: Something odd\.", reason(context, encoder))


def test_there_is_no_reason_while_it_is_checked(context: Context) -> None:
    encoder, _ = register(context)
    with context.sessions.begin() as session:
        assert jobs.claim(session, Encoder, encoder.id, rows.OWNER, 60)
    assert reason(context, encoder) == ""


def refuse(context: Context, encoder: Encoder, code: str) -> None:
    with context.sessions.begin() as session:
        assert jobs.claim(session, Encoder, encoder.id, rows.OWNER, 60)
        intake.refuse(session, Encoder, encoder.id, rows.OWNER, code=code, detail="Something odd.")


@pytest.mark.parametrize("code", intake.NOT_ITS_FAULT)
def test_registering_again_checks_again_what_was_refused_for_no_fault_of_its_own(context: Context, code: str) -> None:
    encoder, _ = register(context)
    refuse(context, encoder, code)
    clear(context.settings)
    again, new = register(context)
    assert (again.id, new) == (encoder.id, False)
    assert (again.state, again.attempts, again.failure_code) == ("received", 0, None)
    assert messages(context.settings) == [(CHECK_ENCODER, str(encoder.id))]


def test_registering_again_does_not_check_again_what_cannot_be_used(context: Context) -> None:
    encoder, _ = register(context)
    refuse(context, encoder, "checkpoint-unreadable")
    clear(context.settings)
    again, _ = register(context)
    assert (again.state, again.failure_code) == ("refused", "checkpoint-unreadable")
    assert messages(context.settings) == []
