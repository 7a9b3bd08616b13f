"""Where audits stand: progress and reasons."""

import re
import uuid
from collections.abc import Callable

from sqlalchemy import event, func, select, update
from sqlalchemy.engine import Engine

from models.audit import Chunk
from models.operations import Sweeper, Worker
from service import audits, chunks, jobs
from service.context import Context
from service.standing import Progress, standing_of, standings
from service.workers import ALIVE_SECONDS, FORGET_SECONDS, beat, beat_of_sweeper
from tests.support import rows


def progress(context: Context, audit_id: uuid.UUID) -> Progress:
    with context.sessions.begin() as session:
        return standing_of(session, audits.get_audit(session, audit_id)).progress


def reason(context: Context, audit_id: uuid.UUID) -> str | None:
    with context.sessions.begin() as session:
        return standing_of(session, audits.get_audit(session, audit_id)).reason


def see_worker(context: Context, seconds_ago: float = 0) -> None:
    with context.sessions.begin() as session:
        beat(session, "host:1", "cpu")
        beat_of_sweeper(session, "host:2")
        seen = func.clock_timestamp() - jobs.seconds(seconds_ago)
        session.execute(update(Worker).values(last_seen_at=seen))


def test_progress_counts_done_chunks_and_what_running_ones_have_done(context: Context) -> None:
    audit = rows.request_audit(context)
    first, second, _ = rows.chunks_of(context, audit.id)
    assert progress(context, audit.id) == Progress(0, 40, None)
    rows.record(context, rows.claim(context, first.id))
    rows.claim(context, second.id)
    with context.sessions.begin() as session:
        jobs.renew(session, Chunk, second.id, rows.OWNER, 60, num_done=5)
    now = progress(context, audit.id)
    assert (now.samples_done, now.samples_total) == (21, 40)
    assert now.seconds_left is not None
    assert now.seconds_left > 0


def test_progress_of_a_chunk_is_taken_back_when_it_fails(context: Context) -> None:
    audit = rows.request_audit(context)
    first = rows.chunks_of(context, audit.id)[0]
    plan = rows.claim(context, first.id)
    with context.sessions.begin() as session:
        jobs.renew(session, Chunk, first.id, rows.OWNER, 60, num_done=5)
    assert progress(context, audit.id).samples_done == 5
    with context.sessions.begin() as session:
        chunks.fail_chunk(session, plan, rows.OWNER, code="odd", detail="", max_attempts=3)
    assert progress(context, audit.id).samples_done == 0


def test_progress_of_an_audit_that_ended_has_no_time_left(context: Context) -> None:
    audit = rows.succeeded_audit(context)
    assert progress(context, audit.id) == Progress(40, 40, None)


def test_reason_tells_that_no_worker_was_ever_there(context: Context) -> None:
    audit = rows.request_audit(context)
    assert reason(context, audit.id) == "no worker has connected in the last week; start one with python -m worker"


def test_reason_tells_since_when_no_worker_was_seen(context: Context) -> None:
    audit = rows.request_audit(context)
    see_worker(context, ALIVE_SECONDS + 10)
    assert (reason(context, audit.id) or "").startswith("no worker has been seen since 2")


def test_reason_tells_that_it_waits_for_a_worker(context: Context) -> None:
    audit = rows.request_audit(context)
    see_worker(context)
    assert re.fullmatch(
        r"waiting for a worker: it is next; 1 worker is alive, last seen \d+ s ago", reason(context, audit.id) or ""
    )


def test_reason_counts_the_audits_ahead(context: Context) -> None:
    for _ in range(2):
        rows.request_audit(context)
    audit = rows.request_audit(context)
    see_worker(context)
    assert re.fullmatch(
        r"waiting for a worker: 2 audits are ahead; 1 worker is alive, last seen \d+ s ago",
        reason(context, audit.id) or "",
    )


def test_reason_tells_of_one_audit_ahead(context: Context) -> None:
    rows.request_audit(context)
    audit = rows.request_audit(context)
    see_worker(context)
    assert re.fullmatch(
        r"waiting for a worker: 1 audit is ahead; 1 worker is alive, last seen \d+ s ago",
        reason(context, audit.id) or "",
    )


def test_reason_of_an_audit_for_workers_with_a_gpu_counts_only_those(context: Context) -> None:
    audit = rows.request_audit(context, worker_queue="gpu")
    see_worker(context)
    assert reason(context, audit.id) == "no GPU worker has connected in the last week; start one with python -m worker"
    with context.sessions.begin() as session:
        beat(session, "gpu:1", "cuda", ("default", "gpu"))
        beat(session, "gpu:2", "cuda", ("default", "gpu"))
    assert re.fullmatch(
        r"waiting for a worker: it is next; 2 GPU workers are alive, last seen \d+ s ago",
        reason(context, audit.id) or "",
    )


def test_reason_tells_that_the_scores_wait_to_be_summarised(context: Context) -> None:
    audit = rows.request_audit(context)
    rows.score_all(context, audit.id)
    see_worker(context)
    assert (reason(context, audit.id) or "").startswith("all is scored; waiting for a worker to summarise it: 1 worker")
    rows.begin_finalising(context, audit.id)
    assert reason(context, audit.id) is None


def test_there_is_no_reason_while_a_chunk_runs(context: Context) -> None:
    audit = rows.request_audit(context)
    see_worker(context)
    rows.claim(context, rows.chunks_of(context, audit.id)[0].id)
    assert reason(context, audit.id) is None


def test_reason_tells_when_a_failed_chunk_is_tried_again(context: Context) -> None:
    audit = rows.request_audit(context)
    see_worker(context)
    plan = rows.claim(context, rows.chunks_of(context, audit.id)[0].id)
    with context.sessions.begin() as session:
        chunks.fail_chunk(session, plan, rows.OWNER, code="odd", detail="Something odd.", max_attempts=3)
    text = reason(context, audit.id) or ""
    assert text.startswith("a chunk failed and is tried again at 2")
    assert text.endswith(": Something odd.")


def expire(context: Context) -> None:
    with context.sessions.begin() as session:
        past = func.clock_timestamp() - jobs.seconds(1)
        session.execute(update(Chunk).where(Chunk.state == "running").values(lease_expires_at=past))


def test_reason_tells_that_a_worker_was_lost(context: Context) -> None:
    audit = rows.request_audit(context)
    see_worker(context)
    for chunk in rows.chunks_of(context, audit.id)[:2]:
        rows.claim(context, chunk.id)
    expire(context)
    assert reason(context, audit.id) == "a worker was lost; another one gets its chunk in a moment"
    rows.claim(context, rows.chunks_of(context, audit.id)[2].id)
    assert reason(context, audit.id) is None


def test_reason_tells_since_when_no_sweeper_finds_what_was_lost(context: Context) -> None:
    audit = rows.request_audit(context)
    see_worker(context)
    with context.sessions.begin() as session:
        session.execute(update(Sweeper).values(last_seen_at=func.clock_timestamp() - jobs.seconds(ALIVE_SECONDS + 10)))
    assert re.search(r"\d+ s ago; but no sweeper has been seen since 2", reason(context, audit.id) or "")
    rows.claim(context, rows.chunks_of(context, audit.id)[0].id)
    assert reason(context, audit.id) is None
    expire(context)
    assert re.search(r"in a moment; but no sweeper has been seen since 2", reason(context, audit.id) or "")


def test_sweeper_that_was_not_seen_for_a_week_is_forgotten(context: Context) -> None:
    for name in ("host:1", "host:2"):
        with context.sessions.begin() as session:
            beat_of_sweeper(session, name)
            long_ago = func.clock_timestamp() - jobs.seconds(FORGET_SECONDS + 1)
            session.execute(update(Sweeper).where(Sweeper.id == "host:1").values(last_seen_at=long_ago))
    with context.sessions.begin() as session:
        assert session.scalars(select(Sweeper.id)).all() == ["host:2"]


def test_there_is_no_reason_once_the_audit_has_ended(context: Context) -> None:
    audit = rows.succeeded_audit(context)
    assert reason(context, audit.id) is None


def test_many_audits_take_as_few_queries_as_one_and_say_the_same(context: Context) -> None:
    done, waiting, running, failing = rows.succeeded_audit(context), *(rows.request_audit(context) for _ in range(3))
    rows.claim(context, rows.chunks_of(context, running.id)[0].id)
    plan = rows.claim(context, rows.chunks_of(context, failing.id)[0].id)
    with context.sessions.begin() as session:
        chunks.fail_chunk(session, plan, rows.OWNER, code="odd", detail="Something odd.", max_attempts=3)
        much_later = func.clock_timestamp() + jobs.seconds(3600)
        session.execute(update(Chunk).where(Chunk.id == plan.chunk_id).values(available_at=much_later))
    see_worker(context)
    ids = [done.id, waiting.id, running.id, failing.id]

    def asked(chosen: list[uuid.UUID]) -> tuple[list[object], int]:
        with context.sessions.begin() as session:
            found = [audits.get_audit(session, audit_id) for audit_id in chosen]
            queries: list[str] = []
            note: Callable[..., None] = lambda *arguments: queries.append(arguments[2])  # noqa: E731
            event.listen(Engine, "before_cursor_execute", note)
            try:
                answers = standings(session, found)
            finally:
                event.remove(Engine, "before_cursor_execute", note)
        reasons = [re.sub(r"seen \d+ s ago", "seen a moment ago", one.reason or "") for one in answers]
        found_out = zip(answers, reasons, strict=True)
        return [(one.progress[:2], why, one.encoder_ids) for one, why in found_out], len(queries)

    together, queries = asked(ids)
    assert queries <= max(asked([audit_id])[1] for audit_id in ids)
    assert together == [asked([audit_id])[0][0] for audit_id in ids]


def test_reason_tells_since_when_the_broker_does_not_answer(context: Context) -> None:
    audit = rows.request_audit(context)
    see_worker(context)
    for answers in (False, False):
        with context.sessions.begin() as session:
            beat_of_sweeper(session, "host:2", broker_answers=answers)
    assert re.search(r"\d+ s ago; but the broker has not answered since 2", reason(context, audit.id) or "")
    see_worker(context)
    assert "broker" not in (reason(context, audit.id) or "broker")


def test_reason_tells_what_the_workers_are_at(context: Context) -> None:
    audit = rows.request_audit(context)
    see_worker(context)
    with context.sessions.begin() as session:
        beat(session, "host:1", "cpu", busy_with="the check of a dataset")
    assert (reason(context, audit.id) or "").endswith("s ago, all busy: 1 with the check of a dataset")
    with context.sessions.begin() as session:
        beat(session, "host:3", "cpu")
    assert (reason(context, audit.id) or "").endswith("s ago, busy: 1 with the check of a dataset")


def test_audits_of_both_queues_are_ahead_of_one_that_waits_for_a_gpu(context: Context) -> None:
    for _ in range(2):
        rows.request_audit(context, priority=1)
    audit = rows.request_audit(context, worker_queue="gpu")
    with context.sessions.begin() as session:
        beat(session, "gpu:1", "cuda", ("default", "gpu"))
    assert (reason(context, audit.id) or "").startswith("waiting for a worker: 2 audits are ahead; 1 GPU worker")
