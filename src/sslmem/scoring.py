"""Memorization scores of samples: decode once, make the views once, run every encoder over the same views.

Wang et al. 2024 (arXiv 2401.12233), equation 1, with the expectation over encoders replaced by the mean over the
targets and references given.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sslmem.alignment import standard_errors, unit
from sslmem.conditions import Conditions
from sslmem.encoders.encoder import Encoder
from sslmem.errors import CollapsedEncoder, DeviceUnavailable, SpecError
from sslmem.precision import CPU_VIEWS, PrecisionChoice, choose_precision, distances
from sslmem.samples import DecodedSample, Sample, decode_ahead, read_samples
from sslmem.spec import ScoreSpec
from sslmem.views.make import Image, make_views, original_views
from sslmem.views.philox import uniforms
from sslmem.views.sobol import sobol

__all__ = ["Sample", "SampleScore", "Scorer", "default_batch_size", "pick_device", "read_samples", "score"]

logger = logging.getLogger(__name__)

CUDA_VIEWS_AT_224 = 1024
# Two unit vectors nearer to each other than this are the same but for rounding.
COLLAPSED = 1e-4
FOR_COLLAPSE, FOR_PRECISION = 4, 32  # different images that a run looks at first


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
        alignment_targets: Lf of each target.
        alignment_references: Lg of each reference.
        reference_spread: standard deviation of Lg over references; None for a single one.
        num_views: of this sample.
        distances: float32 ``[E, P]``, of each target, then of each reference, if they were to be kept.
        skipped: why the sample has no score.
    """

    name: str
    key: str
    score: float | None = None
    score_bounded: float | None = None
    standard_error: float | None = None
    alignment_target: float | None = None
    alignment_reference: float | None = None
    alignment_targets: tuple[float, ...] | None = None
    alignment_references: tuple[float, ...] | None = None
    reference_spread: float | None = None
    num_views: int | None = None
    distances: NDArray[np.float32] | None = None
    skipped: str | None = None


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
    """Scores samples in their order, batch by batch; see :class:`Scorer`."""
    return Scorer(targets, references, spec, device=device, batch_size=batch_size).score(samples)


class Scorer:
    """Scores samples batch by batch, in memory bounded by the batch.

    A batch that does not fit into the device's memory is halved, down to one sample.

    Args:
        targets: the encoders f under audit; several are averaged.
        references: the encoders g trained without the candidates; several are averaged.
        spec: how.
        device: where the encoders are.
        batch_size: samples per batch; None chooses it.
        keep_distances: whether each score carries the distances it is the mean of.

    Attributes:
        conditions: under which the scores so far were measured.

    Raises:
        SpecError: an encoder's input size or measured tensor is not that of the spec, or there is no target or no
            reference.
    """

    def __init__(
        self,
        targets: Sequence[Encoder],
        references: Sequence[Encoder],
        spec: ScoreSpec,
        *,
        device: torch.device,
        batch_size: int | None = None,
        keep_distances: bool = False,
    ) -> None:
        if not targets or not references:
            raise SpecError("expected at least one target and at least one reference encoder")
        for encoder in (*targets, *references):
            if encoder.input_size != spec.input_size:
                raise SpecError(f"an encoder takes {encoder.input_size} pixels, the spec says {spec.input_size}")
            if encoder.report.representation != spec.representation:
                found = encoder.report.representation
                raise SpecError(f"an encoder was loaded for its {found} output, the spec says {spec.representation}")
        self._targets, self._references, self._spec, self._device = targets, references, spec, device
        self._batch_size = batch_size or default_batch_size(spec, device)
        self._keep_distances = keep_distances
        self._choice = PrecisionChoice("float32", 0.0)

    @property
    def conditions(self) -> Conditions:
        """Device, batch size and precision of the scores so far; they do not determine the scores."""
        return Conditions(
            device=torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else self._device.type,
            batch_size=self._batch_size,
            precision=self._choice.dtype,
            precision_share_of_error=self._choice.share_of_error,
        )

    def score(self, samples: Iterable[Sample]) -> Iterator[list[SampleScore]]:
        """Scores samples in their order.

        Each batch's results are fetched while the next one is computed.

        Raises:
            CollapsedEncoder: an encoder maps different images to one representation.
        """
        decoded = decode_ahead(samples, max(2 * self._batch_size, FOR_PRECISION))
        first = list(islice(decoded, FOR_PRECISION))
        self._look([sample for sample in first if sample.image is not None])
        remaining = chain(first, decoded)
        launched: _Batch | None = None
        while group := list(islice(remaining, self._batch_size)):
            for batch in self._launch(group):
                if launched is not None:
                    yield launched.fetch()
                launched = batch
        if launched is not None:
            yield launched.fetch()

    def _launch(self, group: list[DecodedSample]) -> Iterator["_Batch"]:
        todo = [group]
        while todo:
            part = todo.pop(0)
            try:
                yield self._measure(part)
            except torch.OutOfMemoryError:
                if len(part) == 1:
                    raise
                self._batch_size = max(1, len(part) // 2)
                logger.warning("out of memory with %d samples per batch; now %d", len(part), self._batch_size)
                todo[:0] = [part[i : i + self._batch_size] for i in range(0, len(part), self._batch_size)]

    @torch.inference_mode()
    def _measure(self, batch: list[DecodedSample]) -> "_Batch":
        images = [sample.image for sample in batch if sample.image is not None]
        keys = [sample.key for sample in batch if sample.image is not None]
        if not images:
            return _Batch(batch, len(self._targets), self._spec.views)
        views, dtype = self._views(images, keys), self._choice.dtype
        encoders = (*self._targets, *self._references)
        measured = torch.stack([distances(encoder, views, self._spec, dtype) for encoder in encoders])  # [E, N, P]
        num = len(self._targets)
        kept = measured.transpose(0, 1) if self._keep_distances else None
        return _Batch(batch, num, self._spec.views, reduce_distances(measured, num, self._spec), kept)

    def _views(self, images: list[Image], keys: list[str]) -> Tensor:
        """``[N, V, 3, S, S]``, for the pairing ``original`` ``[N, 1 + V, 3, S, S]`` with the image itself first."""
        spec = self._spec
        views = make_views(
            images,
            keys,
            recipe=spec.recipe,
            size=spec.input_size,
            seed=spec.seed,
            views=range(spec.views),
            device=self._device,
            numbers=uniforms if spec.sobol is None else partial(sobol, spec.sobol),
        )
        if spec.pairing == "original":
            views = torch.cat([original_views(images, spec.input_size, self._device)[:, None], views], dim=1)
        return views

    @torch.inference_mode()
    def _look(self, first: list[DecodedSample]) -> None:
        """Looks at the first samples: do the encoders tell images apart, and how low a precision is safe?"""
        different = list({sample.key: sample for sample in first}.values())
        if len(different) < FOR_COLLAPSE:
            return
        images, keys = [s.image for s in different if s.image is not None], [s.key for s in different]
        size = self._spec.input_size
        originals = original_views(images[:FOR_COLLAPSE], size, self._device)
        for encoder in (*self._targets, *self._references):
            vectors = unit(encoder.represent(originals))
            spread = float(torch.linalg.vector_norm(vectors[1:] - vectors[:1], dim=1).amax())
            if spread < COLLAPSED:  # false for NaN, which is reported sample by sample
                raise CollapsedEncoder(
                    f"an encoder ({encoder.report.architecture}, {encoder.weights_digest}) maps {len(originals)} "
                    "different images to the same representation; expected a trained encoder"
                )
        if self._spec.precision == "auto":
            try:
                views = self._views(images, keys)
                self._choice = choose_precision(self._targets, self._references, views, self._spec)
            except torch.OutOfMemoryError:
                logger.warning("out of memory in the check of precisions; going on in float32")


@dataclass
class _Batch:
    """Results of a batch that may still be under way on the device."""

    samples: list[DecodedSample]
    num_targets: int
    num_views: int
    rows: Tensor | None = None  # [N, E + 1]: alignment of each encoder, standard error
    distances: Tensor | None = None  # [N, E, P]

    def fetch(self) -> list[SampleScore]:
        """Waits for the results."""
        rows = iter([] if self.rows is None else self.rows.tolist())
        kept = iter([] if self.distances is None else self.distances.cpu().numpy())
        return [
            SampleScore(sample.name, sample.key, skipped=sample.skipped)
            if sample.image is None
            else self._score(sample, next(rows), next(kept, None))
            for sample in self.samples
        ]

    def _score(self, sample: DecodedSample, row: list[float], kept: NDArray[np.float32] | None) -> SampleScore:
        return score_of(sample.name, sample.key, row, self.num_targets, self.num_views, kept)


def reduce_distances(measured: Tensor, num_targets: int, spec: ScoreSpec) -> Tensor:
    """Alignment distance of each encoder and standard error, float64 ``[N, E + 1]``, from distances ``[E, N, P]``."""
    target, reference = (
        part.double().mean(dim=0) for part in (measured[:num_targets], measured[num_targets:])
    )  # [N, P]
    errors = standard_errors(reference - target, pairing=spec.pairing, group=spec.group)
    return torch.cat([measured.double().mean(dim=2), errors[None]]).T


def score_of(
    name: str, key: str, row: list[float], num_targets: int, num_views: int, kept: NDArray[np.float32] | None
) -> SampleScore:
    """A sample's score from its row of :func:`reduce_distances`."""
    *alignments, error = row
    if not np.isfinite(alignments).all():
        reason = "representation-not-finite: an encoder's output for this image is not finite, or zero"
        return SampleScore(name, key, skipped=reason)
    targets, references = tuple(alignments[:num_targets]), tuple(alignments[num_targets:])
    target, reference = (float(np.mean(part)) for part in (targets, references))
    both = target + reference
    return SampleScore(
        name,
        key,
        score=reference - target,
        score_bounded=(reference - target) / both if both > 0 else None,
        standard_error=None if np.isnan(error) else error,  # NaN: too few views to tell
        alignment_target=target,
        alignment_reference=reference,
        alignment_targets=targets,
        alignment_references=references,
        reference_spread=float(np.std(references, ddof=1)) if len(references) > 1 else None,
        num_views=num_views,
        distances=kept,
    )
