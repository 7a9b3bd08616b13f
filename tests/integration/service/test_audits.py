"""Audits from request to deletion."""

import uuid
from typing import Any

import pytest
from sqlalchemy import func, select

from models.audit import Audit
from models.states import AUDIT_MOVES
from service import audits, lifecycle, states
from service.audits import MAX_CHUNK, MIN_CHUNK, chunk_size
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
