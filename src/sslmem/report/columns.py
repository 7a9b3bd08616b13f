"""Scores by columns: what a million of them are summarised from."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from math import isnan
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sslmem.report.rows import ScoreRow

Floats = NDArray[np.float64]
NUMBERS = ("score", "score_bounded", "standard_error", "alignment_target", "alignment_reference")
TEXTS = ("sample", "role", "skipped", "sample_key")
LISTS = ("alignment_targets", "alignment_references")


@dataclass(frozen=True)
class ScoreColumns:
    """Columns ``[n]`` of :class:`ScoreRow` in one order; text is None, and numbers are nan, where there is none.

    Attributes:
        alignment_targets: ``[n, K]``, a column for each target; K is 0 where no row says them apart.
        alignment_references: likewise of the references.
    """

    sample: NDArray[Any]
    role: NDArray[Any]
    skipped: NDArray[Any]
    sample_key: NDArray[Any]
    score: Floats
    score_bounded: Floats
    standard_error: Floats
    alignment_target: Floats
    alignment_reference: Floats
    alignment_targets: Floats
    alignment_references: Floats

    def __len__(self) -> int:
        return len(self.sample)

    @staticmethod
    def of(rows: "Scores") -> "ScoreColumns":
        """The columns of some rows, or these themselves.

        Raises:
            ValueError: a score is nan, or some rows tell of more encoders than others.
        """
        if isinstance(rows, ScoreColumns):
            return rows
        rows = list(rows)
        if strange := [row.sample for row in rows if row.score is not None and isnan(row.score)]:
            raise ValueError(f"expected finite scores; that of {strange[0]} is not (a sample without a score has None)")
        numbers = {name: np.array([getattr(row, name) for row in rows], dtype=np.float64) for name in NUMBERS}
        words = {name: _objects([getattr(row, name) for row in rows]) for name in TEXTS}
        lists = {name: _lists([getattr(row, name) for row in rows], name) for name in LISTS}
        return ScoreColumns(**words, **numbers, **lists)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Self:
        """Some of the rows: those that a mask says, or of these numbers in their order."""
        return type(self)(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def has_score(self) -> NDArray[np.bool_]:
        """Which rows have a score."""
        return ~np.isnan(self.score)


Scores = Iterable[ScoreRow] | ScoreColumns


def _objects(values: list[str | None]) -> NDArray[Any]:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def _lists(values: list[Sequence[float] | None], name: str) -> Floats:
    width = {len(one) for one in values if one is not None}
    if len(width) > 1:
        raise ValueError(f"expected {name} of as many encoders in each row; found {sorted(width)}")
    none = [np.nan] * max(width, default=0)
    return np.array([none if one is None else one for one in values], dtype=np.float64).reshape(len(values), len(none))
