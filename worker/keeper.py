"""The parent's watch over its process: renews leases, and ends a process that is stuck, or will not let go.

The process computes and cannot be trusted to beat: it may hang in a driver, be stopped, or be killed for its memory.
The parent does nothing else, so its beats tell the truth about it, and it knows at once when the process is dead.
"""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import cast

from models.audit import Audit, Chunk
from models.database import SessionFactory
from service import chunks, jobs
from service.database import Session, limit_lock_wait
from service.embedded.process import alive
from service.jobs import LeaseLost
from service.losses import KILLED, STALLED, Loss, free
from service.settings import Settings
from worker.board import MODELS, Board, Work

logger = logging.getLogger(__name__)

Verdict = Callable[[Session], object]  # writes what becomes of a row

BEATS_PER_LEASE = 6
MAX_INTERVAL = 1.0  # so that a cancellation is noticed within a second
LOCK_SECONDS = 2.0  # that a renewal waits
LET_GO_SECONDS = 5.0  # for a process whose row was taken away, before it is killed
HAND_BACK_SECONDS = 10.0  # for a process whose worker is asked to stop, before it is killed


class Keeper:
    """Looks at the board again and again.

    Args:
        sessions: to renew with.
        board: that the process writes to.
        settings: of the deployment.
        now: a clock in seconds.
        kill: ends a process.
    """

    def __init__(
        self,
        sessions: SessionFactory,
        board: Board,
        settings: Settings,
        *,
        now: Callable[[], float] = time.monotonic,
        kill: Callable[[int], None] | None = None,
    ) -> None:
        self._sessions, self._board, self._settings = sessions, board, settings
        self._now, self._kill = now, kill or _kill
        self._seen: Work | None = None
        self._moved_at = self._now()
        self._dropped_at: float | None = None
        self._over: str | None = None  # the owner of a row that was settled here
        self._verdict: Verdict | None = None  # what is to become of it, until that is written
        self.stopping_since: float | None = None
        self._received = 0  # tasks, by this parent
        self._waits_since: float | None = None  # a task that the process has not begun, though it is at nothing
        self._begun = 0

    def received(self) -> None:
        """Notes that a task has come, which is handed to the process."""
        self._received += 1

    def run(self, stop: threading.Event) -> None:
        """Looks until told to stop; a database that is away is waited for."""
        interval = min(self._settings.lease_seconds / BEATS_PER_LEASE, MAX_INTERVAL)
        while not stop.wait(interval):
            try:
                self.look()
            except Exception:
                logger.exception("the lease was not renewed; trying again")

    def look(self) -> None:
        """Looks once."""
        self._say_verdict()
        work = self._board.read()
        self._look_back(work)
        self._judge_idle(work)
        if work is None or work.owner == self._over:
            return
        if self._seen != work:
            self._seen, self._moved_at = work, self._now()
        verdict = self._judge(work, self._now())
        if verdict is not None:
            self._settle(work, verdict)
        elif not work.is_task and self._dropped_at is None and not self._renew(work):
            logger.warning("%s %s is no longer ours; the work on it is dropped", work.kind, work.id)
            self._board.drop(work.owner)
            self._dropped_at = self._now()

    def _look_back(self, work: Work | None) -> None:
        """If the process died, and the next one has shown its own work already, its row is freed all the same.

        What it had ended before it died is not its own any more, and stays as it is.
        """
        before = self._seen
        if before is None or (work is not None and work.owner == before.owner):
            return
        self._seen = self._dropped_at = None
        if not before.is_task and before.owner != self._over and not alive(before.pid):
            self._settle(before, lambda session: self._free(session, before, KILLED))

    def _judge_idle(self, work: Work | None) -> None:
        """Ends a process that is at nothing and does not begin the task that waits for it."""
        pid, begun = self._board.process()
        if work is not None or begun >= self._received or begun != self._begun:
            self._waits_since, self._begun = None, begun
            return
        self._waits_since = self._waits_since or self._now()
        if self._now() - self._waits_since > self._settings.stall_seconds:
            self._received, self._waits_since = begun, None  # a task that never came to it is not waited for twice
            if pid is not None and alive(pid):
                logger.warning("process %d is ended, which did not begin its task", pid)
                self._kill(pid)

    def _judge(self, work: Work, now: float) -> Verdict | None:
        """What is to become of a row whose process is at its end; None if it may go on."""
        stalled = now - self._moved_at > self._settings.stall_seconds
        if work.is_task:
            return _nothing if stalled else None
        if not alive(work.pid):
            return lambda session: self._free(session, work, KILLED)
        if stalled:
            return lambda session: self._free(session, work, STALLED)
        if self.stopping_since is not None and now - self.stopping_since > HAND_BACK_SECONDS:
            return lambda session: _hand_back(session, work)
        if self._dropped_at is not None and now - self._dropped_at > LET_GO_SECONDS:
            return _nothing
        return None

    def _renew(self, work: Work) -> bool:
        progress = {} if work.num_done is None or work.model is not Chunk else {"num_done": work.num_done}
        with self._sessions.begin() as session:
            limit_lock_wait(session, LOCK_SECONDS)  # the process itself may have the row locked, and hang
            return jobs.renew(session, work.model, work.id, work.owner, self._settings.lease_seconds, **progress)

    def _settle(self, work: Work, verdict: Verdict) -> None:
        """Ends the process, then says what becomes of its row, so that it cannot come back to it."""
        logger.warning("process %d is ended, which had %s", work.pid, work.kind)
        if alive(work.pid):
            self._kill(work.pid)
        self._over, self._verdict = work.owner, verdict
        self._say_verdict()

    def _say_verdict(self) -> None:
        """Writes the verdict on the last process that was ended; a database that is away hears it later."""
        if self._verdict is not None:
            with contextlib.suppress(LeaseLost), self._sessions.begin() as session:
                limit_lock_wait(session, LOCK_SECONDS)
                self._verdict(session)
            self._verdict = None

    def _free(self, session: Session, work: Work, loss: Loss) -> None:
        ours = MODELS[work.kind].lease_owner == work.owner
        free(session, work.model, work.id, ours, loss, self._settings.max_attempts)


def _hand_back(session: Session, work: Work) -> None:
    if work.model is Audit:
        chunks.give_up_finalising(session, work.id, work.owner, None)
    elif work.model is Chunk:
        chunks.hand_back(session, work.id, work.owner)
    else:
        jobs.hand_back(session, cast("jobs.JobModel", work.model), work.id, work.owner)


def _nothing(_: Session) -> None:
    """Of a row that is no longer the process's, or that it never had."""


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
