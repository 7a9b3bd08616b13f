"""Images, samples and encoders that tests need, each the same for the same seed."""

import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from sslmem.datasets.image import sample_key
from sslmem.encoders.encoder import Encoder, LoadReport
from sslmem.report.rows import ScoreRow
from sslmem.scoring import Sample

Pixels = NDArray[np.uint8]

# Parameters of augmentations that have no default.
REQUIRED: dict[str, dict[str, Any]] = {"gaussian_blur": {"kernel_size": 3}, "solarize": {"threshold": 0.5}}


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    """Every pixel independent of its neighbours: the hardest case for resampling."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def scene(height: int, width: int, seed: int = 0) -> Pixels:
    """Smooth shading, edges, flat areas, black, white and a little grain, as photographs have them."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    image = np.zeros((height, width, 3))
    for channel in range(3):
        for _ in range(4):
            fx, fy, phase = generator.uniform(-6, 6), generator.uniform(-6, 6), generator.uniform(0, 2 * math.pi)
            image[..., channel] += np.sin(2 * math.pi * (fx * x + fy * y) + phase)
    image = 128 + 40 * image
    for _ in range(3):
        top, left = generator.integers(0, height), generator.integers(0, width)
        patch = image[top : top + height // 3 + 1, left : left + width // 3 + 1]
        patch[...] = generator.choice([0, 255, *generator.uniform(0, 255, 3)], 3)
    image += generator.normal(0, 3, image.shape)
    return image.clip(0, 255).astype(np.uint8)


def encoded(image: Image.Image | Pixels, kind: str = "PNG", **options: object) -> bytes:
    """An image file's bytes."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()


def sample(name: str, image: Pixels) -> Sample:
    data = encoded(image)
    return Sample(name, sample_key(data), data)


def small_module(seed: int = 0, width: int = 8) -> nn.Module:
    """A convolutional encoder of a few hundred weights, for views of any size."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, width, 3, padding=1), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers).eval().requires_grad_(requires_grad=False)


def encoder_of(module: nn.Module, input_size: int = 16, digest: str = "sha256:0") -> Encoder:
    report = LoadReport(architecture="small", inferred=[], prefix="", matched=1, dropped=[], absent_counters=0)
    return Encoder(module, input_size, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), digest, report)


def small_encoder(seed: int = 0, input_size: int = 16) -> Encoder:
    return encoder_of(small_module(seed), input_size)


class Function(nn.Module):
    """An encoder that is any function of its normalised views."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, views: Tensor) -> Tensor:
        return self.function(views)


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """Gives every entry, the BatchNorm statistics included, a value that a wrong load would show."""
    generator = torch.Generator().manual_seed(seed)
    for name, entry in module.state_dict().items():
        if name.endswith("running_var"):
            entry.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith("running_mean") or (name.endswith("bias") and entry.is_floating_point()):
            entry.normal_(0, 0.1, generator=generator)
        elif name.endswith("num_batches_tracked"):
            entry.fill_(7)
    return module.eval()


def save_torch(content: object, path: Path, *, legacy: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def prefixed(entries: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in entries.items()}


def row(name: str, role: str | None, score: float | None, *, error: float | None = 0.01) -> ScoreRow:
    """A row of an audit; without a score it was skipped."""
    if score is None:
        return ScoreRow(name, role, None, None, None, None, None, "image-undecodable: it is no image")
    return ScoreRow(name, role, score, score / 2, error, 1.0 - score / 2, 1.0 + score / 2, None)
