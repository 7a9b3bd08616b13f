"""Naive references, written for reading: plain loops, float64, one sample and one view at a time."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional

from sslmem import recipe as r
from sslmem.encoders.encoder import Encoder
from sslmem.recipe import Recipe
from sslmem.spec import ScoreSpec
from sslmem.views.parameters import draw, numbers_needed
from sslmem.views.philox import uniforms

WITHOUT_PARAMETERS = {
    "horizontal_flip": functional.horizontal_flip,
    "vertical_flip": functional.vertical_flip,
    "grayscale": lambda image: functional.rgb_to_grayscale(image, num_output_channels=3),
    "invert": functional.invert,
}
ADJUSTMENTS = (
    functional.adjust_brightness,
    functional.adjust_contrast,
    functional.adjust_saturation,
    functional.adjust_hue,
)
Vector = Sequence[float]
Pixels = NDArray[np.uint8]


def norm(a: Vector) -> float:
    return math.sqrt(math.fsum(x * x for x in a))


def naive_distance(a: Vector, b: Vector, distance: str) -> float:
    difference = [x - y for x, y in zip(a, b, strict=True)]
    if distance == "l1":
        return math.fsum(abs(x) for x in difference)
    if distance == "l2":
        return norm(difference)
    a, b = [x / norm(a) for x in a], [x / norm(b) for x in b]
    if distance == "cosine":
        return 1 - math.fsum(x * y for x, y in zip(a, b, strict=True))
    half = norm([x - y for x, y in zip(a, b, strict=True)]), norm([x + y for x, y in zip(a, b, strict=True)])
    return 2 * math.atan2(*half) / math.pi


def naive_distances(
    vectors: Sequence[Vector], *, pairing: str, distance: str, normalize: bool, group: int = 1
) -> list[float]:
    """The distances of one sample's representations, pair by pair; views of one group make no pair."""
    if normalize:
        vectors = [[x / norm(v) for x in v] for v in vectors]
    pairs = [(i, j) for i in range(len(vectors)) for j in range(i + 1, len(vectors))]
    pairs = [(i, j) for i, j in pairs if (i == 0 if pairing == "original" else i // group != j // group)]
    return [naive_distance(vectors[i], vectors[j], distance) for i, j in pairs]


def naive_score(
    targets: Sequence[Encoder], references: Sequence[Encoder], views: Tensor, spec: ScoreSpec
) -> tuple[float, float]:
    """Alignment distances of targets and references for the views ``[V, 3, S, S]`` of one sample."""

    def alignment(encoder: Encoder) -> float:
        vectors = []
        for view in views:
            channels = [(view[c] - encoder.mean[c]) / encoder.std[c] for c in range(3)]
            vectors.append(encoder.module(torch.stack(channels)[None]).flatten().double().tolist())
        found = naive_distances(
            vectors, pairing=spec.pairing, distance=spec.distance, normalize=spec.normalize, group=spec.stratify or 1
        )
        return math.fsum(found) / len(found)

    target, reference = (math.fsum(map(alignment, group)) / len(group) for group in (targets, references))
    return target, reference


def as_bytes(image: Pixels) -> Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1)


def as_float(image: Pixels) -> Tensor:
    return as_bytes(image).float() / 255


def torchvision_step(step: r.Step, image: Tensor, u: NDArray[np.float64]) -> Tensor:
    """One augmentation of one image ``[3, H, W]`` by torchvision, given the random numbers of one view."""
    height, width = image.shape[-2:]
    drawn = draw(step, u[None], np.array([float(height)]), np.array([float(width)]))
    if not drawn.applies[0]:
        return image
    values = {name: value[0].tolist() for name, value in drawn.values.items()}
    result: Tensor
    match step:
        case r.RandomResizedCrop(size=int(size)):
            top, left, h, w = (int(v) for v in values["box"])
            result = functional.resized_crop(image, top, left, h, w, [size, size], antialias=True)
        case r.Solarize(threshold=threshold):
            result = functional.solarize(image, threshold)
        case r.GaussianBlur(kernel_size=kernel_size):
            result = functional.gaussian_blur(image, [kernel_size] * 2, [values["sigma"]] * 2)
        case r.ColorJitter():
            result = image
            for kind in map(int, values["order"]):
                result = ADJUSTMENTS[kind](result, values["factors"][kind])
        case _:
            result = WITHOUT_PARAMETERS[step.op](image)
    return result


def torchvision_view(pixels: Tensor, key: str, recipe: Recipe, *, size: int, seed: int, view: int) -> Tensor:
    """One view ``[3, S, S]`` by torchvision, of floats or bytes, with the parameters that are the view's own."""
    steps = recipe.sized(size).steps
    needed = [numbers_needed(step) for step in steps]
    numbers = np.split(uniforms(seed, [key], range(view, view + 1), sum(needed))[0, 0], np.cumsum(needed)[:-1])
    if not any(isinstance(step, r.RandomResizedCrop) for step in steps):
        side = min(pixels.shape[-2:])
        pixels = functional.resize(functional.center_crop(pixels, [side, side]), [size, size], antialias=True)
    for step, u in zip(steps, numbers, strict=True):
        pixels = torchvision_step(step, pixels, u)
    return pixels
