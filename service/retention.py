"""What the policies of the settings delete, and when. Without a policy nothing is deleted that nobody asked for.

The same statements say what will be deleted and choose what is; each row is looked at again under its lock.
"""

import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Select, String, cast, exists, func, literal, select, union_all
from sqlalchemy.orm import Session

from models.audit import Audit, Score
from models.database import SessionFactory
from models.dataset import Dataset
from models.encoder import Encoder
from models.states import ENDED
from service import idempotency, intake, lifecycle, usage
from service.artifacts import ArtifactStore
from service.audits import lock_audit
from service.context import Context
from service.settings import Settings

logger = logging.getLogger(__name__)

BATCH = 20  # rows of each kind that one pass deletes, before the sweeper looks for lost work again
SCORE_BATCHES = 20  # of lifecycle.SCORE_BATCH rows that one pass deletes of scores that were given up
UNNAMED_SECONDS = 24 * 3600
DAY = 24 * 3600

Deletion = Callable[[Context, uuid.UUID, Select[Any]], bool]


@dataclass(frozen=True)
class Due:
    """Something that a policy will delete: ``scores``, ``audit``, ``encoder``, ``dataset`` or ``file``."""

    kind: str
    id: str
    name: str
    due_at: datetime


def upcoming(session: Session, store: ArtifactStore, settings: Settings, limit: int) -> list[Due]:
    """What will be deleted next, first what goes first; what is overdue goes with one of the next passes."""
    found = [
        Due("file", file.digest, "a file that nothing names", datetime.fromtimestamp(at, UTC))
        for file, at in unnamed_files(session, store)
    ]
    if statements := _statements(settings):
        every = union_all(*statements.values()).subquery()
        found += [Due(*row) for row in session.execute(select(every).order_by(every.c.due_at, every.c.id).limit(limit))]
    return sorted(found, key=lambda due: due.due_at)[:limit]


def num_kept(session: Session) -> int:
    """How many audits no policy touches."""
    return session.scalar(select(func.count()).where(Audit.kept_at.is_not(None))) or 0


def apply(context: Context) -> int:
    """Deletes some of what is due, and finishes what was begun; returns how many things were deleted."""
    sessions, done = context.sessions, 0
    for kind, statement in _statements(context.settings).items():
        due = statement.subquery()
        with sessions.begin() as session:
            ripe = select(due.c.id, due.c.name).where(due.c.due_at <= func.clock_timestamp())
            rows = session.execute(ripe.order_by(due.c.due_at).limit(BATCH)).all()
        for row_id, name in rows:
            try:
                if _DELETIONS[kind](context, uuid.UUID(row_id), statement):
                    logger.info("the policy of the settings deleted %s %s (%s)", kind, row_id, name)
                    done += 1
            except Exception:
                logger.exception("%s %s was not deleted; trying again", kind, row_id)
    with sessions.begin() as session:
        idempotency.forget(session)
    delete_given_up_scores(sessions)
    return done + discard_unnamed(sessions, context.store)


def _statements(settings: Settings) -> dict[str, Select[Any]]:
    """For each policy that is on, what it deletes: kind, id, name and when."""
    ended = (Audit.state.in_(ENDED), Audit.finished_at.is_not(None), Audit.kept_at.is_(None))
    found: dict[str, Select[Any]] = {}
    if settings.keep_scores_days is not None:
        scores = _due("scores", Audit, Audit.finished_at, settings.keep_scores_days)
        found["scores"] = scores.where(*ended, Audit.scores_deleted_at.is_(None))
    if settings.keep_audits_days is not None:
        found["audit"] = _due("audit", Audit, Audit.finished_at, settings.keep_audits_days).where(*ended)
    if settings.keep_unused_days is not None:
        for model in (Encoder, Dataset):
            since = func.coalesce(model.released_at, model.created_at)
            unused = _due(model.__name__.lower(), model, since, settings.keep_unused_days)
            checked = model.state.in_(("ready", "refused"))
            found[model.__name__.lower()] = unused.where(checked, ~usage.used(model))
    return found


def _due(kind: str, model: Any, since: Any, days: float) -> Select[Any]:  # noqa: ANN401  a table and an expression
    at = since + func.make_interval(0, 0, 0, 0, 0, 0, days * DAY)
    return select(literal(kind).label("kind"), cast(model.id, String).label("id"), model.name, at.label("due_at"))


def _still_due(session: Session, statement: Select[Any], row_id: uuid.UUID) -> bool:
    due = statement.subquery()
    at = select(due.c.due_at).where(due.c.id == str(row_id), due.c.due_at <= func.clock_timestamp())
    return session.scalar(at) is not None


def _delete_scores(context: Context, audit_id: uuid.UUID, statement: Select[Any]) -> bool:
    with context.sessions.begin() as session:
        if lock_audit(session, audit_id) is None or not _still_due(session, statement, audit_id):
            return False
        lifecycle.give_up_scores(session, audit_id)
    return True  # the rows go with the following passes


def _delete_audit(context: Context, audit_id: uuid.UUID, statement: Select[Any]) -> bool:
    with context.sessions.begin() as session:
        if lock_audit(session, audit_id) is None or not _still_due(session, statement, audit_id):
            return False
        lifecycle.give_up_scores(session, audit_id)
    if all(lifecycle.delete_some_scores(context.sessions, audit_id) for _ in range(2)):
        return False  # there are more, which go first, with this pass and the following ones
    with context.sessions.begin() as session:
        if lock_audit(session, audit_id) is None or not _still_due(session, statement, audit_id):
            return False
        lifecycle.remove_audit(session, audit_id)
    return True


def _delete_unused(model: type[intake.Row]) -> Deletion:
    def delete(context: Context, row_id: uuid.UUID, statement: Select[Any]) -> bool:
        with context.sessions.begin() as session:
            locked = session.get(model, row_id, with_for_update=True)
            if locked is None or not _still_due(session, statement, row_id):
                return False
            digests = intake.remove(session, model, row_id)
        with context.sessions.begin() as session:
            intake.discard_artifacts(session, context.store, digests)
        return True

    return delete


_DELETIONS: dict[str, Deletion] = {
    "scores": _delete_scores,
    "audit": _delete_audit,
    "encoder": _delete_unused(Encoder),
    "dataset": _delete_unused(Dataset),
}


def delete_given_up_scores(sessions: SessionFactory) -> None:
    """Deletes rows of scores that were given up, also by a request or a process that did not come to the end."""
    left = select(Audit.id).where(Audit.scores_deleted_at.is_not(None), exists().where(Score.audit_id == Audit.id))
    for _ in range(SCORE_BATCHES):
        with sessions.begin() as session:
            audit_id = session.scalar(left.limit(1))
        if audit_id is None:
            return
        lifecycle.delete_some_scores(sessions, audit_id)


def unnamed_files(session: Session, store: ArtifactStore) -> list[tuple[Any, float]]:
    """Files that no row names, and when each is deleted in seconds since 1970: a day after it was written.

    A crash leaves them, or somebody who deletes an encoder while a worker makes its weights. Until then it may be a
    file that was just stored and whose row is about to be committed.
    """
    names = {digest for column in usage.NAMING for digest in session.scalars(select(column))}
    return [(file, file.modified_at + UNNAMED_SECONDS) for file in store.files() if file.digest not in names]


def discard_unnamed(sessions: SessionFactory, store: ArtifactStore) -> int:
    """Removes files that no row has named for a day; returns how many."""
    with sessions.begin() as session:
        ripe = [file.digest for file, at in unnamed_files(session, store) if at <= time.time()]
    for digest in ripe:
        with sessions.begin() as session:
            intake.discard_artifacts(session, store, [digest])  # looks again, under the file's lock
        logger.info("the file %s, which nothing names, was deleted", digest)
    return len(ripe)
