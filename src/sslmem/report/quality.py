"""How good the encoders of an audit are on external images: a reference that is worse than the target inflates scores.

Alignment and uniformity are those of Wang and Isola (2020, arXiv 2005.10242, equations 2 and 3). Retrieval is
instance discrimination (Wu et al. 2018, arXiv 1805.01978) on views: it needs no labels.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from sslmem.alignment import unit
from sslmem.encoders.encoder import Encoder
from sslmem.report.checks import EncoderFigures, EncoderQuality
from sslmem.samples import Sample, decode
from sslmem.spec import ScoreSpec
from sslmem.views.make import make_views

NUM_VIEWS = 4
MAX_SAMPLES = 512  # beyond which figures hardly move, and the table of distances grows with the square
PART = 256


def measure_quality(
    targets: Sequence[Encoder],
    references: Sequence[Encoder],
    samples: Iterable[Sample],
    spec: ScoreSpec,
    *,
    device: torch.device,
    max_samples: int = MAX_SAMPLES,
) -> EncoderQuality | None:
    """Measures all encoders on the same views of external samples.

    Args:
        targets: the encoders f.
        references: the encoders g.
        samples: external ones; the first that can be decoded are used.
        spec: whose recipe, size and seed make the views.
        device: where the encoders are.
        max_samples: how many to use at most.

    Returns:
        None with fewer than two samples.
    """
    images, keys = [], []
    for sample in samples:
        decoded = decode(sample)
        if decoded.image is not None:
            images.append(decoded.image)
            keys.append(decoded.key)
        if len(images) == max_samples:
            break
    if len(images) < 2:
        return None
    views = make_views(
        images,
        keys,
        recipe=spec.recipe,
        size=spec.input_size,
        seed=spec.seed,
        views=range(NUM_VIEWS),
        device=device,
    )  # [N, V, 3, S, S]
    measured = [tuple(_figures(encoder, views) for encoder in part) for part in (targets, references)]
    return EncoderQuality(num_samples=len(images), targets=measured[0], references=measured[1])


@torch.inference_mode()
def _figures(encoder: Encoder, views: Tensor) -> EncoderFigures:
    num, num_views = views.shape[:2]
    flat = torch.cat([encoder.represent(part) for part in torch.split(views.flatten(0, 1), PART)])
    vectors = unit(flat)  # [N V, D]
    if not vectors.isfinite().all():  # no directions: as bad as a collapsed encoder
        return EncoderFigures(alignment=0.0, uniformity=0.0, retrieval=0.0, chance=_chance(num, num_views))
    owner = torch.arange(num, device=views.device).repeat_interleave(num_views)
    squares = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist").square()
    same = owner[:, None] == owner[None, :]
    itself = torch.eye(len(owner), dtype=torch.bool, device=views.device)
    # A tie is no success: a collapsed encoder, all of whose views are equally near, retrieves nothing.
    nearest = squares.masked_fill(itself, torch.inf)
    own = nearest.masked_fill(~same, torch.inf).amin(dim=1)
    other = nearest.masked_fill(same, torch.inf).amin(dim=1)
    return EncoderFigures(
        alignment=float(squares[same & ~itself].double().mean()),
        uniformity=float((-2 * squares[~same].double()).exp().mean().log()),
        retrieval=float((own < other).double().mean()),
        chance=_chance(num, num_views),
    )


def _chance(num: int, num_views: int) -> float:
    return (num_views - 1) / (num * num_views - 1)
