"""A row that a worker's process has: it shows what it is at, and stops when the row is no longer its own.

The lease itself is renewed by the parent (worker.keeper): a process that is stuck cannot say so.
"""

import os
import uuid
from dataclasses import replace
from typing import Self

from service.jobs import LeasedModel, LeaseLost
from sslmem.conditions import Conditions
from worker.board import Board, Work


class Lease:
    """A claimed row, shown on the board until the block ends.

    Attributes:
        conditions: set by the work, to be recorded with its scores.
    """

    def __init__(self, board: Board, model: LeasedModel, row_id: uuid.UUID, owner: str) -> None:
        self._board = board
        self._work = Work(os.getpid(), model.__name__, row_id.hex, owner)
        self._before: Work | None = None
        self.conditions: Conditions | None = None

    def __enter__(self) -> Self:
        self._before = self._board.read()
        self._board.show(self._work)
        return self

    def __exit__(self, *exc: object) -> None:
        # The task goes on; of it this is a sign.
        self._board.show(self._before and replace(self._before, signs=self._before.signs + 1))

    def advance(self, num_done: int | None = None) -> None:
        """Shows that the work goes on, and how many samples are done.

        Raises:
            LeaseLost: the row is no longer this process's.
        """
        self._work = replace(self._work, signs=self._work.signs + 1, num_done=num_done)
        self._board.show(self._work)
        if self._board.is_dropped(self._work.owner):
            raise LeaseLost
