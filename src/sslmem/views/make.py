"""Augmented views of a batch of samples, on the device, one set of parameters per view.

Views are made in image space with pixels in [0, 1]; normalisation belongs to the encoder.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sslmem import recipe as r
from sslmem.recipe import Recipe
from sslmem.views import color
from sslmem.views.parameters import Parameters, draw, numbers_needed
from sslmem.views.philox import uniforms
from sslmem.views.resample import resized_crops

Image = NDArray[np.uint8]  # [H, W, 3]
Floats = NDArray[np.float64]
Numbers = Callable[[int, Sequence[str], range, int], Floats]
_JITTER = (color.adjust_brightness, color.adjust_contrast, color.adjust_saturation, color.adjust_hue)


def make_views(
    images: Sequence[Image],
    keys: Sequence[str],
    *,
    recipe: Recipe,
    size: int,
    seed: int,
    views: range,
    device: torch.device,
    numbers: Numbers = uniforms,
) -> Tensor:
    """Makes the views with the given indices of each image.

    Args:
        images: N images of any sizes.
        keys: their sample keys, which with ``seed`` and the view index determine the views.
        recipe: the augmentations, in order.
        size: side of the views in pixels. A recipe without a crop sees the image resized and centre-cropped.
        seed: of the audit.
        views: the V view indices wanted.
        device: where the views are made and stay.
        numbers: where random numbers in (0, 1) come from: (seed, keys, views, count) to ``[N, V, count]``.

    Returns:
        float32 ``[N, V, 3, size, size]`` in [0, 1].
    """
    steps = list(recipe.sized(size).steps)
    needed = [numbers_needed(step) for step in steps]
    drawn = np.split(numbers(seed, keys, views, sum(needed)), np.cumsum(needed)[:-1], axis=-1)
    crop = next((i for i, step in enumerate(steps) if isinstance(step, r.RandomResizedCrop)), None)

    if crop is None:
        pixels = original_views(images, size, device)[:, None].expand(-1, len(views), -1, -1, -1).flatten(0, 1)
        start = 0
    else:
        pixels = _crop_by_size(images, steps[: crop + 1], drawn[: crop + 1], size, device)
        start = crop + 1
    for step, u in zip(steps[start:], drawn[start:], strict=True):
        pixels = _apply(step, pixels, u.reshape(-1, u.shape[-1]))
    return pixels.view(len(images), len(views), 3, size, size)


def original_views(images: Sequence[Image], size: int, device: torch.device) -> Tensor:
    """The images as they are: short side resized to ``size``, centre cropped, float32 ``[N, 3, size, size]``."""
    resized = []
    for image in images:
        height, width = image.shape[:2]
        side = min(height, width)
        box = torch.tensor([[[(height - side) // 2, (width - side) // 2, side, side]]])
        resized.append(resized_crops(_as_tensor([image], device), box, size)[:, 0])
    return torch.cat(resized)


def _as_tensor(images: Sequence[Image], device: torch.device) -> Tensor:
    stacked = torch.from_numpy(np.stack(images)).to(device, non_blocking=True)
    return stacked.permute(0, 3, 1, 2).to(torch.float32).div_(255)


def _crop_by_size(
    images: Sequence[Image], steps: Sequence[r.Step], drawn: Sequence[Floats], size: int, device: torch.device
) -> Tensor:
    """Applies the steps up to and including the crop, images of equal size together: ``[N * V, 3, S, S]``."""
    num_views = drawn[0].shape[1]
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, image in enumerate(images):
        groups[image.shape].append(i)
    result = torch.empty((len(images), num_views, 3, size, size), device=device)
    for members in groups.values():
        sources = _as_tensor([images[i] for i in members], device)
        if len(steps) == 1:  # each view is cut from the one resident image
            parameters = _draw(steps[0], drawn[0][members].reshape(-1, drawn[0].shape[-1]), sources)
            boxes = torch.from_numpy(parameters.values["box"]).view(len(members), num_views, 4)
            result[members] = resized_crops(sources, boxes, size)
            continue
        pixels = sources[:, None].expand(-1, num_views, -1, -1, -1).flatten(0, 1)
        for step, u in zip(steps, drawn, strict=True):
            pixels = _apply(step, pixels, u[members].reshape(-1, u.shape[-1]))
        result[members] = pixels.view(len(members), num_views, 3, size, size)
    return result.flatten(0, 1)


def _draw(step: r.Step, u: Floats, pixels: Tensor) -> Parameters:
    height, width = (np.full(len(u), float(side)) for side in pixels.shape[-2:])
    return draw(step, u, height, width)


def _apply(step: r.Step, pixels: Tensor, u: Floats) -> Tensor:
    """Applies one augmentation to ``[M, 3, H, W]`` with its random numbers ``[M, count]``."""
    parameters = _draw(step, u, pixels)
    match step:
        case r.RandomResizedCrop(size=int(size)):
            boxes = torch.from_numpy(parameters.values["box"])[:, None]
            return resized_crops(pixels, boxes, size)[:, 0]
        case r.ColorJitter():
            return _jitter(step, pixels, parameters)
        case r.HorizontalFlip():
            return _where(parameters.applies, pixels, lambda x: x.flip(-1))
        case r.VerticalFlip():
            return _where(parameters.applies, pixels, lambda x: x.flip(-2))
        case r.Grayscale():
            return _where(parameters.applies, pixels, lambda x: color.luma(x).expand_as(x))
        case r.Invert():
            return _where(parameters.applies, pixels, lambda x: 1 - x)
        case r.Solarize(threshold=threshold):
            return _where(parameters.applies, pixels, lambda x: torch.where(x >= threshold, 1 - x, x))
        case r.GaussianBlur(kernel_size=kernel_size):
            sigma = _to(parameters.values["sigma"][parameters.applies], pixels)
            return _where(parameters.applies, pixels, lambda x: color.gaussian_blur(x, sigma, kernel_size))
        case _:
            raise TypeError(f"no augmentation is known for {type(step).__name__}")


def _jitter(step: r.ColorJitter, pixels: Tensor, parameters: Parameters) -> Tensor:
    """Four rounds; in each, every view gets the adjustment that its own order puts there."""
    ranges = list(step.ranges().values())
    for position in range(4):
        for kind, adjust in enumerate(_JITTER):
            if ranges[kind] == ((0.0, 0.0) if kind == 3 else (1.0, 1.0)):
                continue
            chosen = parameters.applies & (parameters.values["order"][:, position] == kind)
            factor = _to(parameters.values["factors"][chosen, kind], pixels)
            pixels = _where(chosen, pixels, partial(_swapped, adjust, factor))
    return pixels


def _swapped(adjust: Callable[[Tensor, Tensor], Tensor], factor: Tensor, pixels: Tensor) -> Tensor:
    return adjust(pixels, factor)


def _where(chosen: NDArray[np.bool_], pixels: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Changes the chosen views only; which they are is known on the host, so nothing synchronises."""
    if not chosen.any():
        return pixels
    if chosen.all():
        return change(pixels)
    index = torch.from_numpy(np.flatnonzero(chosen)).to(pixels.device, non_blocking=True)
    return pixels.index_copy(0, index, change(pixels.index_select(0, index)))


def _to(values: Floats, pixels: Tensor) -> Tensor:
    return torch.from_numpy(values).to(pixels.device, pixels.dtype, non_blocking=True)
