"""The sweeper: lost messages are sent again, lost workers noticed and counted."""

import threading
import uuid

import psycopg
import pytest
from sqlalchemy import func, select, update

from models.audit import Audit, Chunk
from models.base import Base, Job
from models.dataset import Dataset
from models.encoder import Encoder
from service import jobs, lifecycle
from service.context import Context
from service.losses import MAX_FINALISE_ATTEMPTS
from service.queue import CHECK_DATASET, CHECK_ENCODER, FINALISE_AUDIT, SCORE_CHUNK
from service.sweep import MAX_WAITING_MESSAGES, sweep
from tests.support import rows
from tests.support.queue import clear, messages
from tests.support.waiting import eventually


def run(context: Context, resend_seconds: float = 20) -> int:
    settings = rows.with_settings(context, resend_seconds=resend_seconds)
    with context.sessions.begin() as session:
        return sweep(session, context.queue, settings)


def expire(context: Context, model: jobs.LeasedModel) -> None:
    with context.sessions.begin() as session:
        expired = func.clock_timestamp() - jobs.seconds(1)
        session.execute(update(model).where(model.lease_owner.is_not(None)).values(lease_expires_at=expired))


def check(context: Context, model: type[Encoder] | type[Dataset], row_id: uuid.UUID) -> None:
    with context.sessions.begin() as session:
        assert jobs.claim(session, model, row_id, rows.OWNER, 60)


def now(context: Context, model: type[Encoder], row_id: uuid.UUID) -> Encoder:
    with context.sessions.begin() as session:
        return session.get_one(model, row_id)


def test_nothing_to_do_moves_nothing(context: Context) -> None:
    rows.succeeded_audit(context)
    clear(context.settings)
    assert run(context) == 0
    assert messages(context.settings) == []


# Messages


def test_message_that_was_lost_is_sent_again_after_a_while(context: Context) -> None:
    audit = rows.request_audit(context, 16)
    clear(context.settings)
    assert run(context, resend_seconds=3600) == 0
    assert messages(context.settings) == []
    assert run(context, resend_seconds=1e-6) == 1
    assert messages(context.settings) == [(SCORE_CHUNK, str(rows.chunks_of(context, audit.id)[0].id))]


def test_message_that_was_just_sent_again_is_not_sent_yet_again(context: Context) -> None:
    rows.request_audit(context, 16)
    clear(context.settings)
    with context.sessions.begin() as session:
        session.execute(update(Chunk).values(enqueued_at=func.clock_timestamp() - jobs.seconds(30)))
    assert run(context) == 1
    assert run(context) == 0


def test_encoders_and_datasets_that_nobody_checks_are_announced_again(context: Context) -> None:
    with context.sessions.begin() as session:
        encoder = rows.add_encoder(session, state="received")
        dataset = rows.add_dataset(session, ["a.png"], state="received")
    run(context)
    assert sorted(messages(context.settings)) == [(CHECK_DATASET, str(dataset.id)), (CHECK_ENCODER, str(encoder.id))]


def test_row_that_backs_off_is_not_announced_before_its_time(context: Context) -> None:
    rows.request_audit(context, 16)
    clear(context.settings)
    with context.sessions.begin() as session:
        later = func.clock_timestamp() + jobs.seconds(60)
        session.execute(update(Chunk).values(available_at=later, enqueued_at=None))
    assert run(context) == 0


@pytest.mark.parametrize("state", ["running", "done", "failed", "cancelled"])
def test_chunk_that_does_not_wait_is_not_announced(context: Context, state: str) -> None:
    rows.request_audit(context, 16)
    clear(context.settings)
    with context.sessions.begin() as session:
        rows.without_rules(session)
        session.execute(update(Chunk).values(state=state, enqueued_at=None))
    assert run(context) == 0


def test_audit_that_nobody_summarises_is_announced_again(context: Context) -> None:
    audit = rows.request_audit(context)
    rows.score_all(context, audit.id)
    clear(context.settings)
    run(context, resend_seconds=1e-6)
    assert messages(context.settings) == [(FINALISE_AUDIT, str(audit.id))]


def test_messages_do_not_pile_up_while_no_worker_takes_them(context: Context) -> None:
    rows.request_audit(context, 16 * 100)
    clear(context.settings)
    for _ in range(5):
        run(context, resend_seconds=1e-6)
    assert len(messages(context.settings)) == MAX_WAITING_MESSAGES


def test_every_chunk_is_announced_in_the_end(context: Context) -> None:
    audit = rows.request_audit(context, 16 * 100)
    announced = set()
    for _ in range(4):
        clear(context.settings)
        with context.sessions.begin() as session:
            rows.without_rules(session)
            session.execute(update(Chunk).where(Chunk.enqueued_at.is_not(None)).values(state="done"))
        run(context)
        announced |= {row_id for _, row_id in messages(context.settings)}
    unannounced = [str(chunk.id) for chunk in rows.chunks_of(context, audit.id)[64:]]
    assert announced == set(unannounced)


# Lost workers


def test_chunk_of_a_lost_worker_is_freed_announced_and_the_attempt_counted(context: Context) -> None:
    audit = rows.request_audit(context, 16)
    first = rows.chunks_of(context, audit.id)[0]
    rows.claim(context, first.id)
    clear(context.settings)
    expire(context, Chunk)
    run(context)
    freed = rows.chunks_of(context, audit.id)[0]
    assert (freed.state, freed.attempts, freed.lease_owner, freed.num_done) == ("queued", 1, None, 0)
    assert freed.failure_code == "worker-lost"
    assert "samples 0 to 15 was lost: it was killed, ran out of memory or was cut off; tried once" in (
        freed.failure_detail or ""
    )
    assert messages(context.settings) == [(SCORE_CHUNK, str(first.id))]
    assert rows.claim(context, first.id).chunk_id == first.id
    assert rows.chunks_of(context, audit.id)[0].attempts == 2


def test_chunk_whose_lease_runs_is_left_alone(context: Context) -> None:
    audit = rows.request_audit(context, 16)
    rows.claim(context, rows.chunks_of(context, audit.id)[0].id)
    clear(context.settings)
    assert run(context) == 0
    assert rows.chunks_of(context, audit.id)[0].state == "running"


def test_chunk_that_loses_worker_after_worker_ends_its_audit(context: Context) -> None:
    audit = rows.request_audit(context)
    first = rows.chunks_of(context, audit.id)[0]
    for _ in range(context.settings.max_attempts):
        with context.sessions.begin() as session:  # the pauses before the next try are over
            session.execute(update(Chunk).values(available_at=func.clock_timestamp()))
        rows.claim(context, first.id)
        expire(context, Chunk)
        run(context)
    ended = rows.audit_of(context, audit.id)
    assert (ended.state, ended.failure_code) == ("failed", "worker-lost")
    assert "it was killed, ran out of memory or was cut off; tried 3 times" in (ended.failure_detail or "")
    assert [chunk.state for chunk in rows.chunks_of(context, audit.id)] == ["failed", "cancelled", "cancelled"]


def test_check_of_a_lost_worker_is_repeated_and_given_up_in_the_end(context: Context) -> None:
    with context.sessions.begin() as session:
        encoder = rows.add_encoder(session, state="received")
    for attempt in range(1, context.settings.max_attempts + 1):
        check(context, Encoder, encoder.id)
        expire(context, Encoder)
        run(context)
        assert now(context, Encoder, encoder.id).attempts == attempt
    row = now(context, Encoder, encoder.id)
    assert (row.state, row.failure_code) == ("refused", "worker-lost")
    assert row.failure_detail == (
        "the worker that checked it was lost: it was killed, ran out of memory or was cut off; tried 3 times"
    )


def test_check_of_a_lost_worker_is_announced_at_once(context: Context) -> None:
    with context.sessions.begin() as session:
        dataset = rows.add_dataset(session, ["a.png"], state="received")
    check(context, Dataset, dataset.id)
    expire(context, Dataset)
    run(context)
    assert messages(context.settings) == [(CHECK_DATASET, str(dataset.id))]


def test_cancelled_audit_is_not_revived_by_an_expired_lease(context: Context) -> None:
    audit = rows.request_audit(context, 16)
    rows.claim(context, rows.chunks_of(context, audit.id)[0].id)
    expire(context, Chunk)
    with context.sessions.begin() as session:
        session.execute(update(Audit).values(state="cancelled"))
        session.execute(update(Chunk).values(state="cancelled"))
    run(context)
    assert rows.chunks_of(context, audit.id)[0].state == "cancelled"


def test_two_sweepers_at_once_free_each_chunk_once(context: Context) -> None:
    audits = [rows.request_audit(context, 16) for _ in range(6)]
    for audit in audits:
        rows.claim(context, rows.chunks_of(context, audit.id)[0].id)
    expire(context, Chunk)
    clear(context.settings)
    barrier = threading.Barrier(2, timeout=10)
    failures: list[BaseException] = []

    def race() -> None:
        barrier.wait()
        try:
            run(context)
        except Exception as error:  # noqa: BLE001  shown by the assertion below
            failures.append(error)

    threads = [threading.Thread(target=race) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [rows.chunks_of(context, audit.id)[0].attempts for audit in audits] == [1] * 6
    assert len(messages(context.settings)) == 6


def test_row_that_another_transaction_holds_does_not_hold_up_the_sweep(context: Context, database_url: str) -> None:
    with context.sessions.begin() as session:
        held, free = (rows.add_encoder(session, name, state="received") for name in ("held", "free"))
    with psycopg.connect(database_url) as holder:
        holder.execute("SELECT 1 FROM encoders WHERE id = %s FOR UPDATE", (held.id,))
        run(context)
    assert messages(context.settings) == [(CHECK_ENCODER, str(free.id))]


def test_worker_that_finishes_before_the_sweep_is_not_counted_as_lost(context: Context) -> None:
    audit = rows.request_audit(context, 16)
    plan = rows.claim(context, rows.chunks_of(context, audit.id)[0].id, seconds=-1)
    rows.record(context, plan)
    run(context)
    assert rows.chunks_of(context, audit.id)[0].state == "done"
    assert rows.begin_finalising(context, audit.id)


def test_row_that_a_frozen_process_has_locked_does_not_keep_the_others(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.sweep.LOCK_SECONDS", 0.1)
    locked, free = (rows.request_audit(context, 16) for _ in range(2))
    for audit in (locked, free):
        rows.claim(context, rows.chunks_of(context, audit.id)[0].id)
    expire(context, Chunk)
    with context.sessions() as frozen:
        frozen.execute(select(Audit).where(Audit.id == locked.id).with_for_update())
        run(context)
    assert [rows.chunks_of(context, audit.id)[0].state for audit in (locked, free)] == ["running", "queued"]
    run(context)
    assert rows.chunks_of(context, locked.id)[0].state == "queued"


def other_connections(database_url: str) -> list[str]:
    """States of connections that are in the middle of COPY."""
    with psycopg.connect(database_url) as connection:
        found = connection.execute("SELECT state FROM pg_stat_activity WHERE query LIKE 'COPY scores%'").fetchall()
    return [state for (state,) in found]


def test_connection_of_a_program_that_stopped_in_the_middle_of_writing_is_ended(
    context: Context, database_url: str
) -> None:
    audit = rows.request_audit(context, 16)
    frozen = psycopg.connect(database_url, application_name="sslmem")
    frozen.execute("SELECT 1 FROM audits WHERE id = %s FOR UPDATE", (audit.id,))
    frozen.pgconn.exec_(b"COPY scores FROM STDIN")  # and no row ever comes
    run(context)
    assert other_connections(database_url) == ["active"]
    with context.sessions.begin() as session:
        sweep(session, context.queue, rows.with_settings(context, stall_seconds=1e-3))
    eventually(lambda: other_connections(database_url) == [])
    frozen.close()
    with context.sessions.begin() as session:
        assert lifecycle.cancel(session, audit.id).state == "cancelled"


def test_summary_of_a_lost_worker_is_announced_at_once_and_given_up_in_the_end(context: Context) -> None:
    audit = rows.request_audit(context)
    rows.score_all(context, audit.id)
    for attempt in range(1, MAX_FINALISE_ATTEMPTS + 1):
        assert rows.begin_finalising(context, audit.id)
        clear(context.settings)
        run(context)
        assert messages(context.settings) == [], "a worker has it"
        expire(context, Audit)
        run(context)
        assert rows.audit_of(context, audit.id).finalise_attempts == attempt
        assert messages(context.settings) == [(FINALISE_AUDIT, str(audit.id))] * (attempt < MAX_FINALISE_ATTEMPTS)
    ended = rows.audit_of(context, audit.id)
    assert (ended.state, ended.failure_code) == ("failed", "finalise-failed")
    assert "the worker that summarised it was lost" in (ended.failure_detail or "")


def test_every_model_that_is_a_job_has_its_states_named() -> None:
    mapped = {mapper.class_ for mapper in Base.registry.mappers if issubclass(mapper.class_, Job)}
    assert mapped | {Audit} == set(jobs.STATES)
