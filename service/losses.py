"""What becomes of a row whose worker was lost: another one gets it, or, after too many tries, that is its end.

Called for a single row by the parent of the process that had it, which knows at once, and by the sweeper for whatever
lease ran out.
"""

import uuid
from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from models.audit import Audit, Chunk
from models.dataset import Dataset
from models.encoder import Encoder
from service import states
from service.audits import lock_audit
from service.jobs import STATES, LeasedModel, back_off

MAX_FINALISE_ATTEMPTS = 5


@dataclass(frozen=True)
class Loss:
    """Why a worker counts as lost: a stable code, and how a sentence about it goes on."""

    code: str
    how: str


SILENT = Loss("worker-lost", "was lost: it was killed, ran out of memory or was cut off")
KILLED = Loss("worker-lost", "was lost: its process was killed or ran out of memory")
STALLED = Loss("worker-stalled", "showed no progress for too long and was ended")


def free(
    session: Session,
    model: LeasedModel,
    row_id: uuid.UUID,
    still: ColumnElement[bool],
    loss: Loss,
    max_attempts: int,
) -> bool:
    """Takes a row from its lost worker; False if that is not so (any more).

    Args:
        session: of the transaction.
        model: of the row.
        row_id: of the row.
        still: what must hold once the row is locked.
        loss: why.
        max_attempts: after so many tries it ends as failed.
    """
    if model is Chunk:
        return _free_chunk(session, row_id, still, loss, max_attempts)
    if model is Audit:
        return _free_audit(session, row_id, still, loss)
    # One that another transaction holds is not waited for: that one is about to move it.
    row: Encoder | Dataset | None = session.scalar(_locked(model, row_id, still).with_for_update(skip_locked=True))
    if row is None:
        return False
    row.lease_owner = row.lease_expires_at = row.enqueued_at = None
    row.failure_code = loss.code
    row.failure_detail = f"the worker that checked it {loss.how}; tried {_times(row.attempts)}"
    row.state = STATES[model].failed if row.attempts >= max_attempts else STATES[model].waiting
    session.flush()
    return True


def _free_chunk(
    session: Session, chunk_id: uuid.UUID, still: ColumnElement[bool], loss: Loss, max_attempts: int
) -> bool:
    audit_id = session.scalar(select(Chunk.audit_id).where(Chunk.id == chunk_id))
    audit = lock_audit(session, audit_id) if audit_id else None
    chunk: Chunk | None = session.scalar(_locked(Chunk, chunk_id, still))
    if audit is None or chunk is None:
        return False
    chunk.lease_owner = chunk.lease_expires_at = chunk.enqueued_at = None
    chunk.num_done = 0
    chunk.failure_code = loss.code
    chunk.failure_detail = (
        f"the worker on samples {chunk.start} to {chunk.stop - 1} {loss.how}; tried {_times(chunk.attempts)}"
    )
    if chunk.attempts >= max_attempts:
        chunk.state = "failed"
        session.flush()  # so that the chunk's event comes before the audit's
        states.fail(session, audit, loss.code, chunk.failure_detail)
    else:
        # At once the first time; then with pauses, so that what is broken does not use up all tries in a moment.
        chunk.available_at = back_off(chunk.attempts - 1) if chunk.attempts > 1 else func.clock_timestamp()
        chunk.state = "queued"
    session.flush()
    return True


def _free_audit(session: Session, audit_id: uuid.UUID, still: ColumnElement[bool], loss: Loss) -> bool:
    audit: Audit | None = session.scalar(_locked(Audit, audit_id, still))
    if audit is None:
        return False
    give_up_summary(session, audit, f"the worker that summarised it {loss.how}")
    audit.enqueued_at = None
    session.flush()
    return True


def give_up_summary(session: Session, audit: Audit, why: str) -> None:
    """Notes that summarising a locked audit failed: it is tried again, or, after too many tries, the audit fails."""
    audit.lease_owner = audit.lease_expires_at = None
    if audit.finalise_attempts >= MAX_FINALISE_ATTEMPTS:
        detail = f"the scores are complete but summarising them failed {_times(audit.finalise_attempts)}; {why}"
        states.fail(session, audit, "finalise-failed", detail)
    session.flush()


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _locked(model: LeasedModel, row_id: uuid.UUID, still: ColumnElement[bool]):  # type: ignore[no-untyped-def]  # noqa: ANN202  a Select of the model
    locked = select(model).where(model.id == row_id, model.state == STATES[model].working, still)
    return locked.with_for_update(key_share=True).execution_options(populate_existing=True)
