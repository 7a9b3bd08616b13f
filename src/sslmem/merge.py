"""Puts scores of several runs together, exactly as one run over all would have given them.

More samples: any runs with the same encoders and spec. More references: runs with the same targets, spec and
samples that kept their distances. More views need no merging: a view is a function of its index, so a run with more
views repeats the earlier ones bit by bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from sslmem.errors import IncompatibleScores
from sslmem.local import LocalScores, as_row
from sslmem.report.rows import ScoreRow
from sslmem.report.summary import Summary, summarize
from sslmem.scoring import reduce_distances, score_of


@dataclass(frozen=True)
class StoredScores:
    """A file of scores as ``sslmem score`` writes it."""

    name: str
    summary: Summary
    rows: list[ScoreRow]


def read_scores(path: Path) -> StoredScores:
    """Reads a file of scores.

    Raises:
        IncompatibleScores: the file is not one that ``sslmem score`` wrote.
    """
    try:
        table = pq.read_table(path)
        summary = Summary.model_validate_json((table.schema.metadata or {})[b"sslmem.summary"])
        names = [field.name for field in fields(ScoreRow) if field.name in table.column_names]
        rows = [ScoreRow(**{name: row[name] for name in names}) for row in table.to_pylist()]
    except Exception as error:
        raise IncompatibleScores(f"expected a Parquet file of sslmem score; {path} is none ({error})") from error
    return StoredScores(path.name, summary, rows)


def merge_scores(parts: Sequence[StoredScores]) -> LocalScores:
    """Merges runs over more samples, or with more references.

    Raises:
        IncompatibleScores: spec, targets or samples differ where they must not, or distances were not kept.
    """
    first = parts[0]
    for part in parts[1:]:
        if part.summary.spec_digest != first.summary.spec_digest:
            raise IncompatibleScores(f"{first.name} and {part.name} were measured by different score specs")
        if part.summary.target_digests != first.summary.target_digests:
            raise IncompatibleScores(f"{first.name} and {part.name} are of different targets")
    if first.summary.spec.refine is not None and len(parts) > 1:
        raise IncompatibleScores(
            "runs in two stages do not merge: one run over all would choose other samples for its second stage; "
            "score them again together, or in one stage"
        )
    references = [part.summary.reference_digests for part in parts]
    alike = all(digests == references[0] for digests in references)
    rows = _more_samples(parts) if alike else _more_references(parts)
    summary = summarize(
        rows,
        first.summary.spec,
        target_digests=first.summary.target_digests,
        reference_digests=references[0] if alike else [digest for digests in references for digest in digests],
        conditions=[condition for part in parts for condition in part.summary.conditions],
    )
    return LocalScores(rows, summary)


def _more_samples(parts: Sequence[StoredScores]) -> list[ScoreRow]:
    found: dict[str, ScoreRow] = {}
    for part in parts:
        for row in part.rows:
            known = found.setdefault(row.sample, row)
            if (known.role, known.sample_key) != (row.role, row.sample_key):
                raise IncompatibleScores(f"{row.sample} has another role or content in {part.name} than before")
    return list(found.values())


def _more_references(parts: Sequence[StoredScores]) -> list[ScoreRow]:
    digests = [digest for part in parts for digest in part.summary.reference_digests]
    if len(set(digests)) < len(digests):
        raise IncompatibleScores("a reference is in several of the runs; expected each in one")
    by_sample = [{row.sample: row for row in part.rows} for part in parts]
    if any(rows.keys() != by_sample[0].keys() for rows in by_sample):
        raise IncompatibleScores("the runs have different references and different samples; expected one or the other")
    num_targets = len(parts[0].summary.target_digests)
    return [_joined([rows[sample] for rows in by_sample], num_targets, parts[0].summary) for sample in by_sample[0]]


def _joined(rows: Sequence[ScoreRow], num_targets: int, summary: Summary) -> ScoreRow:
    first = rows[0]
    skipped = next((row for row in rows if row.skipped is not None), None)
    if skipped is not None:
        return skipped
    kept = [row.distances for row in rows]
    if any(one is None or len(one[0]) != len(kept[0][0]) for one in kept if kept[0] is not None) or kept[0] is None:
        raise IncompatibleScores(
            f"{first.sample}: adding references needs the distances of each run; score with --keep-distances"
        )
    blocks = [np.asarray(one, dtype=np.float32) for one in kept]
    if any(not np.array_equal(block[:num_targets], blocks[0][:num_targets]) for block in blocks):
        raise IncompatibleScores(f"{first.sample}: the runs do not agree on the targets; were the images the same?")
    joined = np.concatenate([blocks[0], *(block[num_targets:] for block in blocks[1:])])  # [E, P]
    row = reduce_distances(torch.from_numpy(joined)[:, None], num_targets, summary.spec)[0].tolist()
    score = score_of(first.sample, first.sample_key or "", row, num_targets, first.num_views or 0, joined)
    return as_row(score, first.role)
