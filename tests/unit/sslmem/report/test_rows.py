"""The table of scores and its Parquet form."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sslmem.report.rows import COLUMNS, CSV_COLUMNS, NOTHING, SCHEMA, Scales, score_table, values_of, write_parquet
from tests.unit.builders import row

ROWS = [row("b.png", "candidate", 0.5), row("a.png", None, -0.25), row("ä/c.png", "external", None)]
NULL = Scales(null=(0.1, 0.2))


def test_columns_are_those_that_readers_rely_on() -> None:
    assert COLUMNS == (
        "sample",
        "role",
        "score",
        "score_bounded",
        "standard_error",
        "z",
        "score_compat",
        "alignment_target",
        "alignment_reference",
        "alignment_targets",
        "alignment_references",
        "reference_spread",
        "num_views",
        "sample_key",
        "skipped",
    )


def test_csv_has_the_columns_of_single_values() -> None:
    assert set(COLUMNS) - set(CSV_COLUMNS) == {"alignment_targets", "alignment_references"}
    assert [name for name in COLUMNS if name in CSV_COLUMNS] == list(CSV_COLUMNS)


def test_distances_are_a_column_only_where_they_were_kept() -> None:
    kept = replace(ROWS[0], distances=np.array([[0.5, 0.25], [1.0, 2.0]], dtype=np.float32))
    table = score_table([kept, ROWS[1]], NOTHING)
    assert table.column("distances").to_pylist() == [[[0.5, 0.25], [1.0, 2.0]], None]
    assert "distances" not in score_table(ROWS, NOTHING).column_names


def test_rows_keep_their_order_and_values() -> None:
    table = score_table(ROWS, NULL)
    assert table.schema == SCHEMA
    assert table.column("sample").to_pylist() == ["b.png", "a.png", "ä/c.png"]
    assert table.column("role").to_pylist() == ["candidate", None, "external"]
    assert table.column("score").to_pylist() == [0.5, -0.25, None]
    assert table.column("score_bounded").to_pylist() == [0.25, -0.125, None]
    assert table.column("skipped").to_pylist() == [None, None, "image-undecodable: it is no image"]


def test_z_is_the_score_in_deviations_of_the_null() -> None:
    assert score_table(ROWS, NULL).column("z").to_pylist() == [pytest.approx(2.0), pytest.approx(-1.75), None]


@pytest.mark.parametrize("null", [None, (0.1, 0.0)])
def test_without_a_null_of_some_width_there_is_no_z(null: tuple[float, float] | None) -> None:
    assert score_table(ROWS, Scales(null=null)).column("z").to_pylist() == [None] * 3


def test_values_come_in_the_order_of_the_columns() -> None:
    values = dict(zip(COLUMNS, values_of(ROWS[0], NULL), strict=True))
    assert values["sample"] == "b.png"
    assert values["z"] == pytest.approx(2.0)
    assert values["alignment_reference"] == 1.25


def test_table_of_no_rows_has_the_columns() -> None:
    assert score_table([], NOTHING).schema == SCHEMA


def test_parquet_file_reads_back_with_what_determined_it(tmp_path: Path) -> None:
    write_parquet(tmp_path / "scores.parquet", ROWS, NULL, [("spec_digest", "sha256:x"), ("summary", "{}")])
    table = pq.read_table(tmp_path / "scores.parquet")
    assert table.equals(score_table(ROWS, NULL))
    assert table.schema.metadata == {b"sslmem.spec_digest": b"sha256:x", b"sslmem.summary": b"{}"}
    assert table.schema.field("score").type == pa.float64()
