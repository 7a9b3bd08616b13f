"""Scores only as many samples as a decision needs: a group-sequential design.

Samples are scored in random order, all roles alike, batch by batch. After each batch one looks whether the answer is
certain. Looking often finds something by chance more often, so each look may spend only a part of the error: by the
spending function of Lan and DeMets (Biometrika 70(3), 1983) of the type of O'Brien and Fleming (1979),
2 - 2 Phi(z / sqrt(t)) after a share t of the samples, which spends almost nothing early. The limits follow by
numerical integration over the Brownian motion that an estimate is in the large, if it is a mean over samples or nearly
one (Armitage, McPherson, Rowe 1969; Jennison and Turnbull 2000, chapters 11 and 19).
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from sslmem.errors import SpecError
from sslmem.report.effects import Difference
from sslmem.report.statistics import Interval
from sslmem.roles import ROLES, Role
from sslmem.samples import Sample
from sslmem.scoring import SampleScore

Floats = NDArray[np.float64]
Verdict = Literal["above", "at-most", "undecided"]

NUM_LOOKS = 8
MIN_AT_LOOK = 30  # of each role: with fewer, the statistic is far from normal
GRID = 1001
FAR = 8.0  # standard deviations, beyond which a normal density is nothing


class Scores(Protocol):
    """What scores samples: a :class:`sslmem.scoring.Scorer`."""

    def score(self, samples: Iterable[Sample]) -> Iterator[list[SampleScore]]:
        """Scores samples in their order, batch by batch."""
        ...


@dataclass(frozen=True)
class Look:
    """A look at the scores so far.

    Attributes:
        number: from 1.
        num_looks: that there are at most.
        share: of the samples that were scored.
        limit: what a standard normal statistic has to exceed in size to be certain.
        confidence: two-sided, of an interval that leaves out a value just when that is certain. These intervals of all
            looks together cover at the stated level (repeated confidence intervals, Jennison and Turnbull 1989,
            JRSS B 51(3)), so that each may be read whenever the run stopped.
        scores: so far, in the order of scoring.
    """

    number: int
    num_looks: int
    share: float
    limit: float
    confidence: float
    scores: list[SampleScore]

    @property
    def is_last(self) -> bool:
        """Whether all samples are scored."""
        return self.number == self.num_looks


@dataclass(frozen=True)
class ExcessLook:
    """What one look saw of the excess: an estimate with a repeated confidence interval, and its statistic."""

    share: float
    z: float
    limit: float
    excess: Interval


@dataclass(frozen=True)
class SequentialResult:
    """What scoring until a decision found.

    Attributes:
        verdict: ``above`` the bound, ``at-most`` the bound, or ``undecided`` after all samples.
        scores: of the samples that were scored, in that order.
        num_samples: candidates and externals that a full run would have scored.
        looks: one after the other.
    """

    verdict: Verdict
    scores: list[SampleScore]
    num_samples: int
    looks: list[ExcessLook] = field(default_factory=list)

    @property
    def share_scored(self) -> float:
        """Share of a full run's forwards that was needed."""
        return len(self.scores) / self.num_samples


def spent(share: float, level: float) -> float:
    """One-sided error that may be spent once a share of the samples is scored (Lan and DeMets 1983, alpha_1)."""
    return float(2 * ndtr(ndtri(level / 2) / np.sqrt(share)))


@functools.cache
def limits(shares: tuple[float, ...], level: float) -> tuple[float, ...]:
    """Limits of a one-sided z at looks after increasing shares of the samples, which spend ``level`` in all.

    Args:
        shares: in (0, 1], increasing.
        level: one-sided error.
    """
    found: list[float] = []
    at = np.zeros(1)  # where the motion may be, given that it has not crossed a limit yet
    weights = np.ones(1)  # probability there
    before, used = 0.0, 0.0
    for share in shares:
        step = np.sqrt(share - before)
        wanted = max(spent(share, level) - used, 1e-15)

        def excess(limit: float, at: Floats = at, weights: Floats = weights, step: float = step) -> float:
            return float(weights @ ndtr((at - limit) / step)) - wanted  # noqa: B023  called within this turn

        limit = float(brentq(excess, -FAR * share**0.5, 2 * FAR * share**0.5))
        grid = np.linspace(-FAR * share**0.5, limit, GRID)
        density = np.exp(-(((grid[:, None] - at) / step) ** 2) / 2) @ weights / (step * np.sqrt(2 * np.pi))
        widths = np.full(GRID, grid[1] - grid[0])
        widths[[0, -1]] /= 2
        found.append(limit / share**0.5)
        at, weights, before, used = grid, density * widths, share, used + wanted
    return tuple(found)


def score_in_looks(
    scorer: Scores,
    read: Callable[[Sequence[str]], Iterable[Sample]],
    roles: Mapping[str, Role],
    *,
    confidence: float = 0.95,
    least: Mapping[Role, int] | None = None,
    num_looks: int = NUM_LOOKS,
    seed: int = 0,
) -> Iterator[Look]:
    """Scores samples in random order, and gives a look after each of some equal parts; whoever is certain stops.

    The scores are those of a full run, of fewer samples. Each of the two wrong answers is given with probability at
    most (1 - confidence) / 2 over all looks, the error of one end of a full run's interval.

    Args:
        scorer: of targets, references and spec.
        read: the samples of these names, in their order.
        roles: of the samples by name; each look has the same share of every role.
        confidence: two-sided level.
        least: so many samples of a role must be scored before the first look.
        num_looks: at most so many.
        seed: of the order of the samples.

    Raises:
        SpecError: there are fewer than two candidates or externals.
        CollapsedEncoder: an encoder maps different images to one representation.
    """
    queues = {role: _shuffled(roles, role, seed) for role in ROLES}
    sizes = {role: len(queue) for role, queue in queues.items()}
    if min(sizes["candidate"], sizes["external"]) < 2:
        raise SpecError(
            f"a decision needs at least 2 candidates and 2 externals; "
            f"found {sizes['candidate']} and {sizes['external']}"
        )
    planned = plan(sizes, confidence=confidence, least=least, num_looks=num_looks)
    scores: list[SampleScore] = []
    done = dict.fromkeys(queues, 0)
    for number, (share, limit, level) in enumerate(planned, start=1):
        upto = {role: round(share * size) for role, size in sizes.items()}
        names = [name for role, queue in queues.items() for name in queue[done[role] : upto[role]]]
        scores += [score for batch in scorer.score(read(names)) for score in batch]
        done = upto
        yield Look(number, len(planned), share, limit, level, list(scores))


def plan(
    sizes: Mapping[Role, int],
    *,
    confidence: float = 0.95,
    least: Mapping[Role, int] | None = None,
    num_looks: int = NUM_LOOKS,
) -> list[tuple[float, float, float]]:
    """The looks there may be: share of the samples, limit of the statistic, confidence of an interval.

    Args:
        sizes: samples by role.
        confidence: two-sided level, of all looks together.
        least: so many samples of a role must be scored before the first look.
        num_looks: at most so many.
    """
    wanted: dict[Role, int] = {"candidate": MIN_AT_LOOK, "external": MIN_AT_LOOK}
    for role, number in (least or {}).items():
        wanted[role] = max(wanted.get(role, 0), number)
    first = min(1.0, max(number / max(1, sizes.get(role, 0)) for role, number in wanted.items()))
    shares = [share for share in np.linspace(0, 1, num_looks + 1)[1:].tolist() if share >= first]
    allowed = limits(tuple(shares), (1 - confidence) / 2)
    levels = [1 - 2 * float(ndtr(-min(limit, FAR))) for limit in allowed]
    return list(zip(shares, allowed, levels, strict=True))


def score_until_decided(
    scorer: Scores,
    read: Callable[[Sequence[str]], Iterable[Sample]],
    roles: Mapping[str, Role],
    *,
    bound: float,
    confidence: float = 0.95,
    num_looks: int = NUM_LOOKS,
    seed: int = 0,
) -> SequentialResult:
    """Scores candidates and externals until the excess is certainly above a bound or certainly not.

    Args:
        scorer: of targets, references and spec.
        read: the samples of these names, in their order.
        roles: of the samples by name; only candidates and externals are scored.
        bound: on the mean score of candidates minus that of externals.
        confidence: two-sided level.
        num_looks: at most so many.
        seed: of the order of the samples.

    Raises:
        SpecError: there are fewer than two candidates or externals.
        CollapsedEncoder: an encoder maps different images to one representation.
    """
    two = {name: role for name, role in roles.items() if role in ("candidate", "external")}
    seen: list[ExcessLook] = []
    scores: list[SampleScore] = []
    for look in score_in_looks(scorer, read, two, confidence=confidence, num_looks=num_looks, seed=seed):
        scores = look.scores
        ours, null = (
            np.array([s.score for s in scores if s.score is not None and two[s.name] == role], dtype=np.float64)
            for role in ("candidate", "external")
        )
        if min(len(ours), len(null)) < 2:
            continue
        difference = Difference.of(ours, null)
        z = difference.z(bound)
        seen.append(ExcessLook(look.share, z, look.limit, difference.interval(look.confidence)))
        if abs(z) > look.limit:
            return SequentialResult("above" if z > 0 else "at-most", scores, len(two), seen)
    return SequentialResult("undecided", scores, len(two), seen)


def drawn(roles: Mapping[str, Role], share: float, seed: int) -> set[str]:
    """The samples that a run with this order has scored after a share of each role."""
    queues = [_shuffled(roles, role, seed) for role in ROLES]
    return {name for queue in queues for name in queue[: round(share * len(queue))]}


def _shuffled(roles: Mapping[str, Role], role: Role, seed: int) -> list[str]:
    names = sorted(name for name, given in roles.items() if given == role)
    generator = np.random.default_rng([seed, ROLES.index(role)])
    return [names[i] for i in generator.permutation(len(names))]
