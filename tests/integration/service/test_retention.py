"""What is deleted, by whom and how completely; and that nothing goes that an audit still needs."""

import os
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from sqlalchemy import func, select, text, update

from models.audit import Audit, AuditEvidence, Score, ScoreBlock
from models.base import Base
from models.database import metadata
from models.dataset import Dataset, RoleSet
from models.encoder import Encoder
from models.operations import IdempotencyKey
from service import audits, intake, lifecycle, results, retention, roles, usage, webhooks
from service.addresses import Allowed
from service.context import Context
from service.errors import AuditKept, AuditNotEnded, InUse, RoleSetNotFound, ScoresDeleted, ServiceError
from service.jobs import seconds
from service.storage import storage
from sslmem.report.evidence import gather_evidence
from tests.support import rows
from tests.support.waiting import eventually

DAY = 24 * 3600


def with_policies(context: Context, **days: float) -> Context:
    """The context with policies on."""
    return Context(
        settings=rows.with_settings(context, **days),
        engine=context.engine,
        sessions=context.sessions,
        store=context.store,
        queue=context.queue,
    )


def age(context: Context, days: float) -> None:
    """Lets everything be older by so many days."""
    with context.sessions.begin() as session:
        for column in (Audit.finished_at, Encoder.created_at, Encoder.released_at, Dataset.created_at,
                       Dataset.released_at, IdempotencyKey.created_at):  # fmt: skip
            session.execute(update(column.class_).values({column: column - seconds(days * DAY)}))


def count(context: Context, model: type[Base]) -> int:
    with context.sessions.begin() as session:
        return session.scalar(select(func.count()).select_from(model)) or 0


def rows_by_table(context: Context) -> dict[str, int]:
    """How many rows each table has, without those that have none."""
    with context.sessions.begin() as session:
        counts = {t.name: session.scalar(select(func.count()).select_from(t)) for t in metadata.sorted_tables}
    return {name: number for name, number in counts.items() if number}


def stored(context: Context) -> set[str]:
    """The digests of all files, but for which nothing may lie in the folder."""
    digests = {file.digest for file in context.store.files()}
    found = [path for path in context.store.root.rglob("*") if path.is_file()]
    assert len(found) == len(digests), found
    return digests


def filed_audit(context: Context, **changes: object) -> Audit:
    """An audit that has succeeded, whose encoders and dataset have their files."""
    audit = rows.succeeded_audit(context)
    with context.sessions.begin() as session:
        for number, encoder in enumerate(session.scalars(select(Encoder)).all()):
            encoder.artifact_digest = rows.store(context, f"upload {number}".encode())
            encoder.weights_artifact_digest = rows.store(context, f"weights {number}".encode())
        session.get_one(Dataset, audit.dataset_id).artifact_digest = rows.store(context, b"archive")
        for name, value in changes.items():
            setattr(session.get_one(Audit, audit.id), name, value)
    results.evidence_of(context.sessions, audit.id, confidence=0.95, fdr=0.05)
    return audit


def encoder_ids(context: Context) -> list[uuid.UUID]:
    with context.sessions.begin() as session:
        return list(session.scalars(select(Encoder.id)))


def remove(context: Context, model: type[intake.Row], row_id: uuid.UUID) -> None:
    with context.sessions.begin() as session:
        digests = intake.remove(session, model, row_id)
    with context.sessions.begin() as session:
        intake.discard_artifacts(session, context.store, digests)


# Explicit


def test_nothing_is_left_when_everything_was_deleted(context: Context) -> None:
    with context.sessions.begin() as session:
        webhook = webhooks.add(session, "", "https://1.1.1.1/", ["audit.succeeded"], Allowed.of(""))
    audit = filed_audit(context)
    assert {"webhook_deliveries", "scores", "score_blocks", "audit_evidence", "audit_events", "role_entries"} <= set(
        rows_by_table(context)
    )
    assert len(stored(context)) == 5
    lifecycle.delete_audit(context.sessions, audit.id)
    for encoder_id in encoder_ids(context):
        remove(context, Encoder, encoder_id)
    remove(context, Dataset, audit.dataset_id)
    assert rows_by_table(context) == {"webhooks": 1}
    assert stored(context) == set()
    with context.sessions.begin() as session:
        webhooks.remove(session, "", webhook.id)
    assert rows_by_table(context) == {}


def test_scores_are_deleted_and_the_summary_stays(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "SCORE_BATCH", 7)  # of 40
    audit = filed_audit(context)
    other = rows.succeeded_audit(context)
    lifecycle.delete_scores(context.sessions, audit.id)
    with context.sessions.begin() as session:
        for model in (Score, ScoreBlock, AuditEvidence):
            left = session.scalars(select(model.audit_id).distinct()).all()
            assert set(left) <= {other.id}, model
        assert session.scalar(select(func.count()).where(Score.audit_id == other.id)) == 40
    now = rows.audit_of(context, audit.id)
    assert now.scores_deleted_at is not None
    assert results.summary_of(now).num_samples == 40


def test_deleting_twice_is_harmless(context: Context) -> None:
    audit = filed_audit(context)
    lifecycle.delete_scores(context.sessions, audit.id)
    first = rows.audit_of(context, audit.id).scores_deleted_at
    lifecycle.delete_scores(context.sessions, audit.id)
    assert rows.audit_of(context, audit.id).scores_deleted_at == first


def test_deleting_one_batch_takes_no_more(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "SCORE_BATCH", 7)
    audit = filed_audit(context)
    with context.sessions.begin() as session:
        lifecycle.give_up_scores(session, audit.id)
    assert [lifecycle.delete_some_scores(context.sessions, audit.id) for _ in range(7)] == [7, 7, 7, 7, 7, 5, 0]


def test_scores_that_were_not_given_up_are_not_deleted(context: Context) -> None:
    audit = filed_audit(context)
    assert lifecycle.delete_some_scores(context.sessions, audit.id) == 0
    assert count(context, Score) == 40


def test_scores_of_an_audit_that_runs_cannot_be_deleted(context: Context) -> None:
    audit = rows.request_audit(context)
    for delete in (lifecycle.delete_scores, lifecycle.delete_audit):
        with pytest.raises(AuditNotEnded):
            delete(context.sessions, audit.id)


def test_rows_are_not_read_in_part_while_they_are_deleted(context: Context) -> None:
    audit = filed_audit(context)
    with context.sessions.begin() as session:
        lifecycle.give_up_scores(session, audit.id)
    with context.sessions.begin() as session, pytest.raises(ScoresDeleted):
        next(results.all_rows(session, audit.id))


def test_evidence_is_not_kept_of_scores_that_are_deleted_meanwhile(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = filed_audit(context)

    def slowly(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401
        lifecycle.delete_scores(context.sessions, audit.id)
        return gather_evidence(*arguments, **named)

    monkeypatch.setattr("service.results.gather_evidence", slowly)
    results.evidence_of(context.sessions, audit.id, confidence=0.9, fdr=0.05)
    assert count(context, AuditEvidence) == 0


def test_same_request_after_its_scores_were_deleted_makes_a_new_audit(context: Context) -> None:
    audit = filed_audit(context)
    with context.sessions.begin() as session:
        parts = audits.encoders_of(session, audit.id)
        asked: dict[str, Any] = {
            "name": "again",
            "target_ids": [encoder.id for encoder in parts["target"]],
            "reference_ids": [encoder.id for encoder in parts["reference"]],
            "dataset_id": audit.dataset_id,
            "role_set_id": audit.role_set_id,
            "spec": {"views": 4},
        }
        found, new = audits.request_audit(session, context.queue, context.settings, **asked)
        assert (found.id, new) == (audit.id, False)
    lifecycle.delete_scores(context.sessions, audit.id)
    with context.sessions.begin() as session:
        assert audits.request_audit(session, context.queue, context.settings, **asked)[1]


def test_failed_audit_without_its_scores_is_not_tried_again(context: Context) -> None:
    """Its chunks that are done would be missing."""
    audit = rows.request_audit(context)
    rows.record(context, rows.claim(context, rows.chunks_of(context, audit.id)[1].id))
    rows.fail_first_chunk(context, audit.id)
    lifecycle.delete_scores(context.sessions, audit.id)
    with context.sessions.begin() as session, pytest.raises(ScoresDeleted):
        lifecycle.retry(session, context.queue, audit.id)


def test_refusal_names_the_audits_that_use_it(context: Context) -> None:
    audit = filed_audit(context)
    with pytest.raises(InUse, match=str(audit.id)) as refusal, context.sessions.begin() as session:
        intake.remove(session, Dataset, audit.dataset_id)
    assert refusal.value.more == {"audits": [audit.id]}
    with pytest.raises(InUse, match=str(audit.id)), context.sessions.begin() as session:
        roles.remove_roles(session, audit.dataset_id, audit.role_set_id)


def test_table_of_roles_is_deleted_alone(context: Context) -> None:
    audit = filed_audit(context)
    lifecycle.delete_audit(context.sessions, audit.id)
    with context.sessions.begin() as session, pytest.raises(RoleSetNotFound):
        roles.remove_roles(session, uuid.uuid4(), audit.role_set_id)
    with context.sessions.begin() as session:
        roles.remove_roles(session, audit.dataset_id, audit.role_set_id)
    assert not {"role_sets", "role_entries"} & set(rows_by_table(context))
    assert count(context, Dataset) == 1


# Races


def outcome_of(work: Callable[[], object], into: list[object]) -> Callable[[], None]:
    def run() -> None:
        try:
            into.append(work())
        except ServiceError as error:
            into.append(type(error))

    return run


def waiting_for_locks(connection: psycopg.Connection) -> int:
    found = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    ).fetchone()
    assert found is not None
    return int(found[0])


def meanwhile(database_url: str, work: Callable[[], object], outcome: list[object]) -> tuple[threading.Thread, Any]:
    """Starts work in a thread; the second waits until it stands before a lock."""
    thread = threading.Thread(target=outcome_of(work, outcome))

    def stands() -> None:
        with psycopg.connect(database_url, autocommit=True) as observer:
            eventually(lambda: waiting_for_locks(observer) == 1)

    return thread, stands


def asked_with(context: Context) -> dict[str, Any]:
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


def test_roles_that_an_audit_is_about_to_use_cannot_be_deleted(context: Context, database_url: str) -> None:
    asked, outcome = asked_with(context), list[object]()

    def delete() -> None:
        with context.sessions.begin() as session:
            roles.remove_roles(session, asked["dataset_id"], asked["role_set_id"])

    thread, stands = meanwhile(database_url, delete, outcome)
    with context.sessions.begin() as session:
        audits.request_audit(session, context.queue, context.settings, **asked)
        thread.start()
        stands()
    thread.join()
    assert outcome == [InUse]


def test_audit_with_roles_that_are_being_deleted_is_refused(context: Context, database_url: str) -> None:
    asked, outcome = asked_with(context), list[object]()

    def request() -> None:
        with context.sessions.begin() as session:
            audits.request_audit(session, context.queue, context.settings, **asked)

    thread, stands = meanwhile(database_url, request, outcome)
    with context.sessions.begin() as session:
        roles.remove_roles(session, asked["dataset_id"], asked["role_set_id"])
        thread.start()
        stands()
    thread.join()
    assert outcome == [RoleSetNotFound]


def test_upload_of_a_file_that_is_being_deleted_is_not_lost(context: Context, database_url: str) -> None:
    """The deletion stands before the file's lock when the upload completes, and finds it named then."""
    digest, outcome = rows.store(context, b"weights"), list[object]()
    with context.sessions.begin() as session:
        encoder = rows.add_encoder(session, artifact_digest=digest, weights_artifact_digest=None)
    thread, stands = meanwhile(database_url, lambda: remove(context, Encoder, encoder.id), outcome)
    values = {"name": "images", "artifact_digest": digest}
    with context.store.incoming(100) as upload:
        upload.write(b"weights")
        upload.finish()
        with context.sessions.begin() as session:
            intake.store_upload(session, upload)
            thread.start()
            stands()
            intake.register(session, context.queue, context.store, Dataset, values)
        thread.join()
    assert outcome == [None]
    assert stored(context) == {digest}


def test_upload_that_completes_after_the_deletion_is_there(context: Context) -> None:
    """Between its last byte and its row nothing of it lies where a deletion looks."""
    digest = rows.store(context, b"weights")
    with context.sessions.begin() as session:
        encoder = rows.add_encoder(session, artifact_digest=digest, weights_artifact_digest=None)
    with context.store.incoming(100) as upload:
        upload.write(b"weights")
        upload.finish()
        remove(context, Encoder, encoder.id)
        assert {file.digest for file in context.store.files()} == set()
        with context.sessions.begin() as session:
            intake.store_upload(session, upload)
            values = {"name": "images", "artifact_digest": upload.digest}
            intake.register(session, context.queue, context.store, Dataset, values)
    assert stored(context) == {digest}


def test_file_of_two_encoders_that_are_deleted_at_once_goes_once_both_are_gone(context: Context) -> None:
    digest = rows.store(context, b"weights")
    with context.sessions.begin() as session:
        ids = [
            rows.add_encoder(session, name, artifact_digest=digest, weights_artifact_digest=None).id for name in "ab"
        ]
    threads = [threading.Thread(target=remove, args=(context, Encoder, row_id)) for row_id in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stored(context) == set()


def test_policy_finds_an_audit_tried_again_while_it_waited_for_its_lock(context: Context, database_url: str) -> None:
    audit = rows.request_audit(context)
    rows.fail_first_chunk(context, audit.id)
    age(context, 8)
    due, outcome = with_policies(context, keep_audits_days=7, keep_scores_days=7), list[object]()
    thread, stands = meanwhile(database_url, lambda: retention.apply(due), outcome)
    with context.sessions.begin() as session:
        lifecycle.retry(session, context.queue, audit.id)
        thread.start()
        stands()
    thread.join()
    assert outcome == [0]
    rows.score_all(context, audit.id)
    rows.finalise(context, audit.id)
    assert rows.audit_of(context, audit.id).state == "succeeded"


def test_policy_leaves_encoders_of_a_failed_audit(context: Context) -> None:
    """It may be tried again."""
    audit = rows.request_audit(context)
    rows.fail_first_chunk(context, audit.id)
    age(context, 100)
    assert retention.apply(with_policies(context, keep_unused_days=1)) == 0
    assert count(context, Encoder) == 2
    assert count(context, Dataset) == 1


def test_policy_finds_an_encoder_used_while_it_waited_for_its_lock(context: Context, database_url: str) -> None:
    asked, outcome = asked_with(context), list[object]()
    age(context, 100)
    due = with_policies(context, keep_unused_days=7)
    thread, stands = meanwhile(database_url, lambda: retention.apply(due), outcome)
    with context.sessions.begin() as session:
        audits.request_audit(session, context.queue, context.settings, **asked)
        thread.start()
        stands()
    thread.join()
    assert outcome == [0]
    assert count(context, Encoder) == 2


# Policies


def test_nothing_is_deleted_without_a_policy(context: Context) -> None:
    filed_audit(context)
    age(context, 10_000)
    before, files = rows_by_table(context), stored(context)
    assert retention.apply(context) == 0
    assert rows_by_table(context) == before
    assert stored(context) == files


def test_scores_go_by_their_policy_and_the_audit_stays(context: Context) -> None:
    audit = filed_audit(context)
    due = with_policies(context, keep_scores_days=7)
    age(context, 6.9)
    assert retention.apply(due) == 0
    age(context, 0.2)
    assert retention.apply(due) == 1
    assert count(context, Score) == count(context, AuditEvidence) == 0
    assert rows.audit_of(context, audit.id).scores_deleted_at is not None
    assert retention.apply(due) == 0


def test_audit_then_what_only_it_used_go_by_their_policies(context: Context) -> None:
    filed_audit(context)
    due = with_policies(context, keep_audits_days=7, keep_unused_days=7)
    age(context, 8)
    assert retention.apply(due) == 1
    assert count(context, Audit) == count(context, Score) == 0
    assert count(context, Encoder) == 2, "unused for a moment, though made long ago"
    age(context, 8)
    assert retention.apply(due) == 3
    assert rows_by_table(context) == {}
    assert stored(context) == set()


def test_large_audit_is_deleted_over_several_passes(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "SCORE_BATCH", 4)
    monkeypatch.setattr(retention, "SCORE_BATCHES", 4)
    filed_audit(context)
    age(context, 8)
    due = with_policies(context, keep_audits_days=7)
    left = []
    while count(context, Audit):
        retention.apply(due)
        left.append(count(context, Score))
    assert left[0] == 40 - 6 * 4, "a pass takes two batches of the audit, and four of what was given up"
    assert left[-1] == 0


def test_scores_that_a_broken_off_deletion_left_are_deleted(context: Context) -> None:
    audit = filed_audit(context)
    with context.sessions.begin() as session:
        lifecycle.give_up_scores(session, audit.id)
    retention.apply(context)
    assert count(context, Score) == 0


def test_audit_that_is_kept_is_touched_by_nobody(context: Context) -> None:
    audit = filed_audit(context)
    with context.sessions.begin() as session:
        lifecycle.keep(session, audit.id, kept=True)
    age(context, 100)
    due = with_policies(context, keep_scores_days=1, keep_audits_days=1, keep_unused_days=1)
    assert retention.apply(due) == 0
    for delete in (lifecycle.delete_scores, lifecycle.delete_audit):
        with pytest.raises(AuditKept, match="release it first"):
            delete(context.sessions, audit.id)
    assert count(context, Score) == 40
    with context.sessions.begin() as session:
        lifecycle.keep(session, audit.id, kept=False)
    assert retention.apply(due) == 2  # its scores, then itself


def test_encoder_that_is_not_checked_yet_is_no_policys(context: Context) -> None:
    with context.sessions.begin() as session:
        for state in ("received", "checking", "ready", "refused"):
            rows.add_encoder(session, state, state=state)
    age(context, 100)
    assert retention.apply(with_policies(context, keep_unused_days=1)) == 2
    with context.sessions.begin() as session:
        assert set(session.scalars(select(Encoder.name))) == {"received", "checking"}


def test_what_cannot_be_deleted_holds_nothing_else_up(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    with context.sessions.begin() as session:
        bad, _ = (rows.add_encoder(session, name).id for name in ("bad", "good"))
    age(context, 100)
    remove_row = intake.remove

    def fails(session: Any, model: Any, row_id: uuid.UUID) -> list[str]:  # noqa: ANN401
        if row_id == bad:
            raise RuntimeError("odd")
        return remove_row(session, model, row_id)

    monkeypatch.setattr(intake, "remove", fails)
    assert retention.apply(with_policies(context, keep_unused_days=1)) == 1
    assert encoder_ids(context) == [bad]


def test_dry_run_says_what_goes_next_and_deletes_nothing(context: Context) -> None:
    audit = filed_audit(context)
    settings = rows.with_settings(context, keep_scores_days=7, keep_audits_days=30, keep_unused_days=1)
    unnamed = rows.store(context, b"left over")
    before = rows_by_table(context)
    with context.sessions.begin() as session:
        found = retention.upcoming(session, context.store, settings, 10)
        assert retention.upcoming(session, context.store, settings, 1) == found[:1]
        assert [due.kind for due in retention.upcoming(session, context.store, context.settings, 10)] == ["file"]
    assert [(due.kind, due.id) for due in found] == [
        ("file", unnamed), ("scores", str(audit.id)), ("audit", str(audit.id))
    ]  # fmt: skip
    ended = rows.audit_of(context, audit.id).finished_at
    assert ended is not None
    assert [round((due.due_at - ended).total_seconds() / DAY) for due in found] == [1, 7, 30]
    assert rows_by_table(context) == before


# Files that nothing names


def make_old(context: Context, digest: str) -> None:
    os.utime(context.store.path(digest), (time.time() - 2 * DAY,) * 2)


def test_file_that_nothing_names_goes_after_a_day(context: Context) -> None:
    filed_audit(context)
    named = stored(context)
    old, new = rows.store(context, b"old"), rows.store(context, b"new")
    for digest in {*named, old}:
        make_old(context, digest)
    assert retention.apply(context) == 1
    assert stored(context) == {*named, new}


def test_file_that_gets_a_name_while_the_sweeper_looks_stays(context: Context, database_url: str) -> None:
    digest, outcome = rows.store(context, b"archive"), list[object]()
    make_old(context, digest)
    discard = lambda: retention.discard_unnamed(context.sessions, context.store)  # noqa: E731
    thread, stands = meanwhile(database_url, discard, outcome)
    with context.sessions.begin() as session:
        values = {"name": "images", "artifact_digest": digest}
        intake.register(session, context.queue, context.store, Dataset, values)
        thread.start()
        stands()
    thread.join()
    assert stored(context) == {digest}


def test_weights_of_an_encoder_that_was_deleted_while_they_were_made_do_not_stay(context: Context) -> None:
    weights = rows.store(context, b"weights")
    for deleted in (False, True):
        with context.sessions.begin() as session:
            encoder = rows.add_encoder(session, f"{deleted}", state="checking", weights_artifact_digest=None)
        if deleted:
            remove(context, Encoder, encoder.id)
        with context.sessions.begin() as session:
            intake.discard_if_deleted(session, context.store, encoder.id, weights)
        assert stored(context) == (set() if deleted else {weights})


# What uses what


def test_every_column_that_names_a_file_is_asked() -> None:
    columns = {
        column
        for table in metadata.sorted_tables
        for column in table.columns
        if column.name.endswith("artifact_digest")
    }
    assert {column.property.columns[0] for column in usage.NAMING} == columns


def test_uses_are_counted_from_the_rows(context: Context) -> None:
    audit = filed_audit(context)
    with context.sessions.begin() as session:
        encoders = usage.num_audits(session, Encoder, encoder_ids(context))
        assert set(encoders.values()) == {1}
        assert usage.num_audits(session, Dataset, [audit.dataset_id]) == {audit.dataset_id: 1}
        assert usage.num_audits(session, RoleSet, [audit.role_set_id]) == {audit.role_set_id: 1}
    lifecycle.delete_audit(context.sessions, audit.id)
    with context.sessions.begin() as session:
        assert set(usage.num_audits(session, Encoder, encoder_ids(context)).values()) == {0}


def test_files_are_listed_with_who_needs_them(context: Context) -> None:
    audit = filed_audit(context)
    with context.sessions.begin() as session:
        archive = session.get_one(Dataset, audit.dataset_id).artifact_digest
        rows.add_encoder(session, "alone", artifact_digest=archive)  # the same file, oddly
    unnamed = rows.store(context, b"left over")
    with context.sessions.begin() as session:
        found, more = usage.page_of_artifacts(session, context.store, 100)
        pages, after = [], None
        while True:
            page, after = usage.page_of_artifacts(session, context.store, 4, after)
            pages += page
            if after is None:
                break
    assert (pages, more) == (found, None)
    assert [file.digest for file in found] == sorted(stored(context))
    uses = {file.digest: (file.num_encoders, file.num_datasets, file.num_audits) for file in found}
    assert uses.pop(archive) == (1, 1, 1)
    assert uses.pop(unnamed) == (0, 0, 0)
    assert set(uses.values()) == {(1, 0, 1)}
    assert [file.digest for file in found if file.unused_since] == [unnamed]
    lifecycle.delete_audit(context.sessions, audit.id)
    with context.sessions.begin() as session:
        assert all(file.unused_since for file in usage.page_of_artifacts(session, context.store, 100)[0])


def test_storage_is_counted_by_kind(context: Context) -> None:
    filed_audit(context)
    rows.store(context, b"left over")
    with context.store.incoming(100) as artifact, context.sessions.begin() as session:
        artifact.write(b"abc")
        artifact.finish()
        session.execute(text("ANALYZE scores"))
        found = storage(session, context.store)
    assert {files.kind: (files.num_files, files.num_bytes) for files in found.files} == {
        "dataset": (1, 7), "encoder": (2, 16), "weights": (2, 18), "unnamed": (1, 9), "incoming": (1, 3)
    }  # fmt: skip
    assert {table.table for table in found.tables} == set(metadata.tables) | {"alembic_version"}
    assert all(table.num_bytes > 0 for table in found.tables)
    assert found.free_bytes > 0


def test_storage_of_a_service_that_was_just_begun_is_empty(context: Context) -> None:
    with context.sessions.begin() as session:
        assert all(files.num_files == 0 for files in storage(session, context.store).files)
