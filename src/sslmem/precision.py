"""Runs an encoder in a lower precision where that is safe: a check on the first samples chooses, and it is recorded."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sslmem.alignment import alignment_distances, standard_errors
from sslmem.conditions import Dtype
from sslmem.encoders.encoder import Encoder
from sslmem.spec import ScoreSpec

# The error of a score by precision, root mean square over the first samples, may be this part of its standard error
# over views: then it adds less than 1 % to the variance.
MAX_SHARE_OF_ERROR = 0.1
CANDIDATES: dict[str, tuple[Dtype, ...]] = {"cpu": ("bfloat16",), "cuda": ("float16", "bfloat16")}


@dataclass(frozen=True)
class PrecisionChoice:
    """What the check found.

    Attributes:
        dtype: the precision to use.
        share_of_error: error of the score in it as a part of the standard error over views; 0 for float32.
    """

    dtype: Dtype
    share_of_error: float


def choose_precision(
    targets: Sequence[Encoder],
    references: Sequence[Encoder],
    views: Callable[[], Iterable[Tensor]],
    spec: ScoreSpec,
    *,
    device_type: str,
) -> PrecisionChoice:
    """Chooses the fastest precision whose error is far below the noise of views; float32 if there is none.

    Args:
        targets: the encoders f.
        references: the encoders g.
        views: makes those of the first samples, batch by batch ``[N, V, 3, S, S]``.
        spec: how they are scored.
        device_type: ``cpu`` or ``cuda``.
    """
    exact, seconds = _timed(lambda: _differences(targets, references, views, spec, "float32"))
    errors = standard_errors(exact, pairing=spec.pairing, group=spec.group)
    best, chosen = seconds, PrecisionChoice("float32", 0.0)
    noise = float(errors.square().mean().sqrt())
    for dtype in CANDIDATES.get(device_type, ()):
        rough, seconds = _timed(lambda dtype=dtype: _differences(targets, references, views, spec, dtype))  # type: ignore[misc]
        share = float((rough - exact).mean(dim=1).square().mean().sqrt()) / noise if noise > 0 else float("inf")
        if share <= MAX_SHARE_OF_ERROR and seconds < best:
            best, chosen = seconds, PrecisionChoice(dtype, share)
    return chosen


def _differences(
    targets: Sequence[Encoder],
    references: Sequence[Encoder],
    views: Callable[[], Iterable[Tensor]],
    spec: ScoreSpec,
    dtype: Dtype,
) -> Tensor:
    """Reference's minus target's distances, float64 ``[N, P]``."""
    found = []
    for part in views():
        target, reference = (
            torch.stack([distances(encoder, part, spec, dtype) for encoder in encoders]).double().mean(dim=0)
            for encoders in (targets, references)
        )
        found.append(reference - target)
    return torch.cat(found)


def _timed(work: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """The result of the second of two runs and its seconds: the first warms up."""
    work().sum().item()
    started = time.perf_counter()
    result = work()
    result.sum().item()  # waits for the device
    return result, time.perf_counter() - started


CPU_VIEWS = 64  # views per forward pass: on a CPU larger batches spend their time in page faults


def represent_views(encoder: Encoder, views: Tensor, dtype: Dtype) -> Tensor:
    """The encoder's output for views ``[N, V, 3, S, S]``, before any normalisation: float32 ``[N, V, D]``."""
    flat = views.flatten(0, 1)
    step = CPU_VIEWS if views.device.type == "cpu" else len(flat)
    representations = torch.cat([encoder.represent(part, dtype) for part in torch.split(flat, max(1, step))])
    return representations.float().view(*views.shape[:2], -1)


def distances_of(representations: Tensor, spec: ScoreSpec) -> Tensor:
    """The distances whose mean is each sample's alignment distance: float32 ``[N, P]``."""
    return alignment_distances(
        representations,
        pairing=spec.pairing,
        distance=spec.distance,
        normalize=spec.normalize,
        group=spec.group,
    )


def distances(encoder: Encoder, views: Tensor, spec: ScoreSpec, dtype: Dtype) -> Tensor:
    """Those of views ``[N, V, 3, S, S]``."""
    return distances_of(represent_views(encoder, views, dtype), spec)
