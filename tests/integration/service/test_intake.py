"""Encoders and datasets: registered once, checked, refused, deleted with what only they needed."""

import threading
import uuid
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from sqlalchemy import func, select, update

from models.dataset import Dataset, DatasetSample
from models.encoder import Encoder
from service import audits, intake, jobs, lifecycle
from service.context import Context
from service.errors import (
    ArtifactNotFound,
    DatasetNotFound,
    EncoderNotFound,
    InUse,
    NotReady,
    ServiceError,
)
from service.intake import CheckedSample, Row
from service.jobs import LeaseLost
from service.queue import CHECK_DATASET, CHECK_ENCODER
from tests.support import rows
from tests.support.queue import messages
from tests.support.waiting import eventually


def encoder_values(digest: str, **changes: object) -> dict[str, Any]:
    values: dict[str, Any] = {
        "name": "encoder",
        "artifact_digest": digest,
        "architecture": None,
        "input_size": None,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }
    values.update(changes)
    return values


def register(context: Context, values: dict[str, Any]) -> tuple[Encoder, bool]:
    with context.sessions.begin() as session:
        return intake.register(session, context.queue, context.store, Encoder, values)


def claim(context: Context, model: type[Encoder] | type[Dataset], row_id: uuid.UUID) -> None:
    with context.sessions.begin() as session:
        session.execute(update(model).values(available_at=func.clock_timestamp()))
        assert jobs.claim(session, model, row_id, rows.OWNER, 60)


def encoder_now(context: Context, row_id: uuid.UUID) -> Encoder:
    with context.sessions.begin() as session:
        return intake.get(session, Encoder, row_id)


# Registering


def test_new_encoder_waits_for_its_check(context: Context) -> None:
    encoder, new = register(context, encoder_values(rows.store(context, b"weights")))
    assert new
    assert (encoder.state, encoder.num_bytes, encoder.attempts) == ("received", 7, 0)
    assert messages(context.settings) == [(CHECK_ENCODER, str(encoder.id))]


def test_same_file_with_the_same_settings_is_the_same_encoder(context: Context) -> None:
    values = encoder_values(rows.store(context, b"weights"))
    first, _ = register(context, values)
    second, new = register(context, values)
    assert (second.id, new) == (first.id, False)
    assert len(messages(context.settings)) == 1


@pytest.mark.parametrize(
    "change",
    [{"name": "other"}, {"architecture": "resnet18"}, {"input_size": 32}, {"mean": [0.5] * 3}, {"std": [0.5] * 3}],
)
def test_same_file_with_other_settings_is_another_encoder(context: Context, change: dict[str, object]) -> None:
    digest = rows.store(context, b"weights")
    first, _ = register(context, encoder_values(digest))
    second, new = register(context, encoder_values(digest, **change))
    assert new
    assert second.id != first.id


def test_same_file_is_still_the_same_encoder_after_the_check_found_its_architecture(context: Context) -> None:
    values = encoder_values(rows.store(context, b"weights"))
    first, _ = register(context, values)
    claim(context, Encoder, first.id)
    found = {
        "architecture": "resnet18",
        "input_size": 32,
        "weights_artifact_digest": rows.store(context, b"plain weights"),
    }
    with context.sessions.begin() as session:
        intake.accept_encoder(session, context.store, first.id, rows.OWNER, found)
    second, new = register(context, values)
    assert (second.id, new) == (first.id, False)
    assert (second.architecture, second.input_size, second.state) == ("resnet18", 32, "ready")


def test_encoder_cannot_be_registered_without_its_file(context: Context) -> None:
    with pytest.raises(ArtifactNotFound):
        register(context, encoder_values(rows.digest_of("never uploaded")))


def test_two_that_register_the_same_at_once_get_the_same_encoder(context: Context, database_url: str) -> None:
    values = encoder_values(rows.store(context, b"weights"))
    results: list[tuple[Encoder, bool]] = []
    thread = threading.Thread(target=lambda: results.append(register(context, values)))
    with psycopg.connect(database_url, autocommit=True) as observer:
        with context.sessions.begin() as session:
            results.append(intake.register(session, context.queue, context.store, Encoder, values))
            thread.start()
            eventually(lambda: waiting_for_locks(observer) == 1)
        thread.join()
    assert [new for _, new in results] == [True, False]
    assert results[0][0].id == results[1][0].id


def waiting_for_locks(connection: psycopg.Connection) -> int:
    found = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    ).fetchone()
    assert found is not None
    return int(found[0])


def test_datasets_are_registered_alike(context: Context) -> None:
    values = {"name": "images", "artifact_digest": rows.store(context, b"archive")}
    with context.sessions.begin() as session:
        first, new = intake.register(session, context.queue, context.store, Dataset, values)
    with context.sessions.begin() as session:
        second, again = intake.register(session, context.queue, context.store, Dataset, values)
    assert (new, again, first.id) == (True, False, second.id)
    assert messages(context.settings) == [(CHECK_DATASET, str(first.id))]


# Reading


@pytest.mark.parametrize(("model", "error"), [(Encoder, EncoderNotFound), (Dataset, DatasetNotFound)])
def test_unknown_id_is_named(context: Context, model: type[Row], error: type[ServiceError]) -> None:
    row_id = uuid.uuid4()
    for look in (intake.get, intake.hold, intake.remove):
        with context.sessions.begin() as session, pytest.raises(error, match=str(row_id)):
            look(session, model, row_id)


@pytest.mark.parametrize(
    ("state", "words"),
    [("received", "not been checked yet"), ("checking", "not been checked yet"), ("refused", "was refused: bad file")],
)
def test_row_that_is_not_ready_says_why(state: str, words: str) -> None:
    with pytest.raises(NotReady, match=words):
        intake.require_ready(rows.new_encoder(state=state, failure_detail="bad file"))


# Checking


def test_accepted_dataset_has_its_samples_in_order(context: Context) -> None:
    with context.sessions.begin() as session:
        dataset = rows.add_dataset(session, [], state="received")
    claim(context, Dataset, dataset.id)
    samples = [
        CheckedSample("a/1.png", "sha256:a", "a", None, bytes(range(16))),
        CheckedSample("b/2.png", "sha256:b", "b\0", "image-undecodable: no image\0", None),
        CheckedSample("ü/'\"\t\\N,\n.png", "sha256:a"),
    ]
    with context.sessions.begin() as session:
        found = {"num_samples": 3, "num_skipped": 1, "format": "folder", "labels": {"a": 1, "b\0": 1}}
        intake.accept_dataset(session, dataset.id, rows.OWNER, iter(samples), found)
    with context.sessions.begin() as session:
        row = intake.get(session, Dataset, dataset.id)
        assert (row.num_samples, row.num_skipped, row.num_equal, row.format) == (3, 1, 2, "folder")
        assert row.labels == {"a": 1, "b\ufffd": 1}
        kept = session.scalars(select(DatasetSample).order_by(DatasetSample.position)).all()
        assert [CheckedSample(s.path, s.sample_key, s.label, s.skipped, s.looks) for s in kept] == [
            samples[0],
            samples[1]._replace(label="b\ufffd", skipped="image-undecodable: no image\ufffd"),
            samples[2],
        ]


def test_worker_that_lost_the_dataset_leaves_no_samples(context: Context) -> None:
    with context.sessions.begin() as session:
        dataset = rows.add_dataset(session, [], state="received")
    claim(context, Dataset, dataset.id)
    with context.sessions.begin() as session, pytest.raises(LeaseLost):
        intake.accept_dataset(session, dataset.id, "late", [CheckedSample("a.png", "sha256:a")], {"num_samples": 1})
    with context.sessions.begin() as session:
        assert session.scalars(select(func.count()).select_from(DatasetSample)).one() == 0


def test_refused_encoder_keeps_code_and_sentence(context: Context) -> None:
    encoder, _ = register(context, encoder_values(rows.store(context, b"weights")))
    claim(context, Encoder, encoder.id)
    with context.sessions.begin() as session:
        intake.refuse(session, Encoder, encoder.id, rows.OWNER, code="bad", detail="entry 'a\0\udcff' is bad")
    row = encoder_now(context, encoder.id)
    assert (row.state, row.failure_code) == ("refused", "bad")
    assert row.failure_detail == "entry 'a\ufffd\ufffd' is bad"


def test_load_report_may_hold_what_the_database_cannot(context: Context) -> None:
    encoder, _ = register(context, encoder_values(rows.store(context, b"weights")))
    claim(context, Encoder, encoder.id)
    found = {
        "weights_artifact_digest": rows.store(context, b"plain"),
        "load_report": {"dropped": ["fc.a\0b", "fc.\ud800"], "prefix\0": "x"},
    }
    with context.sessions.begin() as session:
        intake.accept_encoder(session, context.store, encoder.id, rows.OWNER, found)
    report = encoder_now(context, encoder.id).load_report
    assert report == {"dropped": ["fc.a\ufffdb", "fc.\ufffd"], "prefix\ufffd": "x"}


def test_failure_that_may_pass_is_tried_again_and_refused_in_the_end(context: Context) -> None:
    encoder, _ = register(context, encoder_values(rows.store(context, b"weights")))
    states = []
    for _ in range(3):
        claim(context, Encoder, encoder.id)
        with context.sessions.begin() as session:
            intake.retry_later(
                session, Encoder, encoder.id, rows.OWNER, max_attempts=3, code="odd", detail="Something odd."
            )
        states.append(encoder_now(context, encoder.id).state)
    assert states == ["received", "received", "refused"]
    assert encoder_now(context, encoder.id).failure_code == "odd"


def test_encoder_that_is_tried_again_waits_first(context: Context) -> None:
    encoder, _ = register(context, encoder_values(rows.store(context, b"weights")))
    claim(context, Encoder, encoder.id)
    with context.sessions.begin() as session:
        intake.retry_later(session, Encoder, encoder.id, rows.OWNER, max_attempts=3, code="odd", detail="")
    with context.sessions.begin() as session:
        assert not jobs.claim(session, Encoder, encoder.id, rows.OWNER, 60)


# Deleting


def remove(context: Context, model: type[Row], row_id: uuid.UUID) -> None:
    with context.sessions.begin() as session:
        digests = intake.remove(session, model, row_id)
    with context.sessions.begin() as session:
        intake.discard_artifacts(session, context.store, digests)


def held(context: Context, digest: str) -> bool:
    try:
        context.store.path(digest)
    except ArtifactNotFound:
        return False
    return True


def test_deleted_encoder_takes_its_files_along(context: Context) -> None:
    upload, plain = rows.store(context, b"weights"), rows.store(context, b"plain weights")
    with context.sessions.begin() as session:
        encoder = rows.add_encoder(session, artifact_digest=upload, weights_artifact_digest=plain)
    remove(context, Encoder, encoder.id)
    assert [held(context, digest) for digest in (upload, plain)] == [False, False]


def test_files_that_others_refer_to_stay(context: Context) -> None:
    upload, plain = rows.store(context, b"weights"), rows.store(context, b"plain weights")
    with context.sessions.begin() as session:
        encoder, _ = (
            rows.add_encoder(session, name, artifact_digest=upload, weights_artifact_digest=plain)
            for name in ("first", "second")
        )
    remove(context, Encoder, encoder.id)
    assert [held(context, digest) for digest in (upload, plain)] == [True, True]


def test_upload_that_is_another_encoders_plain_weights_stays(context: Context) -> None:
    digest = rows.store(context, b"weights")
    with context.sessions.begin() as session:
        encoder = rows.add_encoder(session, "first", artifact_digest=digest)
        rows.add_encoder(session, "second", weights_artifact_digest=digest)
    remove(context, Encoder, encoder.id)
    assert held(context, digest)


def test_files_stay_when_the_deletion_is_rolled_back(context: Context) -> None:
    digest = rows.store(context, b"weights")
    with context.sessions.begin() as session:
        encoder = rows.add_encoder(session, artifact_digest=digest)
    with context.sessions() as session:
        intake.remove(session, Encoder, encoder.id)
        session.rollback()
    assert held(context, digest)
    assert encoder_now(context, encoder.id).id == encoder.id


def test_encoder_and_dataset_of_an_audit_are_in_use(context: Context) -> None:
    audit = rows.request_audit(context)
    with context.sessions.begin() as session:
        used = audits.encoders_of(session, audit.id)["reference"][0]
    with pytest.raises(InUse, match="an audit uses the encoder"):
        remove(context, Encoder, used.id)
    with pytest.raises(InUse, match="an audit uses the dataset"):
        remove(context, Dataset, audit.dataset_id)
    with context.sessions.begin() as session:
        lifecycle.cancel(session, audit.id)
        lifecycle.remove_audit(session, audit.id)
    remove(context, Encoder, used.id)
    remove(context, Dataset, audit.dataset_id)


def outcome_of(work: Callable[[], object], into: list[object]) -> Callable[[], None]:
    def run() -> None:
        try:
            into.append(work())
        except ServiceError as error:
            into.append(type(error))

    return run


def add_ready(context: Context) -> dict[str, Any]:
    """What an audit may be requested with."""
    paths = rows.sample_paths(4)
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


@pytest.mark.parametrize("part", ["encoder", "dataset"])
def test_what_an_audit_is_about_to_use_cannot_be_deleted(context: Context, database_url: str, part: str) -> None:
    values = add_ready(context)
    outcome: list[object] = []

    def delete() -> None:
        if part == "encoder":
            remove(context, Encoder, values["target_ids"][0])
        else:
            remove(context, Dataset, values["dataset_id"])

    thread = threading.Thread(target=outcome_of(delete, outcome))
    with psycopg.connect(database_url, autocommit=True) as observer:
        with context.sessions.begin() as session:
            audits.request_audit(session, context.queue, context.settings, **values)
            thread.start()
            eventually(lambda: waiting_for_locks(observer) == 1)
        thread.join()
    assert outcome == [InUse]


@pytest.mark.parametrize(("part", "error"), [("encoder", EncoderNotFound), ("dataset", DatasetNotFound)])
def test_audit_of_what_is_being_deleted_is_refused(
    context: Context, database_url: str, part: str, error: type[ServiceError]
) -> None:
    values = add_ready(context)
    outcome: list[object] = []

    def request() -> None:
        with context.sessions.begin() as session:
            audits.request_audit(session, context.queue, context.settings, **values)

    thread = threading.Thread(target=outcome_of(request, outcome))
    with psycopg.connect(database_url, autocommit=True) as observer:
        with context.sessions.begin() as session:
            if part == "encoder":
                intake.remove(session, Encoder, values["target_ids"][0])
            else:
                intake.remove(session, Dataset, values["dataset_id"])
            thread.start()
            eventually(lambda: waiting_for_locks(observer) == 1)
        thread.join()
    assert outcome == [error]


def test_file_that_is_being_registered_again_is_not_removed(context: Context, database_url: str) -> None:
    digest = rows.store(context, b"weights")
    first, _ = register(context, encoder_values(digest))
    outcome: list[object] = []
    thread = threading.Thread(target=outcome_of(lambda: remove(context, Encoder, first.id), outcome))
    with psycopg.connect(database_url, autocommit=True) as observer:
        with context.sessions.begin() as session:
            values = encoder_values(digest, name="again")
            second, _ = intake.register(session, context.queue, context.store, Encoder, values)
            thread.start()
            eventually(lambda: waiting_for_locks(observer) == 1)
        thread.join()
    assert outcome == [None]
    assert held(context, digest)
    assert encoder_now(context, second.id).state == "received"


def test_weights_that_were_removed_meanwhile_are_noticed(context: Context) -> None:
    encoder, _ = register(context, encoder_values(rows.store(context, b"weights")))
    claim(context, Encoder, encoder.id)
    found = {"weights_artifact_digest": rows.digest_of("removed with another encoder")}
    with context.sessions.begin() as session, pytest.raises(ArtifactNotFound):
        intake.accept_encoder(session, context.store, encoder.id, rows.OWNER, found)
    assert encoder_now(context, encoder.id).state == "checking"
