"""Scores by columns: what a million of them are summarised from."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sslmem.report.rows import ScoreRow

Floats = NDArray[np.float64]
NUMBERS = ("score", "score_bounded", "standard_error", "alignment_target", "alignment_reference")


@dataclass(frozen=True)
class ScoreColumns:
    """Columns ``[n]`` of :class:`ScoreRow` in one order; text is None, and numbers are nan, where there is none."""

    sample: NDArray[Any]
    role: NDArray[Any]
    skipped: NDArray[Any]
    score: Floats
    score_bounded: Floats
    standard_error: Floats
    alignment_target: Floats
    alignment_reference: Floats

    def __len__(self) -> int:
        return len(self.sample)

    @classmethod
    def of(cls, rows: Iterable[ScoreRow]) -> Self:
        """The columns of some rows."""
        rows = list(rows)
        numbers = {name: np.array([getattr(row, name) for row in rows], dtype=np.float64) for name in NUMBERS}
        words = {name: _objects([getattr(row, name) for row in rows]) for name in ("sample", "role", "skipped")}
        return cls(**words, **numbers)


def _objects(values: list[str | None]) -> NDArray[Any]:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column
