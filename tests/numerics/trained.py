"""A really trained pair, small enough for tests: SimCLR on scikit-learn's digits, a network of four layers."""

import functools
import io
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

from sslmem.encoders.encoder import Encoder, LoadReport
from sslmem.recipe import Recipe
from sslmem.samples import Sample
from sslmem.training.simclr import nt_xent
from sslmem.views.make import make_views

CPU = torch.device("cpu")
SIZE = 8
RECIPE = Recipe.model_validate(
    [
        {"random_resized_crop": {"scale": [0.2, 1.0]}},
        {"color_jitter": {"brightness": 0.4, "contrast": 0.4, "p": 0.8}},
    ]
)
Pixels = NDArray[np.uint8]
NUM_SHARED, NUM_CANDIDATES = 10, 40


@dataclass(frozen=True)
class TrainedPair:
    """A target trained on shared and candidates, a reference on shared and independents; and all samples."""

    target: Encoder
    reference: Encoder
    candidates: list[Sample]
    external: list[Sample]


def network() -> nn.Sequential:
    """Four convolutions and an average."""
    layers: list[nn.Module] = []
    for width_in, width, stride in ((3, 32, 1), (32, 64, 2), (64, 128, 1), (128, 128, 2)):
        layers += [nn.Conv2d(width_in, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def as_encoder(module: nn.Module, name: str) -> Encoder:
    """A network as a frozen encoder."""
    report = LoadReport(architecture=name, inferred=[], prefix="", matched=0, dropped=[], absent_counters=0)
    return Encoder(module.eval(), SIZE, (0.5,) * 3, (0.25,) * 3, f"sha256:{name}", report)


def train(samples: list[Sample], pixels: dict[str, Pixels], seed: int, epochs: int = 250) -> nn.Module:
    """SimCLR on all samples at once."""
    torch.manual_seed(seed)
    encoder, head = network(), nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 64))
    model = nn.Sequential(encoder, head).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    images, keys = [pixels[s.name] for s in samples], [s.key for s in samples]
    for epoch in range(epochs):
        numbers = range(2 * epoch, 2 * epoch + 2)
        views = make_views(images, keys, recipe=RECIPE, size=SIZE, seed=seed, views=numbers, device=CPU)
        first, second = model(((views - 0.5) / 0.25).transpose(0, 1).flatten(0, 1)).tensor_split(2)
        optimizer.zero_grad()
        nt_xent(first, second, 0.2).backward()
        optimizer.step()
    return encoder


@functools.cache
def trained_pair() -> TrainedPair:
    """Trains the pair, once."""
    images = load_digits().images
    samples: list[Sample] = []
    pixels: dict[str, Pixels] = {}
    for i in np.random.default_rng(0).permutation(1797):
        grey = np.rint(images[i] * (255 / 16)).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(grey).save(buffer, format="PNG")
        samples.append(Sample(f"{i}.png", f"digit-{i}", buffer.getvalue()))
        pixels[f"{i}.png"] = np.repeat(grey[:, :, None], 3, axis=2)
    shared, rest = samples[:NUM_SHARED], samples[NUM_SHARED:]
    candidates, independent = rest[:NUM_CANDIDATES], rest[NUM_CANDIDATES : 2 * NUM_CANDIDATES]
    target = as_encoder(train(shared + candidates, pixels, seed=1), "target")
    reference = as_encoder(train(shared + independent, pixels, seed=2), "reference")
    return TrainedPair(target, reference, candidates, rest[2 * NUM_CANDIDATES :])
