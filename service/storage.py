"""How much is stored: files by who names them, rows by table, and how much room is left."""

import shutil
from dataclasses import dataclass

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from models.dataset import Dataset
from models.encoder import Encoder
from service.artifacts import ArtifactStore


@dataclass(frozen=True)
class Files:
    """Files of one kind: ``dataset``, ``encoder``, ``weights`` (made by the check), ``unnamed`` or ``incoming``."""

    kind: str
    num_files: int
    num_bytes: int


@dataclass(frozen=True)
class Rows:
    """A table; rows as the database's statistics have them, bytes with indexes."""

    table: str
    num_rows_estimated: int
    num_bytes: int


@dataclass(frozen=True)
class Storage:
    """What is stored, and the room left on the disk of the files, in bytes."""

    files: list[Files]
    tables: list[Rows]
    free_bytes: int


def storage(session: Session, store: ArtifactStore) -> Storage:
    """Looks at every file and table."""
    kinds = {
        kind: set(session.scalars(select(column).where(column.is_not(None))))
        for kind, column in (
            ("dataset", Dataset.artifact_digest),
            ("encoder", Encoder.artifact_digest),
            ("weights", Encoder.weights_artifact_digest),
        )
    }
    sizes: dict[str, list[int]] = {kind: [] for kind in (*kinds, "unnamed")}
    for file in store.files():
        kind = next((kind for kind, digests in kinds.items() if file.digest in digests), "unnamed")
        sizes[kind].append(file.num_bytes)
    sizes["incoming"] = store.incoming_sizes()
    tables = session.execute(
        text(
            "SELECT relname, n_live_tup, pg_total_relation_size(relid) FROM pg_stat_user_tables "
            "WHERE schemaname = current_schema() ORDER BY 3 DESC, 1"
        )
    )
    store.root.mkdir(parents=True, exist_ok=True)
    return Storage(
        files=[Files(kind, len(found), sum(found)) for kind, found in sizes.items()],
        tables=[Rows(*row) for row in tables],
        free_bytes=shutil.disk_usage(store.root).free,
    )
