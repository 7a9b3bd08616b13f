"""Puts scores of several runs together, exactly as one run over all would have given them.

More samples: any runs with the same encoders and spec. More references: runs with the same targets, spec and
samples that kept their distances. More views: a new run that takes what the encoders made of the earlier views from a
run that kept it, and makes the further ones alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from sslmem.errors import IncompatibleScores
from sslmem.local import LocalScores, as_row
from sslmem.report.rows import ScoreRow
from sslmem.report.summary import Summary, summarize
from sslmem.scoring import reduce_distances, score_of
from sslmem.spec import ScoreSpec

ROUNDING = 1e-4  # relative, of float32 distances on other machines; on one machine they are equal


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


def representations_of(
    scores: StoredScores, spec: ScoreSpec, target_digests: Sequence[str], reference_digests: Sequence[str]
) -> dict[str, NDArray[np.float32]]:
    """What the encoders made of a run's views, ``[E, V, D]`` by sample key, for a run with more of them.

    Args:
        scores: that kept it.
        spec: of the run with more views.
        target_digests: of that run.
        reference_digests: likewise.

    Raises:
        IncompatibleScores: spec or encoders differ in more than the number of views, or it was not kept.
    """
    summary = scores.summary
    if (list(target_digests), list(reference_digests)) != (summary.target_digests, summary.reference_digests):
        raise IncompatibleScores(f"{scores.name} is of other encoders; views are added for the same, in their order")
    if spec.model_copy(update={"views": summary.spec.views}) != summary.spec or spec.views <= summary.spec.views:
        raise IncompatibleScores(
            f"{scores.name} was measured by another score spec; expected it to differ in nothing but fewer views"
        )
    scored = [row for row in scores.rows if row.alignment_target is not None]
    if not scored or any(row.representations is None for row in scored):
        raise IncompatibleScores(f"{scores.name} has no representations; score with --keep-representations")
    shape = (len(target_digests) + len(reference_digests), summary.spec.views + (spec.pairing == "original"), -1)
    return {
        str(row.sample_key): np.frombuffer(row.representations or b"", dtype="<f4").reshape(shape) for row in scored
    }


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
    if first.summary.spec.refine is not None:
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
    if any(row.sample_key != first.sample_key for row in rows):
        raise IncompatibleScores(f"{first.sample}: the runs saw different images")
    blocks = [np.asarray(one, dtype=np.float32) for one in kept]
    if any(not np.allclose(block[:num_targets], blocks[0][:num_targets], rtol=ROUNDING, atol=0) for block in blocks):
        raise IncompatibleScores(
            f"{first.sample}: the runs measured the same targets differently, beyond rounding; was one of them in a "
            "lower precision? Score them again in float32"
        )
    joined = np.concatenate([blocks[0], *(block[num_targets:] for block in blocks[1:])])  # [E, P]
    row = reduce_distances(torch.from_numpy(joined)[:, None], num_targets, summary.spec)[0].tolist()
    score = score_of(first.sample, first.sample_key or "", row, num_targets, first.num_views or 0, joined)
    return as_row(score, first.role)
