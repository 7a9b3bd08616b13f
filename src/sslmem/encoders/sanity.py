"""Signs that an encoder is not what its file should hold, seen before any audit uses it.

Two kinds: norms that stand exactly as they are initialised, which no training leaves, and what the encoder makes of
a few generated images under augmentations. A random network also finds the views of such images again, so the second
kind tells collapse and noise, not training; see docs/decisions/0015-suspect-encoders.md.
"""

import io

import numpy as np
import torch
from PIL import Image
from torch import nn

from sslmem.datasets.image import sample_key
from sslmem.encoders.encoder import Encoder
from sslmem.recipe import Recipe
from sslmem.report.quality import measure_quality
from sslmem.samples import Sample
from sslmem.spec import ScoreSpec

NUM_IMAGES = 16
SIDE = 64
MAX_UNIFORMITY = -0.01  # 0: all images in one point; as in the validity checks
MIN_RETRIEVAL_OVER_CHANCE = 3.0
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)


def look_over(encoder: Encoder) -> None:
    """Writes down in an encoder's report what speaks against it."""
    encoder.report = encoder.report.model_copy(update={"suspicions": suspicions(encoder)})


def suspicions(encoder: Encoder) -> list[str]:
    """Says what speaks against an encoder, as sentences; nothing is said of one that looks trained."""
    found = []
    norms = [module for module in encoder.module.modules() if isinstance(module, NORMS) and module.weight is not None]
    if norms and all(_as_initialised(norm) for norm in norms):
        found.append(f"all {len(norms)} norms are exactly as initialised: the weights were never trained")
    device = next(encoder.module.parameters(), torch.empty(0)).device
    spec = ScoreSpec(input_size=encoder.input_size, recipe=Recipe.named("simclr"))
    quality = measure_quality([encoder], [], generated_samples(), spec, device=device)
    if quality is None:
        return found
    (figures,) = quality.targets
    if figures.uniformity > MAX_UNIFORMITY:
        found.append(f"different images have nearly the same representation (uniformity {figures.uniformity:.4f})")
    if figures.retrieval < MIN_RETRIEVAL_OVER_CHANCE * figures.chance:
        found.append(
            f"views of one image are no nearer to each other than to those of others (nearest in "
            f"{figures.retrieval:.2f} of cases, by chance {figures.chance:.2f})"
        )
    return found


def _as_initialised(norm: nn.Module) -> bool:
    state = norm.state_dict()
    # Some networks begin with the last norm of each residual block at zero.
    expected = {"weight": (0, 1), "bias": (0,), "running_mean": (0,), "running_var": (1,)}
    return all(
        any(bool((state[name] == value).all()) for value in values)
        for name, values in expected.items()
        if name in state
    )


def generated_samples() -> list[Sample]:
    """Images with the spectrum of natural ones (amplitude falls as 1/f), each of its own colours and shapes."""
    generator = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE)[None, :])
    frequency[0, 0] = 1.0
    samples = []
    for number in range(NUM_IMAGES):
        noise = np.fft.fft2(generator.normal(size=(3, SIDE, SIDE))) / frequency
        pattern = np.real(np.fft.ifft2(noise))
        mixed = np.tensordot(generator.normal(size=(3, 3)), pattern, axes=1)  # channels go together, as in photographs
        scaled = (mixed - mixed.mean()) / mixed.std() * 0.2 + generator.uniform(0.2, 0.8, size=(3, 1, 1))
        data = io.BytesIO()
        pixels = (scaled.clip(0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
        Image.fromarray(pixels).save(data, format="PNG")
        samples.append(Sample(f"generated-{number}", sample_key(data.getvalue()), data.getvalue()))
    return samples
