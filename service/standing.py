"""Where audits stand: how far they are, and why one does not move. Many at once take as few queries as one."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import NamedTuple

from sqlalchemy import ColumnElement, case, func, select
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.orm import Session

from models.audit import QUEUES, Audit, AuditEncoder, Chunk
from models.encoder import Encoder
from service.jobs import expired
from service.queue import DEFAULT
from service.turns import turns
from service.workers import Crew, clock, crew_of, outage
from sslmem.gate.case import suspected


class Progress(NamedTuple):
    """How far an audit is; ``seconds_left`` follows from its rate so far."""

    samples_done: int
    samples_total: int
    seconds_left: float | None


@dataclass(frozen=True)
class Standing:
    """What is asked of an audit most often.

    Attributes:
        progress: how far it is, running chunks included.
        reason: why it does not move though it has not ended; None if it moves or has ended.
        encoder_ids: by part, in the order of the request.
        suspicions: what speaks against the encoders, as sentences.
    """

    progress: Progress
    reason: str | None
    encoder_ids: dict[str, list[uuid.UUID]]
    suspicions: list[str]


def standing_of(session: Session, audit: Audit) -> Standing:
    """Where an audit stands."""
    return standings(session, [audit])[0]


def standings(session: Session, audits: Sequence[Audit]) -> list[Standing]:
    """Where audits stand, in the order given."""
    ids = [audit.id for audit in audits]
    outlook = _Outlook(session, ids)
    parts: dict[uuid.UUID, dict[str, list[uuid.UUID]]] = {key: {"target": [], "reference": []} for key in ids}
    doubts: dict[uuid.UUID, list[str]] = {key: [] for key in ids}
    encoders = select(AuditEncoder.audit_id, AuditEncoder.part, Encoder.id, Encoder.load_report["suspicions"])
    for audit_id, part, encoder_id, suspicions in session.execute(
        encoders.join(Encoder).where(AuditEncoder.audit_id.in_(ids)).order_by(AuditEncoder.ordinal)
    ):
        parts[audit_id][part].append(encoder_id)
        doubts[audit_id] += suspected(part, suspicions or [])
    return [
        Standing(outlook.progress(audit), outlook.reason(audit), parts[audit.id], doubts[audit.id]) for audit in audits
    ]


def samples_done() -> ColumnElement[int]:
    """The samples done of the chunks that a statement selects, running ones included."""
    done = case((Chunk.state == "done", Chunk.stop - Chunk.start), (Chunk.state == "running", Chunk.num_done), else_=0)
    return func.coalesce(func.sum(done), 0)


class _Outlook:
    """What the answers about some audits have in common, asked when first needed."""

    def __init__(self, session: Session, ids: Sequence[uuid.UUID]) -> None:
        self._session, self._ids = session, ids
        self._crews: dict[str, Crew] = {}
        self._turns: dict[str, list[uuid.UUID]] = {}

    @cached_property
    def _chunks(self) -> dict[uuid.UUID, tuple[int, bool, bool, datetime]]:
        """Samples done, whether a chunk runs, whether one was lost with its worker, and the time now."""
        now = func.clock_timestamp()
        lost = expired(Chunk)
        runs = (Chunk.state == "running") & ~lost
        counts = select(Chunk.audit_id, samples_done(), func.bool_or(runs), func.bool_or(lost), now)
        found = self._session.execute(counts.where(Chunk.audit_id.in_(self._ids)).group_by(Chunk.audit_id))
        return {audit_id: (done, runs, lost, now) for audit_id, done, runs, lost, now in found}

    @cached_property
    def _outage(self) -> str | None:
        return outage(self._session)

    @cached_property
    def _retries(self) -> dict[uuid.UUID, tuple[datetime, str]]:
        """When a chunk that failed is tried again, and why it failed: the first of each audit."""
        later = (Chunk.state == "queued") & (Chunk.available_at > func.clock_timestamp())
        failed = select(Chunk.audit_id, Chunk.available_at, Chunk.failure_detail).where(
            Chunk.audit_id.in_(self._ids), later, Chunk.failure_detail.is_not(None)
        )
        first = failed.ext(distinct_on(Chunk.audit_id)).order_by(Chunk.audit_id, Chunk.number)
        return {audit_id: (at, detail or "") for audit_id, at, detail in self._session.execute(first)}

    def _crew(self, queue: str) -> Crew:
        if queue not in self._crews:
            self._crews[queue] = crew_of(self._session, queue)
        return self._crews[queue]

    def _ahead(self, audit: Audit) -> int:
        """How many audits have their turn before it with the workers that may take it: those with a GPU take all."""
        if audit.queue not in self._turns:
            queues = [DEFAULT] if audit.queue == DEFAULT else QUEUES
            self._turns[audit.queue] = list(self._session.scalars(turns(queues)))
        order = self._turns[audit.queue]
        return order.index(audit.id) if audit.id in order else 0

    def progress(self, audit: Audit) -> Progress:
        if audit.state == "succeeded":
            return Progress(audit.num_samples, audit.num_samples, None)
        done, _, _, now = self._chunks[audit.id]
        left, new = None, done - audit.rate_from
        if audit.state == "running" and audit.rate_since is not None and new > 0:
            elapsed = (now - audit.rate_since).total_seconds()
            left = elapsed / new * (audit.num_samples - done)
        return Progress(done, audit.num_samples, left)

    def reason(self, audit: Audit) -> str | None:
        if audit.state == "paused":
            return "paused; no further chunk begins until it is resumed"
        if audit.state not in ("queued", "running", "finalising"):
            return None
        # Any worker can summarise; scores are for those of the audit's queue.
        crew = self._crew(DEFAULT if audit.state == "finalising" else audit.queue)
        if crew.absence is not None:
            return crew.absence
        if audit.state == "finalising":
            waits = f"all is scored; waiting for a worker to summarise it: {crew.presence}"
            return None if audit.lease_owner else self._unless_lost(waits)
        _, runs, lost, _ = self._chunks[audit.id]
        if runs:
            return None
        if lost:
            return self._unless_lost("a worker was lost; another one gets its chunk in a moment")
        if audit.id in self._retries:
            at, detail = self._retries[audit.id]
            return f"a chunk failed and is tried again at {clock(at)}: {detail}"
        ahead = self._ahead(audit)
        turn = "it is next" if not ahead else f"{ahead} audit{'s are' if ahead > 1 else ' is'} ahead"
        return self._unless_lost(f"waiting for a worker: {turn}; {crew.presence}")

    def _unless_lost(self, reason: str) -> str:
        """What is lost, a chunk or a message, is found by the sweeper alone, and announced by the broker."""
        return reason if self._outage is None else f"{reason}; but {self._outage}"
