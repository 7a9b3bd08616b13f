"""What is done to the service, and when: a function of the seed alone."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

WORKERS = ("worker-1", "worker-2")
PROGRAMS = ("api", "sweeper", *WORKERS)
ANYWHERE = (*PROGRAMS, "all")
# Each kind, with its victims, of which one is drawn. In a campaign all kinds come equally often.
KINDS: dict[str, tuple[str, ...]] = {
    "kill child": WORKERS,
    "kill worker": WORKERS,
    "kill api": ("api",),
    "kill sweeper": ("sweeper",),
    "kill redis": ("redis",),
    "kill redis and lose its data": ("redis",),
    "kill postgres": ("postgres",),
    "kill backend": ("postgres",),
    "kill everything": ("all",),
    "terminate worker": WORKERS,
    "terminate api": ("api",),
    "stop child": WORKERS,
    "stop worker": WORKERS,
    "stop worker and child": WORKERS,
    "stop api": ("api",),
    "stop sweeper": ("sweeper",),
    "stop redis": ("redis",),
    "stop postgres": ("postgres",),
    "stop backend": ("postgres",),
    "drop messages": ("redis",),
    "duplicate messages": ("redis",),
    "delay messages": ("redis",),
    "fill disk of artifacts": ("artifacts",),
    "fill disk of database": ("postgres",),
    "fill disk of temporary files": ("tmp",),
    "cut line to redis": ANYWHERE,
    "cut line to postgres": ANYWHERE,
    "hold up line to redis": ANYWHERE,
    "hold up line to postgres": ANYWHERE,
    "lose answer to commit": PROGRAMS,
}
LASTING = ("stop", "drop", "duplicate", "delay", "fill", "cut", "hold")
PHASES = ("claiming", "committing", "finalising", "checking", "requesting", "sweeping")
SHARE_IN_A_PHASE = 0.45
SHARE_BY_PROGRESS = 0.3
LEASE_SECONDS = 2.0


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        number: in the campaign, from 1.
        kind: of KINDS.
        victim: a program, a server, or all of them.
        moment: a phase that a program is caught in, or ``progress``, or ``delay``.
        value: the share of chunks done, or seconds after the request; 0 with a phase.
        seconds: until it is over; 0 if it is over at once.
    """

    number: int
    kind: str
    victim: str
    moment: str
    value: float
    seconds: float

    @property
    def needs_check(self) -> bool:
        """Whether a checkpoint must be uploaded and checked meanwhile, for the fault to be felt."""
        return self.moment == "checking" or self.kind in ("fill disk of artifacts", "fill disk of temporary files")

    def __str__(self) -> str:
        when = {"progress": f"at {self.value:.0%}", "delay": f"after {self.value:.2f} s"}
        what = self.kind if self.victim in self.kind else f"{self.kind} ({self.victim})"
        lasting = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"{what} {when.get(self.moment, f'while {self.moment}')}{lasting}"


@dataclass(frozen=True)
class Round:
    """Faults that hit one audit."""

    number: int
    faults: tuple[Fault, ...]

    @property
    def with_check(self) -> bool:
        return any(fault.needs_check for fault in self.faults)


def plan(seed: int, count: int) -> list[Round]:
    """Plans so many faults: the same seed gives the same ones."""
    dice = random.Random(seed)
    kinds = _kinds(dice)
    rounds: list[Round] = []
    left = count
    while left:
        size = min(left, dice.choices((1, 2, 3), (5, 3, 2))[0])
        first = count - left + 1
        rounds.append(
            Round(len(rounds) + 1, tuple(_fault(dice, number, next(kinds)) for number in range(first, first + size)))
        )
        left -= size
    return rounds


def _kinds(dice: random.Random) -> Iterator[str]:
    while True:
        yield from dice.sample(list(KINDS), len(KINDS))


def _fault(dice: random.Random, number: int, kind: str) -> Fault:
    victim, (moment, value) = dice.choice(KINDS[kind]), _moment(dice, kind)
    seconds = 0.0
    if kind.startswith("stop"):
        seconds = LEASE_SECONDS * dice.uniform(1.2, 2.0)  # past the lease
    elif kind.startswith(LASTING):
        seconds = dice.uniform(0.3, 1.5 * LEASE_SECONDS)
    return Fault(number, kind, victim, moment, value, round(seconds, 2))


def _moment(dice: random.Random, kind: str) -> tuple[str, float]:
    dart = dice.random()
    if "artifacts" in kind or "temporary" in kind or dart < SHARE_IN_A_PHASE:
        return ("checking" if "temporary" in kind or "artifacts" in kind else dice.choice(PHASES)), 0.0
    if dart < SHARE_IN_A_PHASE + SHARE_BY_PROGRESS:
        return "progress", round(dice.uniform(0.0, 0.8), 2)
    return "delay", round(dice.uniform(0.0, 2.0), 2)
