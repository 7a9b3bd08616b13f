"""Scores as a Parquet file, written and sent row group by row group."""

import tempfile
import uuid
from collections.abc import Iterator
from itertools import islice

import pyarrow.parquet as pq

from service import results
from service.context import Context
from sslmem.report.rows import SCHEMA, score_table
from sslmem.report.summary import Summary

ROWS_PER_GROUP = 50_000


def parquet_stream(context: Context, audit_id: uuid.UUID, summary: Summary) -> Iterator[bytes]:
    """Yields the bytes of the file; the spec's digest and the summary are in its metadata."""
    metadata = {"sslmem.spec_digest": summary.spec_digest, "sslmem.summary": summary.model_dump_json()}
    with tempfile.TemporaryFile() as file:
        with context.sessions.begin() as session, pq.ParquetWriter(file, SCHEMA.with_metadata(metadata)) as writer:
            remaining = results.all_rows(session, audit_id)
            while rows := list(islice(remaining, ROWS_PER_GROUP)):
                writer.write_table(score_table(rows, summary.scales).replace_schema_metadata(metadata))
        file.seek(0)
        while block := file.read(2**20):
            yield block
