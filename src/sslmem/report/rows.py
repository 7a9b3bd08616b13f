"""Scores as a table: one row per sample, and its Parquet and CSV forms."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One sample's scores; see :class:`sslmem.scoring.SampleScore` for the fields they share.

    Attributes:
        sample: the image's path within the dataset.
        role: its split role, or None when roles were not given.
        skipped: why there is no score, or None.
        representations: float32 ``[E, V, D]`` as bytes, where they were kept.
    """

    sample: str
    role: str | None
    score: float | None
    score_bounded: float | None
    standard_error: float | None
    alignment_target: float | None
    alignment_reference: float | None
    skipped: str | None
    sample_key: str | None = None
    alignment_targets: Sequence[float] | None = None
    alignment_references: Sequence[float] | None = None
    reference_spread: float | None = None
    num_views: int | None = None
    distances: NDArray[np.float32] | None = None
    representations: bytes | None = None


@dataclass(frozen=True)
class Scales:
    """What scores are set in relation to, once all are known.

    Attributes:
        null: mean and standard deviation of the external samples' scores, for ``z``.
        compat_range: what ``score_compat`` divides by; None without a published convention.
    """

    null: tuple[float, float] | None = None
    compat_range: float | None = None

    def relate(self, score: float | None) -> dict[str, float | None]:
        """A score's ``z`` and ``score_compat``; None where there is nothing to relate it to."""
        z = compat = None
        if score is not None and self.null is not None and self.null[1] > 0:
            z = (score - self.null[0]) / self.null[1]
        if score is not None and self.compat_range:
            compat = score / self.compat_range
        return {"z": z, "score_compat": compat}


NOTHING = Scales()

SCHEMA = pa.schema(
    [
        pa.field("sample", pa.string(), nullable=False),
        pa.field("role", pa.string()),
        pa.field("score", pa.float64()),
        pa.field("score_bounded", pa.float64()),
        pa.field("standard_error", pa.float64()),
        pa.field("z", pa.float64()),
        pa.field("score_compat", pa.float64()),
        pa.field("alignment_target", pa.float64()),
        pa.field("alignment_reference", pa.float64()),
        pa.field("alignment_targets", pa.list_(pa.float64())),
        pa.field("alignment_references", pa.list_(pa.float64())),
        pa.field("reference_spread", pa.float64()),
        pa.field("num_views", pa.int32()),
        pa.field("sample_key", pa.string()),
        pa.field("skipped", pa.string()),
    ]
)
# float32 [E, P], of each target, then of each reference; only where they were kept.
DISTANCES = pa.field("distances", pa.list_(pa.list_(pa.float32())))
REPRESENTATIONS = pa.field("representations", pa.large_binary())

COLUMNS = tuple(SCHEMA.names)
# CSV has numbers and text alone.
CSV_COLUMNS = tuple(field.name for field in SCHEMA if not pa.types.is_list(field.type))


def values_of(row: ScoreRow, scales: Scales, columns: Sequence[str] = COLUMNS) -> tuple[object, ...]:
    """A row's values in the order of the columns.

    ``z`` is the score in standard deviations of the null; ``score_compat`` is the score divided by the range that a
    published convention divides by.
    """
    derived = scales.relate(row.score)
    return tuple(derived[name] if name in derived else getattr(row, name) for name in columns)


def score_table(rows: Sequence[ScoreRow], scales: Scales) -> pa.Table:
    """Builds the table of scores, rows in the order given, with distances where rows carry them."""
    values = [values_of(row, scales) for row in rows]
    columns = {name: [row[i] for row in values] for i, name in enumerate(COLUMNS)}
    table = pa.table(columns, schema=SCHEMA)
    if any(row.distances is not None for row in rows):
        kept = [None if row.distances is None else list(row.distances) for row in rows]
        table = table.append_column(DISTANCES, pa.array(kept, type=DISTANCES.type))
    if any(row.representations is not None for row in rows):
        made = [row.representations for row in rows]
        table = table.append_column(REPRESENTATIONS, pa.array(made, type=REPRESENTATIONS.type))
    return table


def write_parquet(path: Path, rows: Sequence[ScoreRow], scales: Scales, metadata: Iterable[tuple[str, str]]) -> None:
    """Writes the table of scores with what determined them (spec, digests) in the file's metadata."""
    table = score_table(rows, scales)
    pq.write_table(table.replace_schema_metadata({f"sslmem.{key}": value for key, value in metadata}), path)
