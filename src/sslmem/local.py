"""Scores a dataset on this machine: what ``sslmem score`` and notebooks use."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sslmem.conditions import Conditions
from sslmem.datasets.source import Dataset
from sslmem.encoders.encoder import Encoder
from sslmem.errors import SpecError
from sslmem.refine import num_forwards, score_refined
from sslmem.report.rows import ScoreRow, write_parquet
from sslmem.report.summary import Summary, summarize
from sslmem.roles import Role
from sslmem.samples import decode, read_samples
from sslmem.scoring import SampleScore, Scorer
from sslmem.spec import ScoreSpec


@dataclass(frozen=True)
class LocalScores:
    """What a local run gives: a row per sample, in the order asked for, and their summary."""

    rows: list[ScoreRow]
    summary: Summary


def write_scores(path: Path, scores: LocalScores) -> None:
    """Writes the scores as Parquet, with the summary and the spec's digest in the file's metadata."""
    summary = scores.summary
    metadata = [("summary", summary.model_dump_json()), ("spec_digest", summary.spec_digest)]
    write_parquet(path, scores.rows, summary.scales, metadata)


def as_row(score: SampleScore, role: str | None) -> ScoreRow:
    """A score as a row of the table of scores."""
    return ScoreRow(
        sample=score.name,
        role=role,
        score=score.score,
        score_bounded=score.score_bounded,
        standard_error=score.standard_error,
        alignment_target=score.alignment_target,
        alignment_reference=score.alignment_reference,
        skipped=score.skipped,
        sample_key=score.key,
        alignment_targets=score.alignment_targets,
        alignment_references=score.alignment_references,
        reference_spread=score.reference_spread,
        num_views=score.num_views,
        distances=score.distances,
        representations=None if score.representations is None else score.representations.astype("<f4").tobytes(),
    )


def as_local(
    scores: Iterable[SampleScore],
    spec: ScoreSpec,
    targets: Sequence[Encoder],
    references: Sequence[Encoder],
    roles: Mapping[str, Role] | None,
    conditions: Sequence[Conditions],
) -> LocalScores:
    """Scores as rows, with their summary."""
    rows = [as_row(score, roles[score.name] if roles is not None else None) for score in scores]
    summary = summarize(
        rows,
        spec,
        target_digests=[encoder.weights_digest for encoder in targets],
        reference_digests=[encoder.weights_digest for encoder in references],
        conditions=conditions,
    )
    return LocalScores(rows, summary)


def census(dataset: Dataset, roles: Mapping[str, Role]) -> list[ScoreRow]:
    """All images with a role that can be decoded, as rows with their keys, before any is scored."""
    read = (decode(sample) for sample in read_samples(dataset, sorted(roles)))
    return [
        as_row(SampleScore(image.name, image.key, score=0.0), roles[image.name])
        for image in read
        if image.skipped is None
    ]


def score_dataset(
    targets: Sequence[Encoder],
    references: Sequence[Encoder],
    dataset: Dataset,
    spec: ScoreSpec,
    *,
    device: torch.device,
    roles: Mapping[str, Role] | None = None,
    batch_size: int | None = None,
    keep_distances: bool = False,
    keep_representations: bool = False,
    earlier: Mapping[str, NDArray[np.float32]] | None = None,
    advance: Callable[[float], None] = lambda _: None,
) -> LocalScores:
    """Scores the samples of a dataset.

    In two stages, the figures of the summary by role are of the first stage, the most memorized samples of the second.

    Args:
        targets: the encoders f under audit.
        references: the encoders g.
        dataset: where the images are.
        spec: how.
        device: where the encoders are.
        roles: of the samples by path; only these are scored. None scores all, without a role.
        batch_size: samples per batch; None chooses it.
        keep_distances: whether rows carry the distances they are the mean of.
        keep_representations: whether rows carry what the encoders made of the views.
        earlier: what they made of the first views in an earlier run; see :class:`sslmem.scoring.Scorer`.
        advance: called with the part of the work that is done, from 0 to 1.

    Raises:
        SpecError: the encoders do not go with the spec, or distances of two stages are to be kept.
        CollapsedEncoder: an encoder maps different images to one representation.
    """
    if spec.refine is not None and (keep_distances or keep_representations or earlier is not None):
        raise SpecError("runs in two stages are not put together with others; leave out what is kept for that")
    names = [sample.path for sample in dataset.samples if roles is None or sample.path in roles]
    scorers: list[Scorer] = []

    def scorer(stage: ScoreSpec) -> Scorer:
        made = Scorer(
            targets,
            references,
            stage,
            device=device,
            batch_size=batch_size,
            keep_distances=keep_distances,
            keep_representations=keep_representations,
            earlier=earlier,
        )
        scorers.append(made)
        return made

    total, done = num_forwards(len(names), spec), 0
    first: dict[str, SampleScore] = {}
    found: dict[str, SampleScore] = {}
    for batch in score_refined(scorer, spec, lambda chosen: read_samples(dataset, chosen), names):
        for score in batch:
            first.setdefault(score.name, score)
            found[score.name] = score
        stage = spec.refine.views if spec.refine is not None and len(scorers) > 1 else spec.views
        done += len(batch) * stage
        advance(min(1.0, done / total))
    conditions = [made.conditions for made in scorers]
    scores = as_local([found[name] for name in names], spec, targets, references, roles, conditions)
    if spec.refine is None:
        return scores
    # Only the highest scores are measured again, and regress to their means: a mean over both kinds would be biased.
    figures = as_local([first[name] for name in names], spec, targets, references, roles, conditions).summary
    shown = {name: getattr(scores.summary, name) for name in ("most_memorized", "least_memorized")}
    return LocalScores(scores.rows, figures.model_copy(update=shown))
