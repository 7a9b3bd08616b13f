"""Scores as a table: one row per sample, and its Parquet and CSV forms."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One sample's scores; see :class:`sslmem.scoring.SampleScore` for the fields they share.

    Attributes:
        sample: the image's path within the dataset.
        role: its split role, or None when roles were not given.
        skipped: why there is no score, or None.
    """

    sample: str
    role: str | None
    score: float | None
    score_bounded: float | None
    standard_error: float | None
    alignment_target: float | None
    alignment_reference: float | None
    skipped: str | None


SCHEMA = pa.schema(
    [
        pa.field("sample", pa.string(), nullable=False),
        pa.field("role", pa.string()),
        pa.field("score", pa.float64()),
        pa.field("score_bounded", pa.float64()),
        pa.field("standard_error", pa.float64()),
        pa.field("z", pa.float64()),
        pa.field("alignment_target", pa.float64()),
        pa.field("alignment_reference", pa.float64()),
        pa.field("skipped", pa.string()),
    ]
)


COLUMNS = tuple(SCHEMA.names)

Null = tuple[float, float] | None  # mean and standard deviation of the external samples' scores


def values_of(row: ScoreRow, null: Null) -> tuple[object, ...]:
    """A row's values in the order of the columns; ``z`` is the score in standard deviations of the null."""
    z = None
    if null is not None and null[1] > 0 and row.score is not None:
        z = (row.score - null[0]) / null[1]
    return tuple(z if name == "z" else getattr(row, name) for name in COLUMNS)


def score_table(rows: Sequence[ScoreRow], null: Null) -> pa.Table:
    """Builds the table of scores, rows in the order given."""
    values = [values_of(row, null) for row in rows]
    columns = {name: [row[i] for row in values] for i, name in enumerate(COLUMNS)}
    return pa.table(columns, schema=SCHEMA)


def write_parquet(path: Path, rows: Sequence[ScoreRow], null: Null, metadata: Iterable[tuple[str, str]]) -> None:
    """Writes the table of scores with what determined them (spec, digests) in the file's metadata."""
    table = score_table(rows, null)
    pq.write_table(table.replace_schema_metadata({f"sslmem.{key}": value for key, value in metadata}), path)
