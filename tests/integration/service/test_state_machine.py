"""The life of audits and chunks against a model: random moves by many hands, on the real database and queue.

``SSLMEM_STATE_MACHINE_EXAMPLES=1000 python -m pytest tests/integration/service/test_state_machine.py`` looks longer.
"""

import os
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import IntegrityError

from models.audit import Audit, Chunk, Score
from models.states import AUDIT_MOVES, CHUNK_MOVES, ENDED
from service import chunks, jobs, lifecycle
from service.chunks import ChunkPlan
from service.claims import claim_next
from service.context import Context
from service.errors import AuditNotEnded, InvalidMove
from service.jobs import LeaseLost
from service.losses import MAX_FINALISE_ATTEMPTS, SILENT
from service.queue import FINALISE_AUDIT, SCORE_CHUNK
from service.sweep import sweep
from tests.support import rows
from tests.support.queue import clear, take

EXAMPLES = int(os.environ.get("SSLMEM_STATE_MACHINE_EXAMPLES", "25"))
STEPS = 30
MAX_ATTEMPTS = 3
CHUNK = 16


@dataclass
class ModelChunk:
    """What a chunk must be like."""

    id: uuid.UUID
    state: str = "queued"
    attempts: int = 0
    owner: str | None = None
    backs_off: bool = False
    num_done: int = 0


@dataclass
class ModelAudit:
    """What an audit must be like."""

    id: uuid.UUID
    chunks: list[ModelChunk]
    priority: int = 0
    state: str = "queued"
    started: bool = False
    failure: str | None = None
    finalise_attempts: int = 0
    summarised_by: str | None = None

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    def end(self, state: str, failure: str | None = None) -> None:
        self.state, self.failure, self.summarised_by = state, failure, None
        for chunk in self.chunks:
            if chunk.state in ("queued", "running"):
                chunk.state, chunk.owner = "cancelled", None


@dataclass
class Claim:
    """A worker that believes it has a chunk."""

    audit: ModelAudit
    chunk: ModelChunk
    plan: ChunkPlan
    owner: str

    @property
    def holds(self) -> bool:
        return self.chunk.state == "running" and self.chunk.owner == self.owner


CONTEXT: list[Context] = []


class JobLife(RuleBasedStateMachine):
    """Rules are what people, workers and the sweeper may do at any time; the model says what becomes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.context = CONTEXT[-1]
        self.settings = rows.with_settings(self.context, max_attempts=MAX_ATTEMPTS, resend_seconds=1e-6)
        self.audits: list[ModelAudit] = []
        self.workers = 0
        self.claims: list[Claim] = []
        self.summarisers: list[tuple[ModelAudit, str]] = []
        with self.context.sessions.begin() as session:
            session.execute(delete(Audit))
        clear(self.context.settings)

    # Helpers

    def pick(self, number: int) -> ModelAudit:
        return self.audits[number % len(self.audits)]

    def new_owner(self) -> str:
        self.workers += 1
        return f"worker:{self.workers}"

    def worker(self, which: int, late: bool) -> Claim:
        """One that has its chunk; or, late, one whose chunk another has; or any that ever had one."""
        held = [claim for claim in self.claims if claim.holds]
        replaced = [claim for claim in self.claims if not claim.holds and claim.chunk.state == "running"]
        found = (replaced if late else held) or self.claims
        return found[which % len(found)]

    def within(self, act: Any, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401
        with self.context.sessions.begin() as session:
            return act(session, *arguments, **named)

    def claimable(self) -> set[uuid.UUID]:
        """The waiting chunk that was tried least, the first of those, of each audit of the highest priority."""
        open_audits = [audit for audit in self.audits if audit.state in ("queued", "running")]
        waiting = [
            (audit.priority, min(ready, key=lambda chunk: chunk.attempts).id)
            for audit in open_audits
            if (ready := [chunk for chunk in audit.chunks if chunk.state == "queued" and not chunk.backs_off])
        ]
        highest = max((priority for priority, _ in waiting), default=0)
        return {chunk_id for priority, chunk_id in waiting if priority == highest}

    def note_claim(self, plan: ChunkPlan, owner: str) -> None:
        audit = next(audit for audit in self.audits if audit.id == plan.audit_id)
        chunk = next(chunk for chunk in audit.chunks if chunk.id == plan.chunk_id)
        assert (chunk.state, chunk.backs_off) == ("queued", False)
        chunk.state, chunk.owner, chunk.attempts, chunk.num_done = "running", owner, chunk.attempts + 1, 0
        audit.state, audit.started = "running", True
        self.claims.append(Claim(audit, chunk, plan, owner))

    # What people do

    @precondition(lambda self: len(self.audits) < 3)
    @rule(count=st.integers(1, 3), priority=st.integers(-1, 1))
    def request(self, count: int, priority: int) -> None:
        audit = rows.request_audit(self.context, count * CHUNK, priority=priority)
        found = rows.chunks_of(self.context, audit.id)
        assert len(found) == count
        self.audits.append(ModelAudit(audit.id, [ModelChunk(chunk.id) for chunk in found], priority))

    @precondition(lambda self: self.audits)
    @rule(number=st.integers(0, 2))
    def cancel(self, number: int) -> None:
        audit = self.pick(number)
        self.within(lifecycle.cancel, audit.id)
        if not audit.ended:
            audit.end("cancelled")

    @precondition(lambda self: self.audits)
    @rule(number=st.integers(0, 2))
    def pause(self, number: int) -> None:
        audit = self.pick(number)
        if audit.state in ("queued", "running", "paused"):
            self.within(lifecycle.pause, audit.id)
            audit.state = "paused"
        else:
            with pytest.raises(InvalidMove):
                self.within(lifecycle.pause, audit.id)

    @precondition(lambda self: self.audits)
    @rule(number=st.integers(0, 2))
    def resume(self, number: int) -> None:
        audit = self.pick(number)
        if audit.ended:
            with pytest.raises(InvalidMove):
                self.within(lifecycle.resume, self.context.queue, audit.id)
            return
        self.within(lifecycle.resume, self.context.queue, audit.id)
        if audit.state == "paused":
            audit.state = "running" if audit.started else "queued"

    @precondition(lambda self: self.audits)
    @rule(number=st.integers(0, 2))
    def retry(self, number: int) -> None:
        audit = self.pick(number)
        if audit.state == "succeeded":
            with pytest.raises(InvalidMove):
                self.within(lifecycle.retry, self.context.queue, audit.id)
            return
        self.within(lifecycle.retry, self.context.queue, audit.id)
        if audit.ended:
            for chunk in audit.chunks:
                if chunk.state in ("failed", "cancelled"):
                    chunk.state, chunk.attempts, chunk.backs_off, chunk.num_done = "queued", 0, False, 0
            missing = any(chunk.state != "done" for chunk in audit.chunks)
            audit.state, audit.failure, audit.finalise_attempts = ("queued" if missing else "finalising"), None, 0

    @precondition(lambda self: self.audits)
    @rule(number=st.integers(0, 2))
    def delete(self, number: int) -> None:
        audit = self.pick(number)
        if audit.ended:
            self.within(lifecycle.remove_audit, audit.id)
            self.audits.remove(audit)
            for chunk in audit.chunks:
                chunk.state, chunk.owner = "deleted", None
        else:
            with pytest.raises(AuditNotEnded):
                self.within(lifecycle.remove_audit, audit.id)

    # What workers do

    @rule()
    def take_a_message(self) -> None:
        """A worker takes a message from the real queue and does what it says."""
        message = take(self.context.settings, 0.01)
        if message is None or message[0] != SCORE_CHUNK:
            if message is not None and message[0] == FINALISE_AUDIT:
                self.finalise_by(uuid.UUID(message[1]))
            return
        self.claim_whatever_is_next(uuid.UUID(message[1]))

    def claim_whatever_is_next(self, announced: uuid.UUID) -> None:
        owner, possible = self.new_owner(), self.claimable()
        plan = claim_next(self.context.sessions, announced, owner, 60)
        assert (plan is None) == (not possible)
        if plan is not None:
            assert plan.chunk_id in possible
            self.note_claim(plan, owner)

    @precondition(lambda self: self.audits)
    @rule(number=st.integers(0, 2), which=st.integers(0, 2))
    def claim(self, number: int, which: int) -> None:
        """A doubled or late message, for any chunk in any state."""
        audit = self.pick(number)
        self.try_to_claim(audit, audit.chunks[which % len(audit.chunks)])

    def try_to_claim(self, audit: ModelAudit, chunk: ModelChunk) -> None:
        owner = self.new_owner()
        plan = self.within(chunks.claim_chunk, chunk.id, owner, 60)
        to_be_had = audit.state in ("queued", "running") and chunk.state == "queued" and not chunk.backs_off
        assert (plan is not None) == to_be_had
        if plan is not None:
            self.note_claim(plan, owner)

    @precondition(lambda self: self.claims)
    @rule(which=st.integers(0, 9), late=st.sampled_from((False, False, True)), num_done=st.integers(0, CHUNK))
    def renew(self, which: int, late: bool, num_done: int) -> None:
        claim = self.worker(which, late)
        kept = self.within(jobs.renew, Chunk, claim.chunk.id, claim.owner, 60, num_done=num_done)
        assert kept == claim.holds
        if kept:
            claim.chunk.num_done = num_done

    @precondition(lambda self: self.claims)
    @rule(which=st.integers(0, 9), late=st.sampled_from((False, False, True)))
    def record(self, which: int, late: bool) -> None:
        """Also by workers that lost their chunk long ago, and by those that recorded it already."""
        claim = self.worker(which, late)
        if not claim.holds:
            with pytest.raises(LeaseLost):
                rows.record(self.context, claim.plan, claim.owner)
            return
        audit, chunk = claim.audit, claim.chunk
        last = rows.record(self.context, claim.plan, claim.owner)
        chunk.state, chunk.owner, chunk.num_done = "done", None, CHUNK
        assert last == all(chunk.state == "done" for chunk in audit.chunks)
        if last:
            audit.state = "finalising"

    @precondition(lambda self: self.claims)
    @rule(which=st.integers(0, 9), late=st.sampled_from((False, False, True)), passes=st.booleans())
    def fail(self, which: int, late: bool, passes: bool) -> None:
        claim = self.worker(which, late)
        attempts = MAX_ATTEMPTS if passes else None
        named = {"code": "odd", "detail": "Something odd.", "max_attempts": attempts}
        if not claim.holds:
            with pytest.raises(LeaseLost):
                self.within(chunks.fail_chunk, claim.plan, claim.owner, **named)
            return
        self.within(chunks.fail_chunk, claim.plan, claim.owner, **named)
        audit, chunk = claim.audit, claim.chunk
        chunk.owner = None
        if passes and chunk.attempts < MAX_ATTEMPTS:
            chunk.state, chunk.backs_off, chunk.num_done = "queued", True, 0
        else:
            chunk.state = "failed"
            audit.end("failed", "odd")

    @precondition(lambda self: self.claims)
    @rule(which=st.integers(0, 9), late=st.sampled_from((False, False, True)))
    def hand_back(self, which: int, late: bool) -> None:
        claim = self.worker(which, late)
        if not claim.holds:
            with pytest.raises(LeaseLost):
                self.within(chunks.hand_back, claim.chunk.id, claim.owner)
            return
        self.within(chunks.hand_back, claim.chunk.id, claim.owner)
        chunk = claim.chunk
        chunk.state, chunk.owner, chunk.num_done, chunk.attempts = "queued", None, 0, chunk.attempts - 1

    @precondition(lambda self: self.audits)
    @rule(number=st.integers(0, 2))
    def begin_finalising(self, number: int) -> None:
        """A worker takes an audit to summarise it, by a message that may be doubled or late."""
        self.finalise_by(self.pick(number).id)

    def finalise_by(self, audit_id: uuid.UUID) -> None:
        owner = self.new_owner()
        audit = next((audit for audit in self.audits if audit.id == audit_id), None)
        begun = self.within(chunks.begin_finalising, audit_id, owner, 60)
        assert begun == (audit is not None and audit.state == "finalising" and audit.summarised_by is None)
        if audit is not None and begun:
            audit.finalise_attempts, audit.summarised_by = audit.finalise_attempts + 1, owner
            self.summarisers.append((audit, owner))

    @precondition(lambda self: self.summarisers)
    @rule(which=st.integers(0, 9), how=st.sampled_from(("succeeds", "succeeds", "fails", "hands back", "is lost")))
    def end_finalising(self, which: int, how: str) -> None:
        """Also by workers that were taken for lost, or whose audit was cancelled meanwhile."""
        audit, owner = self.summarisers[which % len(self.summarisers)]
        if how == "is lost":
            self.summary_lease_runs_out(audit)
            return
        why = "Something odd." if how == "fails" else None
        act, arguments = (chunks.finalise, ()) if how == "succeeds" else (chunks.give_up_finalising, (why,))
        if audit.summarised_by != owner:
            with pytest.raises(LeaseLost):
                self.within(act, audit.id, owner, *arguments)
            return
        self.within(act, audit.id, owner, *arguments)
        audit.summarised_by = None
        if how == "succeeds":
            audit.state = "succeeded"
        elif how == "hands back":
            audit.finalise_attempts -= 1
        else:
            self.after_a_failed_summary(audit)

    def summary_lease_runs_out(self, audit: ModelAudit) -> None:
        if audit.summarised_by is not None:
            past = func.clock_timestamp() - jobs.seconds(1)
            self.within(lambda session: session.execute(
                update(Audit).where(Audit.id == audit.id).values(lease_expires_at=past)
            ))  # fmt: skip
            self.look_after()
            audit.summarised_by = None
            self.after_a_failed_summary(audit)

    def after_a_failed_summary(self, audit: ModelAudit) -> None:
        if audit.finalise_attempts == MAX_FINALISE_ATTEMPTS:
            audit.end("failed", "finalise-failed")

    # What time does

    @precondition(lambda self: any(claim.holds for claim in self.claims))
    @rule(which=st.integers(0, 9))
    def lease_runs_out(self, which: int) -> None:
        """A worker is silent for too long, and the sweeper looks."""
        self.expire(self.worker(which, late=False))

    @precondition(lambda self: any(claim.holds for claim in self.claims))
    @rule(which=st.integers(0, 9))
    def another_takes_over(self, which: int) -> None:
        """The lease runs out, another worker has the chunk, and then the first one comes back."""
        claim = self.worker(which, late=False)
        self.expire(claim)
        self.try_to_claim(claim.audit, claim.chunk)
        with pytest.raises(LeaseLost):
            rows.record(self.context, claim.plan, claim.owner)
        with pytest.raises(LeaseLost):
            self.within(chunks.hand_back, claim.chunk.id, claim.owner)

    def expire(self, claim: Claim) -> None:
        past = func.clock_timestamp() - jobs.seconds(1)
        self.within(lambda session: session.execute(
            update(Chunk).where(Chunk.id == claim.chunk.id).values(lease_expires_at=past)
        ))  # fmt: skip
        self.look_after()
        chunk = claim.chunk
        chunk.owner, chunk.num_done = None, 0
        if chunk.attempts >= MAX_ATTEMPTS:
            chunk.state = "failed"
            claim.audit.end("failed", SILENT.code)
        else:
            chunk.state, chunk.backs_off = "queued", chunk.attempts > 1

    @rule()
    def look_after(self) -> None:
        """The sweeper looks through everything."""
        self.within(sweep, self.context.queue, self.settings)

    @rule()
    def pauses_end(self) -> None:
        """The pauses before the next try are over."""
        self.within(lambda session: session.execute(update(Chunk).values(available_at=func.clock_timestamp())))
        for chunk in (chunk for audit in self.audits for chunk in audit.chunks):
            chunk.backs_off = False

    @rule()
    def broker_loses_its_data(self) -> None:
        clear(self.context.settings)

    # What nobody may do

    @precondition(lambda self: self.audits)
    @rule(number=st.integers(0, 2), state=st.sampled_from(sorted(AUDIT_MOVES)))
    def move_an_audit_by_hand(self, number: int, state: str) -> None:
        audit = self.pick(number)
        if state != audit.state and state not in AUDIT_MOVES[audit.state]:
            with pytest.raises(IntegrityError):
                self.within(lambda session: session.execute(
                    update(Audit).where(Audit.id == audit.id).values(state=state)
                ))  # fmt: skip

    @precondition(lambda self: self.audits)
    @rule(number=st.integers(0, 2), which=st.integers(0, 2), state=st.sampled_from(sorted(CHUNK_MOVES)))
    def move_a_chunk_by_hand(self, number: int, which: int, state: str) -> None:
        audit = self.pick(number)
        chunk = audit.chunks[which % len(audit.chunks)]
        if state != chunk.state and state not in CHUNK_MOVES[chunk.state]:
            with pytest.raises(IntegrityError):
                self.within(lambda session: session.execute(
                    update(Chunk).where(Chunk.id == chunk.id).values(state=state)
                ))  # fmt: skip

    # What always holds

    @invariant()
    def rows_are_as_the_model_says(self) -> None:
        with self.context.sessions.begin() as session:
            found = {row.id: row for row in session.scalars(select(Audit))}
            chunk_rows = {row.id: row for row in session.scalars(select(Chunk))}
        assert set(found) == {audit.id for audit in self.audits}
        for audit in self.audits:
            row = found[audit.id]
            assert (row.state, row.failure_code) == (audit.state, audit.failure)
            assert (row.finalise_attempts, row.lease_owner) == (audit.finalise_attempts, audit.summarised_by)
            assert (row.lease_expires_at is None) == (row.lease_owner is None)
            assert (row.finished_at is not None) == audit.ended
            for chunk in audit.chunks:
                have = chunk_rows[chunk.id]
                assert (have.state, have.attempts, have.lease_owner) == (chunk.state, chunk.attempts, chunk.owner)
                assert (have.lease_expires_at is not None) == (chunk.state == "running")
                assert chunk.attempts <= MAX_ATTEMPTS

    @invariant()
    def done_chunks_have_their_scores_and_others_none(self) -> None:
        with self.context.sessions.begin() as session:
            scored = Counter(
                (row.audit_id, row.position) for row in session.execute(select(Score.audit_id, Score.position))
            )
        expected = {
            (audit.id, position)
            for audit in self.audits
            for number, chunk in enumerate(audit.chunks)
            if chunk.state == "done"
            for position in range(number * CHUNK, (number + 1) * CHUNK)
        }
        assert set(scored) == expected
        assert set(scored.values()) <= {1}

    @invariant()
    def states_of_audits_go_with_those_of_their_chunks(self) -> None:
        for audit in self.audits:
            states = {chunk.state for chunk in audit.chunks}
            if audit.state in ("finalising", "succeeded"):
                assert states == {"done"}
            elif audit.state in ("queued", "running", "paused"):
                assert states <= {"queued", "running", "done"}
                assert states != {"done"}
            else:
                assert not states & {"queued", "running"}

    def teardown(self) -> None:
        """Nobody asks for anything more, the broker lost everything: the sweeper and one worker end all audits."""
        clear(self.context.settings)
        for number in range(len(self.audits)):
            self.resume(number)
        self.within(lambda session: session.execute(
            update(Chunk).where(Chunk.state == "running").values(lease_expires_at=func.clock_timestamp())
        ))  # fmt: skip
        for chunk in (chunk for audit in self.audits for chunk in audit.chunks if chunk.state == "running"):
            chunk.owner = None
        for audit in self.audits:
            self.summary_lease_runs_out(audit)
        self.pauses_end()
        for _ in range(200):
            if not self._open():
                return
            self.look_after()
            self._work_off()
        raise AssertionError(f"some audits never end: {self.audits}")

    def _open(self) -> int:
        with self.context.sessions.begin() as session:
            return session.scalars(select(func.count()).where(Audit.state.not_in(ENDED))).one()

    def _work_off(self) -> None:
        while (message := take(self.context.settings, 0.01)) is not None:
            task, row_id = message
            if task == SCORE_CHUNK:
                plan = claim_next(self.context.sessions, uuid.UUID(row_id), "last", 60)
                if plan is not None:
                    rows.record(self.context, plan, "last")
            elif task == FINALISE_AUDIT and self.within(chunks.begin_finalising, uuid.UUID(row_id), "last", 60):
                self.within(chunks.finalise, uuid.UUID(row_id), "last")


@pytest.fixture
def machine_context(context: Context) -> Iterator[Context]:
    CONTEXT.append(context)
    yield context
    CONTEXT.pop()


@pytest.mark.usefixtures("machine_context")
def test_job_life_is_that_of_the_model() -> None:
    run_state_machine_as_test(
        JobLife,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize="SSLMEM_STATE_MACHINE_EXAMPLES" not in os.environ,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
