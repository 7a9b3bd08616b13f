"""Encoders and datasets from upload to ready: register, check, refuse, delete."""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import Field, TypeAdapter
from sqlalchemy import delete, exists, func, select, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from models.dataset import Dataset, DatasetSample
from models.encoder import REGISTRATION, Encoder
from service import jobs, usage
from service.artifacts import ArtifactStore, IncomingArtifact
from service.cursors import decode_cursor, encode_cursor
from service.database import storable
from service.errors import DatasetNotFound, EncoderNotFound, InUse, NotReady, ServiceError
from service.jobs import LeaseLost
from service.queue import CHECK_DATASET, CHECK_ENCODER, DEFAULT, JobQueue
from service.workers import clock, crew_of, outage

Row = TypeVar("Row", Encoder, Dataset)

IntakeModel = type[Encoder] | type[Dataset]

TASKS: dict[IntakeModel, str] = {Encoder: CHECK_ENCODER, Dataset: CHECK_DATASET}
_NOT_FOUND: dict[IntakeModel, type[ServiceError]] = {
    Encoder: EncoderNotFound,
    Dataset: DatasetNotFound,
}
# Failures of the service, after which the same registration is checked again.
NOT_ITS_FAULT = ("worker-lost", "worker-stalled", "internal-error", "deadline-passed")
SAME = {
    Encoder: REGISTRATION,
    Dataset: ("artifact_digest", "name"),
}


class CheckedSample(NamedTuple):
    """A sample as a worker found it: its label if it has one, why it cannot be scored if so, its perceptual hash."""

    path: str
    sample_key: str
    label: str | None = None
    skipped: str | None = None
    looks: bytes | None = None


_AFTER = TypeAdapter(tuple[Annotated[int, Field(ge=0, lt=2**31)]])


def register(
    session: Session, queue: JobQueue, store: ArtifactStore, model: type[Row], values: Mapping[str, Any]
) -> tuple[Row, bool]:
    """Adds an encoder or dataset, to be checked by a worker.

    Args:
        session: of the transaction.
        queue: told once that has committed.
        store: where the file is.
        model: which of the two.
        values: columns of the new row.

    Returns:
        The row, or the one that was registered with the same file and settings before; and whether it is new.

    Raises:
        ArtifactNotFound: the store does not hold the file.
    """
    values = {**values, "num_bytes": _keep_artifact(session, store, values["artifact_digest"])}
    if model is Encoder:
        # The check fills the two in; what was said stays beside them, so that saying it again finds the row.
        given = {"given_architecture": values["architecture"], "given_input_size": values["input_size"]}
        values = {"options": {}, **values, **given}
    statement = (
        postgresql.insert(model)
        .values(state="received", enqueued_at=func.clock_timestamp(), **values)
        .on_conflict_do_nothing()
        .returning(model.id)
    )
    row_id = session.scalar(statement)
    if row_id is not None:
        queue.send_after_commit(session, TASKS[model], row_id)
        return session.get_one(model, row_id), True
    conditions = [getattr(model, name).is_not_distinct_from(values.get(name)) for name in SAME[model]]
    row = session.scalars(select(model).where(*conditions).with_for_update()).one()
    row.released_at = func.clock_timestamp()  # somebody is about to use it: what unused ones are kept for begins anew
    if row.state == "refused" and row.failure_code in NOT_ITS_FAULT:
        row.state, row.attempts, row.available_at = "received", 0, func.clock_timestamp()
        row.enqueued_at = func.clock_timestamp()
        row.failure_code = row.failure_detail = None
        session.flush()
        queue.send_after_commit(session, TASKS[model], row.id)
    return row, False


def reason_of(session: Session, row: Encoder | Dataset) -> str | None:
    """Why the check of an encoder or dataset does not begin; None if it has."""
    if row.state != "received":
        return None
    crew = crew_of(session, DEFAULT)
    if crew.absence is not None:
        return crew.absence
    model, now = type(row), func.clock_timestamp()
    if row.failure_detail and session.scalar(select(exists().where(model.id == row.id, model.available_at > now))):
        return f"the check failed and is tried again at {clock(row.available_at)}: {row.failure_detail}"
    before = (model.state == "received") & (model.created_at < row.created_at)
    ahead = session.scalar(select(func.count()).where(before)) or 0
    turn = "it is next" if not ahead else f"{ahead} {'is' if ahead == 1 else 'are'} ahead"
    absence = outage(session)
    return f"waiting for a worker to check it: {turn}; {crew.presence}{f'; but {absence}' if absence else ''}"


def first_waiting(session: Session, model: IntakeModel) -> uuid.UUID | None:
    """The encoder or dataset that has waited longest for its check; None if none waits."""
    now = func.clock_timestamp()
    waiting = select(model.id).where(model.state == "received", model.available_at <= now)
    return session.scalar(waiting.order_by(model.created_at).limit(1))


def get(session: Session, model: type[Row], row_id: uuid.UUID) -> Row:
    """Returns an encoder or dataset.

    Raises:
        EncoderNotFound: there is none; for datasets DatasetNotFound.
    """
    row = session.get(model, row_id)
    if row is None:
        raise _NOT_FOUND[model](f"there is no {model.__name__.lower()} with the id {row_id}")
    return row


def hold(session: Session, model: type[Row], row_id: uuid.UUID) -> Row:
    """Returns an encoder or dataset that cannot be deleted until the transaction ends.

    Raises:
        EncoderNotFound: there is none; for datasets DatasetNotFound.
    """
    session.get(model, row_id, with_for_update={"read": True, "key_share": True})
    return get(session, model, row_id)


def require_ready(row: Encoder | Dataset) -> None:
    """Accepts a row that was checked and found usable.

    Raises:
        NotReady: it is not checked yet, or was refused.
    """
    kind = type(row).__name__.lower()
    if row.state == "refused":
        raise NotReady(f"the {kind} {row.name} ({row.id}) was refused: {row.failure_detail}")
    if row.state != "ready":
        raise NotReady(f"the {kind} {row.name} ({row.id}) has not been checked yet; wait until its state is ready")


def accept_encoder(
    session: Session, store: ArtifactStore, encoder_id: uuid.UUID, owner: str, found: Mapping[str, Any]
) -> None:
    """Marks an encoder ready with what the worker found.

    Raises:
        LeaseLost: it is no longer this worker's; the weights may be nobody's then.
        ArtifactNotFound: its weights were removed with another encoder that had the same; they must be made again.
    """
    values = storable(dict(found))
    with session.begin_nested():
        jobs.leave(session, Encoder, encoder_id, owner, "ready", failure_code=None, failure_detail=None, **values)
        _keep_artifact(session, store, found["weights_artifact_digest"])


def accept_dataset(
    session: Session, dataset_id: uuid.UUID, owner: str, samples: Iterable[CheckedSample], found: Mapping[str, Any]
) -> None:
    """Marks a dataset ready.

    Args:
        session: of the transaction.
        dataset_id: which one.
        owner: of the lease.
        samples: in the order of their paths; they go through, and are not kept.
        found: columns of the dataset.

    Raises:
        LeaseLost: it is no longer this worker's.
    """
    values = storable(dict(found))
    jobs.leave(session, Dataset, dataset_id, owner, "ready", failure_code=None, failure_detail=None, **values)
    copy_rows(
        session,
        "dataset_samples (dataset_id, position, path, sample_key, label, skipped, looks)",
        (
            (dataset_id, position, s.path, s.sample_key, storable(s.label), storable(s.skipped), s.looks)
            for position, s in enumerate(samples)
        ),
    )
    times = select(func.count().label("times")).where(DatasetSample.dataset_id == dataset_id)
    times = times.where(DatasetSample.skipped.is_(None)).group_by(DatasetSample.sample_key)
    several = times.having(func.count() > 1).subquery()
    num_equal = select(func.coalesce(func.sum(several.c.times), 0)).scalar_subquery()
    session.execute(update(Dataset).where(Dataset.id == dataset_id).values(num_equal=num_equal))


def page_of_samples(
    session: Session, dataset_id: uuid.UUID, *, skipped: bool, limit: int, cursor: str | None
) -> tuple[list[DatasetSample], str | None]:
    """Returns a page of a dataset's samples, or of those that cannot be scored, and the cursor of the next page.

    Raises:
        DatasetNotFound: there is no such dataset.
        InvalidRequest: the cursor is not one of this listing's.
    """
    get(session, Dataset, dataset_id)
    statement = select(DatasetSample).where(DatasetSample.dataset_id == dataset_id).order_by(DatasetSample.position)
    if skipped:
        statement = statement.where(DatasetSample.skipped.is_not(None))
    if cursor:
        statement = statement.where(DatasetSample.position > decode_cursor(cursor, _AFTER)[0])
    rows = list(session.scalars(statement.limit(limit + 1)))
    if len(rows) <= limit:
        return rows, None
    return rows[:limit], encode_cursor(rows[limit - 1].position)


def refuse(session: Session, model: IntakeModel, row_id: uuid.UUID, owner: str, *, code: str, detail: str) -> None:
    """Marks an encoder or dataset refused, for good.

    Raises:
        LeaseLost: it is no longer this worker's.
    """
    jobs.leave(session, model, row_id, owner, "refused", failure_code=code, failure_detail=storable(detail))


def retry_later(
    session: Session,
    model: IntakeModel,
    row_id: uuid.UUID,
    owner: str,
    *,
    max_attempts: int,
    code: str,
    detail: str,
) -> None:
    """Hands a row back after a failure that may pass; after too many of them it is refused.

    Raises:
        LeaseLost: it is no longer this worker's.
    """
    attempts = session.scalar(select(model.attempts).where(model.id == row_id))
    if attempts is None:
        raise LeaseLost  # it was deleted
    state = "refused" if attempts >= max_attempts else "received"
    values = {"available_at": jobs.back_off(attempts), "enqueued_at": None}
    jobs.leave(session, model, row_id, owner, state, failure_code=code, failure_detail=storable(detail), **values)


def remove(session: Session, model: type[Row], row_id: uuid.UUID) -> list[str]:
    """Deletes an encoder or dataset that no audit uses.

    Returns:
        The digests of its files, for :func:`discard_artifacts` once the transaction has committed.

    Raises:
        InUse: an audit uses it.
        EncoderNotFound: there is none; for datasets DatasetNotFound.
    """
    session.get(model, row_id, with_for_update=True)  # waits for a request that is about to use it
    row = get(session, model, row_id)
    require_unused(session, model, row_id, f"the {model.__name__.lower()} {row.name}")
    digests = [row.artifact_digest]
    if isinstance(row, Encoder) and row.weights_artifact_digest:
        digests.append(row.weights_artifact_digest)
    session.execute(delete(model).where(model.id == row_id))
    return digests


def require_unused(session: Session, model: usage.UsedModel, row_id: uuid.UUID, name: str) -> None:
    """Accepts a locked row that no audit uses.

    Raises:
        InUse: audits use it; they are named.
    """
    audits = usage.audits_of(session, model, row_id)
    if audits:
        first = ", ".join(str(audit_id) for audit_id in audits[:3]) + (", ..." if len(audits) > 3 else "")
        what = "an audit uses" if len(audits) == 1 else f"{len(audits)} audits use"
        raise InUse(f"{what} {name}; delete first: {first}", audits)


def release(session: Session, encoder_ids: Sequence[uuid.UUID], dataset_id: uuid.UUID) -> None:
    """Notes that an audit which used these is deleted: from now on they may be unused."""
    rows: list[tuple[IntakeModel, uuid.UUID]] = [(Encoder, row_id) for row_id in sorted(encoder_ids)]
    for model, row_id in (*rows, (Dataset, dataset_id)):  # in one order, so that nothing deadlocks
        session.execute(update(model).where(model.id == row_id).values(released_at=func.clock_timestamp()))


def store_upload(session: Session, artifact: IncomingArtifact) -> None:
    """Puts an upload into the store in the transaction that will refer to it: nobody discards it in between."""
    session.execute(select(func.pg_advisory_xact_lock_shared(_lock_key(artifact.digest))))
    artifact.place()


def discard_if_deleted(session: Session, store: ArtifactStore, encoder_id: uuid.UUID, digest: str) -> None:
    """Removes the weights that were made of an encoder that was deleted meanwhile; another worker's claim stays."""
    if session.scalar(select(Encoder.id).where(Encoder.id == encoder_id)) is None:
        discard_artifacts(session, store, [digest])


def discard_artifacts(session: Session, store: ArtifactStore, digests: Sequence[str]) -> None:
    """Removes files that nothing refers to any more."""
    for digest in sorted(digests):
        session.execute(select(func.pg_advisory_xact_lock(_lock_key(digest))))
        if not session.scalar(select(usage.named(digest))):
            store.remove(digest)


def _keep_artifact(session: Session, store: ArtifactStore, digest: str) -> int:
    """Returns the size of a file, which is not discarded before the transaction that will refer to it ends."""
    session.execute(select(func.pg_advisory_xact_lock_shared(_lock_key(digest))))
    return store.path(digest).stat().st_size


def _lock_key(digest: str) -> Any:  # noqa: ANN401  an SQL expression
    return func.hashtextextended(digest, 0)


def copy_rows(
    session: Session,
    target: str,
    rows: Any,  # noqa: ANN401  an iterable of tuples
    types: Sequence[str] | None = None,
) -> None:
    """Inserts rows by COPY within the session's transaction.

    Args:
        session: of the transaction.
        target: the table and its columns, a constant of ours.
        rows: tuples in that order.
        types: of the columns; with them rows go in binary, in less than half of the time.
    """
    session.flush()
    driver = session.connection().connection.driver_connection
    if driver is None:
        raise RuntimeError("the session has no connection to the database")
    form = " (FORMAT BINARY)" if types else ""
    with driver.cursor() as cursor, cursor.copy(f"COPY {target} FROM STDIN{form}") as copy:
        if types:
            copy.set_types(types)
        for row in rows:
            copy.write_row(row)
