"""From random numbers to the parameters of each augmentation, with torchvision's distributions."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sslmem import recipe as r

Floats = NDArray[np.float64]
CROP_TRIES = 10  # as in torchvision's RandomResizedCrop.get_params


@dataclass(frozen=True)
class Parameters:
    """The parameters of one augmentation for M views.

    Attributes:
        applies: bool ``[M]``, whether the augmentation applies to the view at all.
        values: named arrays ``[M, ...]``.
    """

    applies: NDArray[np.bool_]
    values: dict[str, NDArray[np.float64]]


def numbers_needed(step: r.Step) -> int:
    """How many uniform numbers one view needs for an augmentation."""
    match step:
        case r.RandomResizedCrop():
            return 2 * CROP_TRIES + 2
        case r.ColorJitter():
            return 9
        case r.GaussianBlur():
            return 2
        case _:
            return 1


def draw(step: r.Step, u: Floats, heights: Floats, widths: Floats) -> Parameters:
    """Turns uniform numbers into the parameters of an augmentation.

    Args:
        step: the augmentation.
        u: ``[M, numbers_needed(step)]`` in (0, 1).
        heights: ``[M]`` of the image that the augmentation will see, in pixels.
        widths: ``[M]``.
    """
    match step:
        case r.RandomResizedCrop():
            return Parameters(np.ones(len(u), dtype=bool), {"box": crop_boxes(step, u, heights, widths)})
        case r.ColorJitter():
            factors = [low + (high - low) * u[:, 1 + i] for i, (low, high) in enumerate(step.ranges().values())]
            order = np.argsort(u[:, 5:9], axis=1).astype(np.float64)  # a uniform permutation
            return Parameters(u[:, 0] < step.p, {"factors": np.stack(factors, axis=1), "order": order})
        case r.GaussianBlur():
            low, high = step.sigma
            return Parameters(u[:, 0] < step.p, {"sigma": low + (high - low) * u[:, 1]})
        case r.HorizontalFlip() | r.VerticalFlip() | r.Grayscale() | r.Solarize() | r.Invert():
            return Parameters(u[:, 0] < step.p, {})
        case _:
            raise TypeError(f"no parameters are known for {type(step).__name__}")


def crop_boxes(step: r.RandomResizedCrop, u: Floats, heights: Floats, widths: Floats) -> Floats:
    """Boxes ``[M, 4]`` of (top, left, height, width) as torchvision's RandomResizedCrop draws them.

    The first of ten random boxes that fits; if none does, the largest central box within the ratios, at least
    one pixel wide and high.
    """
    h, w = heights[:, None], widths[:, None]
    area = h * w * (step.scale[0] + (step.scale[1] - step.scale[0]) * u[:, :CROP_TRIES])  # [M, 10]
    low, high = np.log(step.ratio)
    ratio = np.exp(low + (high - low) * u[:, CROP_TRIES : 2 * CROP_TRIES])
    box_w, box_h = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
    fits = (box_w > 0) & (box_w <= w) & (box_h > 0) & (box_h <= h)
    first = fits.argmax(axis=1)[:, None]
    crop_w, crop_h = (np.take_along_axis(side, first, axis=1)[:, 0] for side in (box_w, box_h))

    wide, tall = widths / heights > step.ratio[1], widths / heights < step.ratio[0]
    whole_w = np.where(wide, np.rint(heights * step.ratio[1]).clip(min=1), widths)
    whole_h = np.where(tall, np.rint(widths / step.ratio[0]).clip(min=1), heights)
    found = fits.any(axis=1)
    crop_w, crop_h = np.where(found, crop_w, whole_w), np.where(found, crop_h, whole_h)
    top = np.where(found, np.floor(u[:, -2] * (heights - crop_h + 1)), (heights - crop_h) // 2)
    left = np.where(found, np.floor(u[:, -1] * (widths - crop_w + 1)), (widths - crop_w) // 2)
    return np.stack([top, left, crop_h, crop_w], axis=1)
