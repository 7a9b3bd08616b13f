"""Audits from request to deletion."""

import re
import uuid
from typing import Any

import pytest
from sqlalchemy import func, select, update

from models.audit import Audit, Chunk
from models.operations import Worker
from models.states import AUDIT_MOVES
from service import audits, chunks, jobs, lifecycle, states
from service.audits import MAX_CHUNK, MIN_CHUNK, Progress, chunk_size
from service.context import Context
from service.errors import (
    AuditNotEnded,
    AuditNotFound,
    DatasetNotFound,
    EncoderNotFound,
    InvalidRequest,
    NotReady,
    RoleSetNotFound,
    ServiceError,
)
from service.queue import SCORE_CHUNK
from service.workers import ALIVE_SECONDS, beat
from sslmem.errors import RecipeError, SpecError, SslmemError
from tests.support import rows
from tests.support.queue import messages


@pytest.fixture
def ready(context: Context) -> dict[str, Any]:
    """What an audit can be requested with."""
    paths = rows.sample_paths(40)
    with context.sessions.begin() as session:
        target, reference = (rows.add_encoder(session, name) for name in ("target", "reference"))
        dataset = rows.add_dataset(session, paths)
        return {
            "name": "audit",
            "target_ids": [target.id],
            "reference_ids": [reference.id],
            "dataset_id": dataset.id,
            "role_set_id": rows.add_roles(session, dataset, paths).id,
            "spec": {},
        }


def request(context: Context, values: dict[str, Any], **changes: object) -> Audit:
    settings = rows.with_settings(context, chunk_seconds=1e-6)
    with context.sessions.begin() as session:
        return audits.request_audit(session, context.queue, settings, **{**values, **changes})[0]


def num_audits(context: Context) -> int:
    with context.sessions.begin() as session:
        return session.scalars(select(func.count()).select_from(Audit)).one()


# Requesting


def test_audit_is_planned_into_contiguous_chunks_that_cover_every_sample_once(
    context: Context, ready: dict[str, Any]
) -> None:
    audit = request(context, ready)
    pieces = rows.chunks_of(context, audit.id)
    assert [(chunk.number, chunk.start, chunk.stop) for chunk in pieces] == [(0, 0, 16), (1, 16, 32), (2, 32, 40)]
    assert messages(context.settings) == [(SCORE_CHUNK, str(chunk.id)) for chunk in pieces]
    assert (audit.state, audit.num_samples) == ("queued", 40)


def test_spec_is_completed_with_the_encoders_input_size(context: Context, ready: dict[str, Any]) -> None:
    audit = request(context, ready, spec={"views": 3})
    assert audit.spec["input_size"] == 16
    assert audit.spec["recipe"][0]["random_resized_crop"]["size"] == 16
    assert audit.spec_digest.startswith("sha256:")


def test_encoders_keep_the_order_of_the_request(context: Context, ready: dict[str, Any]) -> None:
    with context.sessions.begin() as session:
        more = [rows.add_encoder(session, f"reference {i}").id for i in range(5)]
    audit = request(context, ready, reference_ids=more[::-1])
    with context.sessions.begin() as session:
        parts = audits.encoders_of(session, audit.id)
    assert [encoder.id for encoder in parts["reference"]] == more[::-1]
    assert [encoder.id for encoder in parts["target"]] == ready["target_ids"]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"target_ids": []}, InvalidRequest),
        ({"reference_ids": []}, InvalidRequest),
        ({"target_ids": [uuid.UUID(int=1)]}, EncoderNotFound),
        ({"dataset_id": uuid.UUID(int=1)}, DatasetNotFound),
        ({"role_set_id": uuid.UUID(int=1)}, RoleSetNotFound),
        ({"spec": {"views": 1}}, SpecError),
        ({"spec": {"recipe": "sepia"}}, RecipeError),
        ({"spec": {"recipe": [{"random_resized_crop": {"size": 99}}]}}, RecipeError),
    ],
)
def test_unusable_request_is_refused_and_leaves_nothing(
    context: Context, ready: dict[str, Any], changes: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        request(context, ready, **changes)
    assert num_audits(context) == 0
    assert messages(context.settings) == []


def test_encoder_cannot_be_target_and_reference(context: Context, ready: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="appears twice"):
        request(context, ready, reference_ids=ready["target_ids"])


def test_encoders_of_different_input_sizes_do_not_mix(context: Context, ready: dict[str, Any]) -> None:
    with context.sessions.begin() as session:
        other = rows.add_encoder(session, "other", input_size=32)
    with pytest.raises(InvalidRequest, match=r"\['16', '32'\]"):
        request(context, ready, reference_ids=[other.id])


@pytest.mark.parametrize("state", ["received", "checking", "refused"])
def test_encoder_that_is_not_ready_cannot_be_audited(context: Context, ready: dict[str, Any], state: str) -> None:
    with context.sessions.begin() as session:
        other = rows.add_encoder(session, "other", state=state)
    with pytest.raises(NotReady, match="the encoder other"):
        request(context, ready, target_ids=[other.id])


def test_dataset_that_is_not_ready_cannot_be_audited(context: Context, ready: dict[str, Any]) -> None:
    with context.sessions.begin() as session:
        other = rows.add_dataset(session, [], "other", state="received")
    with pytest.raises(NotReady, match="the dataset other"):
        request(context, ready, dataset_id=other.id)


def test_roles_of_another_dataset_are_not_found(context: Context, ready: dict[str, Any]) -> None:
    with context.sessions.begin() as session:
        other = rows.add_dataset(session, rows.sample_paths(4), "other")
        roles = rows.add_roles(session, other, rows.sample_paths(4))
    with pytest.raises(RoleSetNotFound):
        request(context, ready, role_set_id=roles.id)


@pytest.mark.parametrize(
    ("rate", "views", "size"),
    [
        (100.0, 10, 100),  # 10 views at 100 a second, of two encoders: 0.2 seconds a sample
        (1e-9, 10, MIN_CHUNK),
        (1e9, 10, MAX_CHUNK),
        (None, 10, MAX_CHUNK),
        (100.0, 20, 50),
    ],
)
def test_chunks_are_planned_for_the_time_that_the_encoders_take(rate: float | None, views: int, size: int) -> None:
    encoders = [rows.new_encoder(views_per_second=rate) for _ in range(2)]
    assert chunk_size(encoders, views, chunk_seconds=20) == size


# Progress and reasons


def progress(context: Context, audit_id: uuid.UUID) -> Progress:
    with context.sessions.begin() as session:
        return audits.progress_of(session, audits.get_audit(session, audit_id))


def reason(context: Context, audit_id: uuid.UUID) -> str | None:
    with context.sessions.begin() as session:
        return audits.reason_of(session, audits.get_audit(session, audit_id))


def see_worker(context: Context, seconds_ago: float = 0) -> None:
    with context.sessions.begin() as session:
        beat(session, "host:1", "cpu")
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


def test_there_is_no_reason_once_the_audit_has_ended(context: Context) -> None:
    audit = rows.succeeded_audit(context)
    assert reason(context, audit.id) is None


# Moves


@pytest.mark.parametrize("ended", states.ENDED)
def test_audit_that_ended_moves_only_when_it_is_tried_again(context: Context, ended: str) -> None:
    audit = rows.request_audit(context)
    with context.sessions.begin() as session:
        locked = audits.lock_audit(session, audit.id)
        assert locked is not None
        if ended == "succeeded":
            assert states.move(session, locked, "running")
            assert states.move(session, locked, "finalising")
            locked.summary = {}
        locked.failure_code = "odd" if ended == "failed" else None
        assert states.move(session, locked, ended)
        again = {"queued", "finalising"} if ended != "succeeded" else set()
        assert not any(states.move(session, locked, state) for state in set(AUDIT_MOVES) - again)
        assert locked.state == ended


def test_audit_cannot_skip_a_state(context: Context) -> None:
    audit = rows.request_audit(context)
    with context.sessions.begin() as session:
        locked = audits.lock_audit(session, audit.id)
        assert locked is not None
        for state, too_far in (("running", "succeeded"), ("finalising", "running")):
            assert not states.move(session, locked, too_far)
            assert states.move(session, locked, state)
            assert locked.state == state


def test_audit_that_failed_keeps_its_first_failure(context: Context) -> None:
    audit = rows.request_audit(context)
    with context.sessions.begin() as session:
        locked = audits.lock_audit(session, audit.id)
        assert locked is not None
        states.fail(session, locked, "first", "The first.")
        states.fail(session, locked, "second", "The second.")
    assert rows.audit_of(context, audit.id).failure_code == "first"


# Cancelling and deleting


def test_cancelling_twice_is_harmless(context: Context) -> None:
    audit = rows.request_audit(context)
    for _ in range(2):
        with context.sessions.begin() as session:
            assert lifecycle.cancel(session, audit.id).state == "cancelled"


def test_audit_that_succeeded_stays_so(context: Context) -> None:
    audit = rows.succeeded_audit(context)
    with context.sessions.begin() as session:
        assert lifecycle.cancel(session, audit.id).state == "succeeded"


def test_audit_that_has_not_ended_is_not_deleted(context: Context) -> None:
    audit = rows.request_audit(context)
    with context.sessions.begin() as session, pytest.raises(AuditNotEnded, match="the audit is queued"):
        lifecycle.remove_audit(session, audit.id)


@pytest.mark.parametrize("use", [audits.get_audit, lifecycle.cancel, lifecycle.remove_audit])
def test_unknown_audit_is_named(context: Context, use: Any) -> None:  # noqa: ANN401
    with context.sessions.begin() as session, pytest.raises(AuditNotFound, match=str(uuid.UUID(int=7))):
        use(session, uuid.UUID(int=7))


def test_every_refusal_has_a_code_of_its_own() -> None:
    def leaves(error: type[Exception]) -> set[Any]:
        below = error.__subclasses__()
        return set().union(*map(leaves, below)) if below else {error}

    codes = [leaf.code for leaf in leaves(ServiceError) | leaves(SslmemError)]
    assert len(codes) == len(set(codes))
