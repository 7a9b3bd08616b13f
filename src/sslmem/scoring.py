"""Memorization scores of samples: decode once, make the views once, run every encoder over the same views.

Wang et al. 2024 (arXiv 2401.12233), equation 1, with the expectation over encoders replaced by the mean over the
targets and references given.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from sslmem.alignment import alignment_distances, standard_errors
from sslmem.datasets.image import decode_image, sample_key
from sslmem.datasets.source import Dataset
from sslmem.encoders.load import Encoder
from sslmem.errors import DeviceUnavailable, SpecError, UndecodableImage
from sslmem.spec import ScoreSpec
from sslmem.views.make import Image, make_views, original_views

logger = logging.getLogger(__name__)

# Views per forward pass: on a CPU larger batches spend their time in page faults.
CPU_VIEWS = 64
CUDA_VIEWS_AT_224 = 1024


@dataclass(frozen=True)
class Sample:
    """An image to score.

    Attributes:
        name: its path within the dataset.
        key: its sample key, which determines its views.
        data: its encoded bytes.
        problem: why it cannot be read, if so.
    """

    name: str
    key: str
    data: bytes
    problem: str | None = None


@dataclass(frozen=True)
class SampleScore:
    """What was measured of one sample; every number is None when it was skipped.

    Attributes:
        name: the sample's path.
        key: its sample key.
        score: reference's minus target's alignment distance; higher = more memorized by the target.
        score_bounded: (Lg - Lf) / (Lg + Lf), in [-1, 1]; None where both are zero.
        standard_error: of ``score``, over views; None with too few views to tell.
        alignment_target: Lf, mean over targets.
        alignment_reference: Lg, mean over references.
        skipped: why the sample has no score.
    """

    name: str
    key: str
    score: float | None = None
    score_bounded: float | None = None
    standard_error: float | None = None
    alignment_target: float | None = None
    alignment_reference: float | None = None
    skipped: str | None = None


def read_samples(dataset: Dataset, names: Iterable[str]) -> Iterator[Sample]:
    """Reads samples one after the other; an unreadable one carries its reason."""
    for name in names:
        try:
            data = dataset.read(name)
        except UndecodableImage as error:
            yield Sample(name, sample_key(b""), b"", str(error))
        else:
            yield Sample(name, sample_key(data), data)


def pick_device(name: str) -> torch.device:
    """Returns the device called ``auto`` (a GPU if there is one), ``cpu`` or ``cuda[:N]``.

    Raises:
        DeviceUnavailable: there is no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise DeviceUnavailable(f"the device {name!r} is of another kind; expected auto, cpu or cuda")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise DeviceUnavailable(f"the device {name!r} is not usable here; expected auto, cpu or cuda") from error
    return device


def default_batch_size(spec: ScoreSpec, device: torch.device) -> int:
    """Samples per batch such that a forward pass has a good number of views."""
    views = CPU_VIEWS
    if device.type == "cuda":
        views = int(CUDA_VIEWS_AT_224 * max(1.0, (224 / spec.input_size) ** 2))
    return max(1, views // spec.views)


def score(
    targets: Sequence[Encoder],
    references: Sequence[Encoder],
    samples: Iterable[Sample],
    spec: ScoreSpec,
    *,
    device: torch.device,
    batch_size: int | None = None,
) -> Iterator[list[SampleScore]]:
    """Scores samples in their order, batch by batch, in memory bounded by the batch.

    A batch that does not fit into the device's memory is halved, down to one sample.

    Args:
        targets: the encoders f under audit; several are averaged.
        references: the encoders g trained without the candidates; several are averaged.
        samples: what to score.
        spec: how.
        device: where the encoders are.
        batch_size: samples per batch; None chooses it.

    Raises:
        SpecError: an encoder's input size is not that of the spec, or there is no target or no reference.
    """
    if not targets or not references:
        raise SpecError("expected at least one target and at least one reference encoder")
    for encoder in (*targets, *references):
        if encoder.input_size != spec.input_size:
            raise SpecError(f"an encoder takes {encoder.input_size} pixels, the spec says {spec.input_size}")
    remaining = iter(samples)
    size = batch_size or default_batch_size(spec, device)
    while batch := list(islice(remaining, size)):
        todo = [batch]
        while todo:
            part = todo.pop(0)
            try:
                yield _score_batch(targets, references, part, spec, device)
            except torch.OutOfMemoryError:
                if len(part) == 1:
                    raise
                size = max(1, len(part) // 2)
                logger.warning("out of memory with %d samples per batch; going on with %d", len(part), size)
                todo[:0] = [part[i : i + size] for i in range(0, len(part), size)]


@torch.inference_mode()
def _score_batch(
    targets: Sequence[Encoder],
    references: Sequence[Encoder],
    batch: Sequence[Sample],
    spec: ScoreSpec,
    device: torch.device,
) -> list[SampleScore]:
    skipped: dict[int, str] = {}
    images: dict[int, Image] = {}
    for i, sample in enumerate(batch):
        try:
            if sample.problem is not None:
                raise UndecodableImage(sample.problem)
            images[i] = decode_image(sample.data)
        except UndecodableImage as error:
            skipped[i] = f"{UndecodableImage.code}: {error}"
    measured: dict[int, SampleScore] = {}
    if images:
        views = _views(list(images.values()), [batch[i].key for i in images], spec, device)
        rows = _measure(targets, references, views, spec)
        for i, row in zip(images, rows, strict=True):
            measured[i] = _as_score(batch[i], row)
    return [
        measured[i] if i in measured else SampleScore(sample.name, sample.key, skipped=skipped[i])
        for i, sample in enumerate(batch)
    ]


def _views(images: list[Image], keys: list[str], spec: ScoreSpec, device: torch.device) -> Tensor:
    """``[N, V, 3, S, S]``, for the pairing ``original`` ``[N, 1 + V, 3, S, S]`` with the image itself first."""
    views = make_views(
        images,
        keys,
        recipe=spec.recipe,
        size=spec.input_size,
        seed=spec.seed,
        views=range(spec.views),
        device=device,
    )
    if spec.pairing == "original":
        views = torch.cat([original_views(images, spec.input_size, device)[:, None], views], dim=1)
    return views


def _measure(
    targets: Sequence[Encoder], references: Sequence[Encoder], views: Tensor, spec: ScoreSpec
) -> list[list[float]]:
    """Rows of (alignment of targets, of references, standard error), one transfer for the whole batch."""
    target, reference = (
        torch.stack([_distances(encoder, views, spec) for encoder in encoders]).double().mean(dim=0)
        for encoders in (targets, references)
    )  # [N, P] each
    errors = standard_errors(reference - target, pairing=spec.pairing)
    rows: list[list[float]] = torch.stack([target.mean(dim=1), reference.mean(dim=1), errors], dim=1).tolist()
    return rows


def _distances(encoder: Encoder, views: Tensor, spec: ScoreSpec) -> Tensor:
    flat = views.flatten(0, 1)
    step = CPU_VIEWS if views.device.type == "cpu" else len(flat)
    representations = torch.cat([encoder.represent(part) for part in torch.split(flat, max(1, step))])
    return alignment_distances(
        representations.view(*views.shape[:2], -1),
        pairing=spec.pairing,
        distance=spec.distance,
        normalize=spec.normalize,
    )


def _as_score(sample: Sample, row: list[float]) -> SampleScore:
    target, reference, error = row
    if not (abs(target) < float("inf") and abs(reference) < float("inf")):  # also false for NaN
        reason = "representation-not-finite: an encoder's output for this image is not finite, or zero"
        return SampleScore(sample.name, sample.key, skipped=reason)
    both = target + reference
    return SampleScore(
        sample.name,
        sample.key,
        score=reference - target,
        score_bounded=(reference - target) / both if both > 0 else None,
        standard_error=error if error == error else None,  # noqa: PLR0124  NaN: too few views
        alignment_target=target,
        alignment_reference=reference,
    )
