"""Rounds of faults on running audits, each compared with an undisturbed one, bit for bit."""

import contextlib
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil  # type: ignore[import-untyped]
import psycopg
import torch
from safetensors.torch import load_file

from sslmem.client.http import TERMINAL
from sslmem.errors import SslmemError
from tests.chaos.faults import NotPossibleHere, strike
from tests.chaos.plan import Fault, Round
from tests.chaos.rig import MAX_ATTEMPTS, Rig
from tests.support.auditing import upload
from tests.support.materials import EncoderFile, Material
from tests.support.proxy import Watch
from tests.support.waiting import eventually

END_SECONDS = 150
VIEWS = 64
UNDISTURBED = 3
MAX_AUDITS = 4  # in a round, until each of its faults has struck a running one
MISTAKES = (
    "TypeError", "AttributeError", "IntegrityError", "DataError", "ProgrammingError", "KeyError", "AssertionError",
    "UnboundLocalError", "may not move from", "duplicate key value", "deadlock detected", "violates",
)  # fmt: skip
Value = TypeVar("Value")


@dataclass(frozen=True)
class Result:
    """What an audit ended with: everything that must not depend on what happened meanwhile."""

    state: str
    failure: str | None
    summary: dict[str, Any] | None
    scores: str
    max_attempts: int


@dataclass
class Hit:
    """A fault that was done.

    Attributes:
        recovery: seconds from its end to the next chunk done, or the audit's end; 0 if that had come before.
        delay: seconds that the audit took longer than an undisturbed one, with all faults of its round.
        impossible: why it could not be done on this machine.
        struck: whether it was done while the audit had not ended.
    """

    fault: Fault
    round: Round
    began: float = 0.0
    ended: float = 0.0
    recovery: float = 0.0
    delay: float = 0.0
    impossible: str | None = None
    struck: bool = False


@dataclass
class Observer:
    """Looks at an audit in the database, past all lines, as often as that answers."""

    url: str
    audit_id: str = ""
    state: str = "queued"
    share: float = 0.0
    steps: list[tuple[float, float, str]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        while not self.over.is_set():
            with (
                contextlib.suppress(psycopg.Error),
                psycopg.connect(self.url, autocommit=True, connect_timeout=2) as connection,
            ):
                while not self.over.is_set():
                    self._look(connection)
                    self.over.wait(0.015)
            self.over.wait(0.05)

    def _look(self, connection: psycopg.Connection) -> None:
        if not self.audit_id:
            return
        found = connection.execute(
            "SELECT state, (SELECT avg((state = 'done')::int) FROM chunks WHERE audit_id = a.id) FROM audits a "
            "WHERE id = %s",
            (self.audit_id,),
        ).fetchone()
        if found is not None and (found[0], float(found[1])) != (self.state, self.share):
            self.state, self.share = found[0], float(found[1])
            self.steps.append((time.monotonic(), self.share, self.state))


class Campaign:
    """Faults, one round after the other, on one service.

    Attributes:
        hits: what was done.
        undisturbed: seconds that an audit takes when nothing goes wrong.
    """

    def __init__(
        self, rig: Rig, material: Material, target: EncoderFile, reference: EncoderFile, scratch: Path
    ) -> None:
        self._rig, self._scratch, self._target = rig, scratch, target
        self.hits: list[Hit] = []
        with insist(rig.client) as client:
            eventually(lambda: _quietly(lambda: client.get("/v1/health")["database"]), 60, 0.1)
            self._body = {**upload(client, material, target, reference).body, "spec": {"views": VIEWS}, "force": True}
        self._requests = 0
        times = []
        for _ in range(UNDISTURBED + 1):  # the first one loads the encoders
            began = time.monotonic()
            observer = self._observe(self._request())
            self._await_end(observer)
            times.append(observer.steps[-1][0] - began)
            self.baseline = self._result(observer.audit_id)
        assert self.baseline.state == "succeeded", self.baseline
        self.undisturbed = statistics.median(times[1:])

    def run(self, round_: Round) -> list[Hit]:
        """Does the faults of a round while an audit runs, waits for its end, and compares.

        Raises:
            AssertionError: something was lost, doubled or changed, or did not end.
        """
        hits = [Hit(fault, round_) for fault in round_.faults]
        for audits in range(1, MAX_AUDITS + 1):
            self._once(round_, [hit for hit in hits if not hit.struck and hit.impossible is None], audits)
            if all(hit.struck or hit.impossible for hit in hits):
                break
        self.hits += hits
        return hits

    def _once(self, round_: Round, hits: list[Hit], audits: int) -> None:
        observer = Observer(self._rig.postgres.url)
        requested = threading.Event()
        watches = {id(hit): self._rig.watch(hit.fault.moment) for hit in hits if _in_phase(hit.fault)}
        threads = [
            threading.Thread(target=self._do, args=(hit, observer, requested, watches.get(id(hit)), audits))
            for hit in hits
        ]
        looking = threading.Thread(target=observer.watch)
        for thread in (looking, *threads):
            thread.start()
        try:
            checked = self._check_meanwhile(round_, audits) if round_.with_check else None
            requested.set()
            began = time.monotonic()
            observer.audit_id = self._request()
            self._await_state(observer)
        finally:
            requested.set()
            observer.over.set()
            for watch in watches.values():
                self._rig.unwatch(watch)
            for thread in (*threads, looking):
                thread.join()
        self._verify(observer.audit_id, len(round_.faults) * audits)
        if checked is not None:
            checked()
        for hit in hits:
            later = [at for at, _, _ in observer.steps if at > hit.ended]
            hit.recovery = later[0] - hit.ended if later else 0.0
            hit.delay = max(0.0, observer.steps[-1][0] - began - self.undisturbed)

    def _do(self, hit: Hit, observer: Observer, requested: threading.Event, watch: Watch | None, audits: int) -> None:
        """Waits for the moment of a fault, and does it; sooner in a further audit, if it came too late before."""
        fault = hit.fault
        requested.wait(END_SECONDS)
        began, caught = time.monotonic(), ""
        while not observer.over.is_set():
            if watch is not None and watch.seen.wait(0.005):
                caught = watch.line
                break
            if fault.moment == "progress" and observer.audit_id and observer.share >= fault.value / audits:
                break
            if fault.moment == "delay" and time.monotonic() - began >= fault.value / audits:
                break
            if watch is None:
                time.sleep(0.003)
        else:
            return
        hit.struck = observer.state not in TERMINAL
        hit.began = time.monotonic()
        try:
            strike(self._rig, fault, caught)
        except NotPossibleHere as reason:
            hit.impossible, hit.struck = str(reason), False
        except (psutil.NoSuchProcess, psycopg.OperationalError):
            hit.struck = False  # another fault of the round had the victim; it is done in another audit
        finally:
            hit.ended = time.monotonic()
            if watch is not None:
                watch.proceed.set()

    def _request(self) -> str:
        """Requests an audit as a client does that does not know whether its last try arrived."""
        self._requests += 1
        key = {"Idempotency-Key": f"audit {self._requests}"}

        def ask() -> str:
            with self._rig.client() as client:
                found: str = client.json("POST", "/v1/audits", json=self._body, headers=key)["id"]
                return found

        return insist(ask)

    def _observe(self, audit_id: str) -> Observer:
        observer = Observer(self._rig.postgres.url, audit_id)
        threading.Thread(target=observer.watch).start()
        return observer

    def _await_state(self, observer: Observer) -> None:
        deadline = time.monotonic() + END_SECONDS
        while observer.state not in TERMINAL:
            assert time.monotonic() < deadline, f"audit {observer.audit_id} is still {observer.state}: {observer.steps}"
            time.sleep(0.01)

    def _await_end(self, observer: Observer) -> None:
        try:
            self._await_state(observer)
        finally:
            observer.over.set()

    def _check_meanwhile(self, round_: Round, audits: int) -> Callable[[], None]:
        """Uploads the target under another file and name; returns what awaits and compares its check."""
        file = self._scratch / f"again-{round_.number}-{audits}.pth"
        state = load_file(self._target.path)
        torch.save({"state_dict": state, "epoch": round_.number * MAX_AUDITS + audits}, file)
        found: dict[str, Any] = {}

        def push() -> dict[str, Any]:
            with self._rig.client() as client:
                how = {"architecture": self._target.architecture, "input_size": self._target.input_size}
                return client.push_encoder(file, **how)  # type: ignore[arg-type]

        thread = threading.Thread(target=lambda: found.update(insist(push)))
        thread.start()

        def compare() -> None:
            thread.join()
            file.unlink()
            assert found.get("state") == "ready", found
            with insist(self._rig.client) as client:
                original = insist(lambda: client.get(f"/v1/encoders/{self._body['target_ids'][0]}"))
            assert found["weights_digest"] == original["weights_digest"]

        return compare

    def _verify(self, audit_id: str, faults: int) -> None:
        result = insist(lambda: self._result(audit_id))
        assert (result.state, result.failure) == ("succeeded", None), result
        assert result.scores == self.baseline.scores, "the scores differ from those of an undisturbed run"
        assert result.summary == self.baseline.summary, "the summary differs from that of an undisturbed run"
        # Each fault costs a chunk at most an attempt, or two: one that is lost, and one that is lost with its answer.
        assert result.max_attempts <= min(1 + 2 * faults, MAX_ATTEMPTS), result.max_attempts

        def shown() -> str:
            with self._rig.client() as client:
                state: str = client.get(f"/v1/audits/{audit_id}")["state"]
                return state

        assert insist(shown) == "succeeded"

    def _result(self, audit_id: str) -> Result:
        with psycopg.connect(self._rig.postgres.url, connect_timeout=2) as connection:
            audit = connection.execute(
                "SELECT state, failure_code, summary, num_samples FROM audits WHERE id = %s", (audit_id,)
            ).fetchone()
            assert audit is not None
            cursor = connection.execute("SELECT * FROM scores WHERE audit_id = %s ORDER BY position", (audit_id,))
            names = [column.name for column in cursor.description or ()]
            rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
            chunks = connection.execute(
                "SELECT state, attempts FROM chunks WHERE audit_id = %s", (audit_id,)
            ).fetchall()
        if audit[0] == "succeeded":
            assert [row["position"] for row in rows] == list(range(audit[3])), "scores are missing or double"
            assert {state for state, _ in chunks} == {"done"}
        # repr tells every bit of a double from every other, the sign of zero included.
        scores = repr([{name: value for name, value in row.items() if name != "audit_id"} for row in rows])
        return Result(audit[0], audit[1], audit[2], scores, max(attempts for _, attempts in chunks))

    def all_workers_work(self) -> None:
        """Requests audits until each worker has taken part in one.

        Raises:
            AssertionError: one did not.
        """
        watches = {name: Watch(b"COPY scores", 0) for name in ("worker-1", "worker-2")}
        for name, watch in watches.items():
            self._rig.lines[name, "postgres"].watch(watch)
        deadline = time.monotonic() + END_SECONDS
        while not all(watch.seen.is_set() for watch in watches.values()):
            idle = [name for name, watch in watches.items() if not watch.seen.is_set()]
            assert time.monotonic() < deadline, f"{idle} took no chunk since the last fault"
            self._await_end(self._observe(self._request()))

    def mistakes(self) -> list[str]:
        """Lines of the logs that no fault excuses."""
        return [
            f"{name}: {line}"
            for name, log in self._rig.logs().items()
            for line in log.splitlines()
            if any(mistake in line for mistake in MISTAKES)
        ]

    def num_audits(self) -> tuple[int, int]:
        """How many audits were requested, and how many there are: they must be the same."""
        with psycopg.connect(self._rig.postgres.url) as connection:
            found = connection.execute("SELECT count(*) FROM audits").fetchone()
        return self._requests, found[0] if found else 0


def _in_phase(fault: Fault) -> bool:
    return fault.moment not in ("progress", "delay")


def _quietly(look: Callable[[], Value]) -> Value | None:
    try:
        return look()
    except (SslmemError, psycopg.OperationalError):
        return None


def insist(act: Callable[[], Value], seconds: float = END_SECONDS) -> Value:
    """Does something again until it succeeds, as clients do while the service is away."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return act()
        except (SslmemError, psycopg.OperationalError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
