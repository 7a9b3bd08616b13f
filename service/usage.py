"""What uses what, counted from the rows that say so whenever it is asked: there are no counters that could drift."""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, exists, func, or_, select, union_all
from sqlalchemy.orm import Session

from models.audit import Audit, AuditEncoder
from models.dataset import Dataset, RoleSet
from models.encoder import Encoder
from service.artifacts import ArtifactStore

UsedModel = type[Encoder] | type[Dataset] | type[RoleSet]

# Every column that names a file. A file that none of them names is nobody's.
NAMING = (Encoder.artifact_digest, Encoder.weights_artifact_digest, Dataset.artifact_digest)
# Which audits use a row: the column of the audit's id, and that of the row's.
USES: dict[UsedModel, tuple[Any, Any]] = {
    Encoder: (AuditEncoder.audit_id, AuditEncoder.encoder_id),
    Dataset: (Audit.id, Audit.dataset_id),
    RoleSet: (Audit.id, Audit.role_set_id),
}


def named(digest: str) -> ColumnElement[bool]:
    """Whether a row names the file with a digest."""
    return or_(*(exists().where(column == digest) for column in NAMING))


def used(model: UsedModel) -> ColumnElement[bool]:
    """Whether an audit uses a row, inside a statement on its table."""
    audit_id, row_id = USES[model]
    return select(audit_id).where(row_id == model.id).exists()


def audits_of(session: Session, model: UsedModel, row_id: uuid.UUID) -> list[uuid.UUID]:
    """The audits that use a row."""
    audit_id, used_id = USES[model]
    return list(session.scalars(select(audit_id).where(used_id == row_id).distinct()))


def num_audits(session: Session, model: UsedModel, row_ids: Iterable[uuid.UUID]) -> dict[uuid.UUID, int]:
    """How many audits use each of the rows."""
    row_ids = list(row_ids)
    audit_id, row_id = USES[model]
    counts = select(row_id, func.count(audit_id.distinct())).where(row_id.in_(row_ids)).group_by(row_id)
    return dict.fromkeys(row_ids, 0) | dict(session.execute(counts).all())


@dataclass(frozen=True)
class ArtifactUse:
    """A stored file and who needs it.

    Attributes:
        stored_at: when its last byte was written.
        unused_since: since when no audit needs it; None if one does.
    """

    digest: str
    num_bytes: int
    stored_at: datetime
    num_encoders: int
    num_datasets: int
    num_audits: int
    unused_since: datetime | None


def page_of_artifacts(
    session: Session, store: ArtifactStore, limit: int, after: str | None = None
) -> tuple[list[ArtifactUse], str | None]:
    """Returns some files in the order of their digests, and the digest that the next page comes after, if any."""
    files = []
    for file in store.files(after):
        files.append(file)
        if len(files) > limit:
            break
    page = files[:limit]
    counts = _counts(session, [file.digest for file in page])
    items = []
    for file in page:
        encoders, datasets, audits, since = counts.get(file.digest, (0, 0, 0, None))
        stored_at = datetime.fromtimestamp(file.modified_at, UTC)
        items.append(
            ArtifactUse(
                digest=file.digest,
                num_bytes=file.num_bytes,
                stored_at=stored_at,
                num_encoders=encoders,
                num_datasets=datasets,
                num_audits=audits,
                unused_since=None if audits else since or stored_at,
            )
        )
    return items, page[-1].digest if len(files) > limit else None


def _counts(session: Session, digests: list[str]) -> dict[str, tuple[int, int, int, datetime | None]]:
    """Encoders, datasets and audits that need each file, and since when the rows that name it are unused."""
    since = func.coalesce(Encoder.released_at, Encoder.created_at).label("since")
    naming = union_all(
        *(
            select(column.label("digest"), Encoder.id.label("row_id"), since).where(column.in_(digests))
            for column in (Encoder.artifact_digest, Encoder.weights_artifact_digest)
        )
    ).subquery()
    encoders = (
        select(
            naming.c.digest,
            func.count(naming.c.row_id.distinct()),
            func.count(AuditEncoder.audit_id.distinct()),
            func.max(naming.c.since),
        )
        .outerjoin(AuditEncoder, AuditEncoder.encoder_id == naming.c.row_id)
        .group_by(naming.c.digest)
    )
    datasets = (
        select(
            Dataset.artifact_digest,
            func.count(Dataset.id.distinct()),
            func.count(Audit.id),
            func.max(func.coalesce(Dataset.released_at, Dataset.created_at)),
        )
        .outerjoin(Audit, Audit.dataset_id == Dataset.id)
        .where(Dataset.artifact_digest.in_(digests))
        .group_by(Dataset.artifact_digest)
    )
    found: dict[str, tuple[int, int, int, datetime | None]] = {
        digest: (rows, 0, audits, last) for digest, rows, audits, last in session.execute(encoders)
    }
    for digest, rows, audits, last in session.execute(datasets):
        encoder_rows, _, encoder_audits, earlier = found.get(digest, (0, 0, 0, None))
        found[digest] = (encoder_rows, rows, encoder_audits + audits, max(last, earlier or last))
    return found
