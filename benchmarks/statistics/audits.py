"""False alarms and power of the evidence, on audits whose truth is known because of how their encoders were trained."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from benchmarks.statistics.population import PLANTED, Distances, Indices, Split, audit_rows
from demo.digits import Digit
from sslmem.report.effects import share_interval
from sslmem.report.evidence import Evidence, gather_evidence

NUM_EXTERNAL = 300
CONFIDENCE, FDR = 0.95, 0.05
Measured = dict[tuple[int, int, int], Distances]  # by group, repeats, epochs
Audit = tuple[Sequence[Distances], Sequence[Distances], Indices, Indices]  # targets, references, candidates, externals


@dataclass(frozen=True)
class Rate:
    """How often something happened."""

    count: int
    total: int

    def __str__(self) -> str:
        found = share_interval(self.count, self.total, CONFIDENCE)
        return f"{self.count} of {self.total}: {found.estimate:.1%} ({found.low:.1%} to {found.high:.1%})"

    @property
    def point(self) -> tuple[float, float, float]:
        """Share with the ends of its interval."""
        found = share_interval(self.count, self.total, CONFIDENCE)
        return found.estimate, found.low, found.high


@dataclass(frozen=True)
class Outcome:
    """How often audits of one kind said that there is memorization, each way of saying it."""

    excess: Rate
    discoveries: Rate
    over_models: Rate | None = None


def outcome_of(digits: Sequence[Digit], audits: Iterable[Audit]) -> Outcome:
    """Audits each of them and counts."""
    found = [_evidence(digits, audit) for audit in audits]
    name = "candidate.excess_over_models"
    several = [one for one in found if name in one.metrics]
    return Outcome(
        Rate(sum(one.metrics["candidate.excess"].low > 0 for one in found), len(found)),
        Rate(sum(len(one.significant) > 0 for one in found), len(found)),
        Rate(sum(one.metrics[name].low > 0 for one in several), len(several)) if several else None,
    )


def _evidence(digits: Sequence[Digit], audit: Audit) -> Evidence:
    targets, references, candidates, externals = audit
    rows, summary = audit_rows(digits, targets, references, {"candidate": candidates, "external": externals})
    return gather_evidence(rows, summary, confidence=CONFIDENCE, fdr=FDR)


class Nulls:
    """Audits in which the target memorized no candidate that the reference did not."""

    def __init__(self, measured: Measured, split: Split, epochs: int, seed: int = 0) -> None:
        self._measured, self._split, self._epochs = measured, split, epochs
        self._generator = np.random.default_rng(seed)
        self._groups = sorted({group for group, repeats, at in measured if repeats == 1 and at == epochs})
        self._pairs = list(permutations(self._groups, 2))

    def _encoder(self, group: int) -> Distances:
        return self._measured[group, 1, self._epochs]

    def _draw(self, images: Indices, num: int) -> Indices:
        return self._generator.choice(images, num, replace=False)

    def _repeat(self, num: int, make: Callable[[int, int], Audit]) -> Iterator[Audit]:
        for i in range(num):
            yield make(*self._pairs[i % len(self._pairs)])

    def split_externals(self, num: int, num_candidates: int) -> Iterator[Audit]:
        """External images, some of them called candidates."""

        def make(i: int, j: int) -> Audit:
            drawn = self._draw(self._split.rest, num_candidates + NUM_EXTERNAL)
            return [self._encoder(i)], [self._encoder(j)], drawn[:num_candidates], drawn[num_candidates:]

        return self._repeat(num, make)

    def exchanged(self, num: int) -> Iterator[Audit]:
        """Target and reference exchanged: what is called candidate was memorized by the reference."""

        def make(i: int, j: int) -> Audit:
            externals = self._draw(self._split.rest, NUM_EXTERNAL)
            return [self._encoder(j)], [self._encoder(i)], self._split.groups[i], externals

        return self._repeat(num, make)

    def trained_on_neither(self, num: int) -> Iterator[Audit]:
        """The training images of a third encoder, called candidates."""

        def make(i: int, j: int) -> Audit:
            third = self._generator.choice([k for k in self._groups if k not in (i, j)])
            externals = self._draw(self._split.rest, NUM_EXTERNAL)
            return [self._encoder(i)], [self._encoder(j)], self._split.groups[third], externals

        return self._repeat(num, make)

    def trained_on_both(self, num: int, num_encoders: int) -> Iterator[Audit]:
        """Images that all encoders were trained on, called candidates, with so many targets and references."""
        for _ in range(num):
            order = self._generator.permutation(self._groups)
            parts = order[:num_encoders], order[num_encoders : 2 * num_encoders]
            targets, references = ([self._encoder(k) for k in part] for part in parts)
            yield targets, references, self._split.shared, self._draw(self._split.rest, NUM_EXTERNAL)


def planted(
    measured: Measured,
    split: Split,
    *,
    epochs: int,
    repeats: int = 1,
    num_candidates: int | None = None,
    times: int = 1,
    seed: int = 0,
) -> Iterator[Audit]:
    """Audits of all pairs for what the target alone was trained on.

    Args:
        measured: of all encoders.
        split: who was trained on what.
        epochs: of the encoders.
        repeats: of the first images of each group.
        num_candidates: drawn from the group; None takes the images that may be repeated.
        times: audits of each pair.
        seed: of what is drawn.
    """
    generator = np.random.default_rng(seed)
    groups = sorted({group for group, k, at in measured if k == repeats and at == epochs})
    for i, j in permutations(groups, 2):
        for _ in range(times):
            group = split.groups[i]
            ours = group[:PLANTED] if num_candidates is None else generator.choice(group, num_candidates, replace=False)
            externals = generator.choice(split.rest, NUM_EXTERNAL, replace=False)
            yield [measured[i, repeats, epochs]], [measured[j, repeats, epochs]], ours, externals
