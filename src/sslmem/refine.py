"""Two-stage scoring: few views for all samples, many for those that may be among the most memorized.

A second-stage score is the one that a run with that many views of all samples would give, since views are a
function of their index. What can be missed is a sample that the first stage left behind.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from sslmem.samples import Sample
from sslmem.scoring import SampleScore, Scorer
from sslmem.spec import Refine, ScoreSpec


def choose(scores: Sequence[SampleScore], refine: Refine) -> list[int]:
    """Indices of the samples that go on to the second stage: those with the highest scores.

    The share is far larger than what is sought, the top percent, so that it holds the doubtful as well. Adding a
    multiple of the standard error to the score finds no more of them (docs/performance.md).
    """
    scored = [i for i, s in enumerate(scores) if s.score is not None]
    scored.sort(key=lambda i: -(scores[i].score or 0.0))
    return sorted(scored[: round(refine.share * len(scored))])


def second_stage(spec: ScoreSpec, refine: Refine) -> ScoreSpec:
    """The spec of the second stage."""
    return spec.model_copy(update={"views": refine.views, "refine": None})


def num_forwards(num_samples: int, spec: ScoreSpec) -> int:
    """Views that each encoder sees in all."""
    original = 1 if spec.pairing == "original" else 0
    first = num_samples * (spec.views + original)
    if spec.refine is None:
        return first
    return first + round(spec.refine.share * num_samples) * (spec.refine.views + original)


def score_refined(
    scorer: Callable[[ScoreSpec], Scorer],
    spec: ScoreSpec,
    read: Callable[[Sequence[str]], Iterable[Sample]],
    names: Sequence[str],
) -> Iterator[list[SampleScore]]:
    """Scores samples in one stage or, where the spec says so, in two.

    Args:
        scorer: makes a scorer for a spec.
        spec: how.
        read: the samples of these names.
        names: what to score.

    Yields:
        Scores, batch by batch; a later one of the same name replaces the earlier.
    """
    first: list[SampleScore] = []
    for batch in scorer(spec).score(read(names)):
        if spec.refine is not None:
            first += batch
        yield batch
    if spec.refine is not None:
        chosen = [first[i].name for i in choose(first, spec.refine)]
        yield from scorer(second_stage(spec, spec.refine)).score(read(chosen))
