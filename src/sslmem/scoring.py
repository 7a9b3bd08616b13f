"""Memorization scores of samples: decode once, make the views once, run every encoder over the same views.

Wang et al. 2024 (arXiv 2401.12233), equation 1, with the expectation over encoders replaced by the mean over the
targets and references given.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sslmem.alignment import standard_errors, unit
from sslmem.conditions import Conditions
from sslmem.encoders.encoder import Encoder
from sslmem.errors import CollapsedEncoder, DeviceUnavailable, IncompatibleScores, SpecError
from sslmem.precision import CPU_VIEWS, PrecisionChoice, choose_precision, distances_of, represent_views
from sslmem.samples import DecodedSample, Sample, decode_ahead, read_samples
from sslmem.spec import ScoreSpec
from sslmem.views.latin import latin
from sslmem.views.make import Image, make_views, original_views
from sslmem.views.philox import uniforms

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
        representations: float32 ``[E, V, D]`` likewise, before normalisation; for ``original`` with the image itself.
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
    representations: NDArray[np.float32] | None = None
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
    return max(1, views_at_once(spec, device) // spec.views)


def views_at_once(spec: ScoreSpec, device: torch.device) -> int:
    """A good number of views for a forward pass."""
    if device.type == "cuda":
        return int(CUDA_VIEWS_AT_224 * max(1.0, (224 / spec.input_size) ** 2))
    return CPU_VIEWS


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
        keep_representations: whether it carries what the encoders made of its views, so that views can be added.
        earlier: what they made of the first views in an earlier run, by sample key; only the further views are made.

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
        keep_representations: bool = False,
        earlier: Mapping[str, NDArray[np.float32]] | None = None,
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
        self._keep_distances, self._keep_representations = keep_distances, keep_representations
        self._earlier = earlier
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
            SpecError: representations are to be kept, and those of the encoders have different sizes.
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
        encoders = (*self._targets, *self._references)
        before = self._before(keys)  # [E, N, V0, D]
        dtype = self._choice.dtype
        parts = [
            [represent_views(encoder, views, dtype) for encoder in encoders]
            for views in self._views(images, keys, made=0 if before is None else before.shape[2])
        ]
        if before is not None:
            parts.insert(0, list(before))
        found = [torch.cat(one, dim=1) for one in zip(*parts, strict=True)]  # [N, V, D] of each encoder
        if self._keep_representations and len({one.shape[2] for one in found}) > 1:
            raise SpecError("representations are kept of encoders with outputs of one size; found several sizes")
        measured = torch.stack([distances_of(representations, self._spec) for representations in found])  # [E, N, P]
        num = len(self._targets)
        return _Batch(
            batch,
            num,
            self._spec.views,
            reduce_distances(measured, num, self._spec),
            measured.transpose(0, 1) if self._keep_distances else None,
            torch.stack(found, dim=1) if self._keep_representations else None,
        )

    def _before(self, keys: list[str]) -> Tensor | None:
        """What the encoders made of the first views in an earlier run: ``[E, N, V0, D]``."""
        if self._earlier is None:
            return None
        if missing := [key for key in keys if key not in self._earlier]:
            raise IncompatibleScores(f"the earlier run has no representations of the sample with key {missing[0]}")
        kept = np.stack([self._earlier[key] for key in keys], axis=1)
        return torch.from_numpy(kept).to(self._device)

    def _views(self, images: list[Image], keys: list[str], made: int = 0) -> Iterator[Tensor]:
        """Views ``[N, ..., 3, S, S]`` without the first ones, if so many were made before; together V of each image.

        Those of a single image come in parts, so that memory does not grow with their number. For the pairing
        ``original`` the image itself comes before them.
        """
        spec = self._spec
        original = spec.pairing == "original"
        step = spec.views if len(images) > 1 else views_at_once(spec, self._device)
        if original and not made:
            yield original_views(images, spec.input_size, self._device)[:, None]
        for start in range(max(0, made - original), spec.views, step):
            yield make_views(
                images,
                keys,
                recipe=spec.recipe,
                size=spec.input_size,
                seed=spec.seed,
                views=range(start, min(start + step, spec.views)),
                device=self._device,
                numbers=uniforms if spec.stratify is None else partial(latin, spec.stratify),
            )

    @torch.inference_mode()
    def _look(self, first: list[DecodedSample]) -> None:
        """Looks at the first samples: do the encoders tell images apart, and how low a precision is safe?"""
        different = list({sample.key: sample for sample in first}.values())
        images, keys = [s.image for s in different if s.image is not None], [s.key for s in different]
        if len(different) < 2:
            return
        originals = original_views(images[:FOR_COLLAPSE], self._spec.input_size, self._device)
        for encoder in (*self._targets, *self._references):
            if _is_collapsed(encoder.represent(originals)):
                raise CollapsedEncoder(
                    f"an encoder ({encoder.report.architecture}, {encoder.weights_digest}) maps {len(originals)} "
                    "different images to the same representation; expected a trained encoder"
                )
        if self._spec.precision == "auto":
            step = self._batch_size
            parts = [(images[i : i + step], keys[i : i + step]) for i in range(0, len(images), step)]
            try:
                self._choice = choose_precision(
                    self._targets,
                    self._references,
                    lambda: (torch.cat(list(self._views(*part)), dim=1) for part in parts),
                    self._spec,
                    device_type=self._device.type,
                )
            except torch.OutOfMemoryError:
                logger.warning("out of memory in the check of precisions; going on in float32")


def _is_collapsed(representations: Tensor) -> bool:
    """Whether the vectors ``[N, D]`` of different images are one, or, of some, nearly one direction."""
    vectors = representations.float()
    if bool((vectors == vectors[:1]).all()):  # all zero, too, which has no direction
        return True
    directions = unit(vectors)
    spread = float(torch.linalg.vector_norm(directions[1:] - directions[:1], dim=1).amax())
    return len(vectors) >= FOR_COLLAPSE and spread < COLLAPSED  # false for NaN, which is reported sample by sample


@dataclass
class _Batch:
    """Results of a batch that may still be under way on the device."""

    samples: list[DecodedSample]
    num_targets: int
    num_views: int
    rows: Tensor | None = None  # [N, E + 1]: alignment of each encoder, standard error
    distances: Tensor | None = None  # [N, E, P]
    representations: Tensor | None = None  # [N, E, V, D]

    def fetch(self) -> list[SampleScore]:
        """Waits for the results."""
        rows, kept, made = (
            iter([] if part is None else part.cpu().numpy())
            for part in (self.rows, self.distances, self.representations)
        )
        scores = []
        for sample in self.samples:
            if sample.image is None:
                scores.append(SampleScore(sample.name, sample.key, skipped=sample.skipped))
                continue
            row: list[float] = next(rows).tolist()
            score = score_of(sample.name, sample.key, row, self.num_targets, self.num_views, next(kept, None))
            scores.append(replace(score, representations=next(made, None)))
        return scores


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
