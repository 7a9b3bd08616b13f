"""What the database itself refuses, whatever the code above it does."""

import uuid
from collections.abc import Mapping

import pytest
from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError

from models.audit import Audit, AuditEncoder, Chunk, Score
from models.base import Base
from models.dataset import Dataset, DatasetSample, RoleEntry, RoleSet
from models.encoder import Encoder
from service.context import Context
from tests.support import rows


def change(context: Context, model: type[Base], values: Mapping[str, object], *, with_rules: bool = True) -> None:
    """Changes the first row of a table."""
    with context.sessions.begin() as session:
        if not with_rules:
            rows.without_rules(session)
        row = session.scalars(select(model).limit(1)).one()
        for column, value in values.items():
            setattr(row, column, value)


def add(context: Context, *added: Base) -> None:
    with context.sessions.begin() as session:
        session.add_all(added)


def refuse(context: Context, model: type[Base], name: str, **values: object) -> None:
    """Checks that a change breaks the named constraint, even where no trigger refuses the move."""
    with pytest.raises(IntegrityError, match=name):
        change(context, model, values, with_rules=False)


@pytest.mark.parametrize("state", ["", "READY", "done", "running"])
def test_encoder_has_one_of_the_four_states(context: Context, state: str) -> None:
    with context.sessions.begin() as session:
        rows.add_encoder(session)
    refuse(context, Encoder, "ck_encoders_state", state=state)


def test_audit_has_one_of_the_seven_states(context: Context) -> None:
    rows.request_audit(context)
    refuse(context, Audit, "ck_audits_state", state="asleep")


def test_audit_cannot_succeed_without_a_summary(context: Context) -> None:
    rows.request_audit(context)
    refuse(context, Audit, "ck_audits_summary", state="succeeded")


def test_audit_cannot_have_a_summary_before_it_succeeds(context: Context) -> None:
    rows.request_audit(context)
    refuse(context, Audit, "ck_audits_summary", summary={})


def test_audit_cannot_fail_without_a_code(context: Context) -> None:
    rows.request_audit(context)
    refuse(context, Audit, "ck_audits_failure", state="failed")


def test_chunk_has_one_of_the_five_states(context: Context) -> None:
    rows.request_audit(context)
    refuse(context, Chunk, "ck_chunks_state", state="succeeded")


def test_number_of_a_chunk_is_unique_within_its_audit(context: Context) -> None:
    audit = rows.request_audit(context)
    first = rows.chunks_of(context, audit.id)[0]
    with pytest.raises(IntegrityError, match="uq_chunks_audit_id_number"):
        add(context, Chunk(audit_id=audit.id, number=first.number, start=0, stop=1, state="queued"))


def test_sample_of_an_audit_has_one_score(context: Context) -> None:
    audit = rows.succeeded_audit(context)
    score = Score(audit_id=audit.id, position=0, sample="a.png", sample_key="a", role="external", score=0.5)
    with pytest.raises(IntegrityError, match="pk_scores"):
        add(context, score)


@pytest.mark.parametrize(("score", "skipped"), [(None, None), (0.5, "image-undecodable: damaged")])
def test_sample_has_either_a_score_or_a_reason(context: Context, score: float | None, skipped: str | None) -> None:
    rows.succeeded_audit(context)
    refuse(context, Score, "ck_scores_score_or_reason", score=score, skipped=skipped)


def test_role_is_one_of_the_four(context: Context) -> None:
    rows.request_audit(context)
    refuse(context, RoleEntry, "ck_role_entries_role", role="member")


def test_encoder_of_an_audit_is_target_or_reference(context: Context) -> None:
    rows.request_audit(context)
    refuse(context, AuditEncoder, "ck_audit_encoders_part", part="shadow")


def test_encoders_with_the_same_unset_settings_are_the_same(context: Context) -> None:
    """A NULL is not distinct from a NULL here, unlike in plain unique constraints."""
    with pytest.raises(IntegrityError, match="uq_encoders_registration"):
        add(context, rows.new_encoder("twin"), rows.new_encoder("twin"))


def test_encoder_and_dataset_of_an_audit_cannot_be_deleted(context: Context) -> None:
    audit = rows.request_audit(context)
    for model, name in ((Encoder, "fk_audit_encoders_encoder_id_encoders"), (Dataset, "fk_audits_dataset_id_datasets")):
        with pytest.raises(IntegrityError, match=name), context.sessions.begin() as session:
            session.execute(delete(model))
    assert rows.audit_of(context, audit.id).state == "queued"


def count(context: Context, model: type[Base]) -> int:
    with context.sessions.begin() as session:
        return session.scalars(select(func.count()).select_from(model)).one()


def test_deleted_audit_takes_its_chunks_and_scores_along(context: Context) -> None:
    audit = rows.succeeded_audit(context)
    with context.sessions.begin() as session:
        session.execute(delete(Audit).where(Audit.id == audit.id))
    assert [count(context, model) for model in (AuditEncoder, Chunk, Score)] == [0, 0, 0]
    assert count(context, Encoder) == 2


def test_deleted_dataset_takes_its_samples_and_roles_along(context: Context) -> None:
    with context.sessions.begin() as session:
        paths = rows.sample_paths(8)
        dataset = rows.add_dataset(session, paths)
        rows.add_roles(session, dataset, paths)
    with context.sessions.begin() as session:
        session.execute(delete(Dataset).where(Dataset.id == dataset.id))
    assert [count(context, model) for model in (DatasetSample, RoleSet, RoleEntry)] == [0, 0, 0]


def test_ids_are_made_by_the_service_and_times_by_the_database(context: Context) -> None:
    with context.sessions.begin() as session:
        encoder = rows.add_encoder(session)
        now = session.scalars(select(func.clock_timestamp())).one()
    assert isinstance(encoder.id, uuid.UUID)
    assert encoder.created_at <= now
    assert encoder.created_at.tzinfo is not None
