"""Keeps a lease alive from a thread while the work goes on, and tells when it is lost."""

import logging
import threading
import uuid
from typing import Self

from models.database import SessionFactory
from service import jobs
from sslmem.conditions import Conditions

logger = logging.getLogger(__name__)

BEATS_PER_LEASE = 6


class Lease:
    """A claimed row. The lease is renewed until the block ends; progress is written along.

    Attributes:
        num_done: set by the work, for progress.
        conditions: set by the work, to be recorded with its scores.
        lost: set when the row is no longer this worker's, or was cancelled.
    """

    def __init__(
        self, sessions: SessionFactory, model: jobs.JobModel, row_id: uuid.UUID, owner: str, lease_seconds: float
    ) -> None:
        self._sessions, self._model, self._row_id, self._owner = sessions, model, row_id, owner
        self._lease_seconds = lease_seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self.num_done: int | None = None
        self.conditions: Conditions | None = None
        self.lost = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()

    def check(self) -> None:
        """Stops the work when the lease is lost.

        Raises:
            LeaseLost: it is.
        """
        if self.lost.is_set():
            raise jobs.LeaseLost

    def _keep(self) -> None:
        interval = min(self._lease_seconds / BEATS_PER_LEASE, 2.0)  # a cancellation is noticed within 2 seconds
        while not self._ended.wait(interval):
            progress = {} if self.num_done is None else {"num_done": self.num_done}
            try:
                with self._sessions.begin() as session:
                    if not jobs.renew(session, self._model, self._row_id, self._owner, self._lease_seconds, **progress):
                        self.lost.set()
                        return
            except Exception:
                logger.exception("the lease on %s was not renewed; trying again", self._row_id)
