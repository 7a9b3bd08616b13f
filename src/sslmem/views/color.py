"""Colour and blur of batches of views, one parameter per view; pixels are floats in [0, 1].

Each function agrees with ``torchvision.transforms.v2.functional`` on a single image given the same parameter.
Shapes: views ``[M, 3, H, W]``, parameters ``[M]``.
"""

import torch
from torch import Tensor

LUMA = (0.2989, 0.587, 0.114)  # torchvision's weights of red, green and blue


def luma(views: Tensor) -> Tensor:
    """Brightness of each pixel, ``[M, 1, H, W]``."""
    red, green, blue = views.unbind(dim=1)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue).unsqueeze(1)


def _blend(views: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(other.expand_as(views), views, factor[:, None, None, None]).clamp(0, 1)


def adjust_brightness(views: Tensor, factor: Tensor) -> Tensor:
    """Scales the pixels."""
    return (views * factor[:, None, None, None]).clamp(0, 1)


def adjust_contrast(views: Tensor, factor: Tensor) -> Tensor:
    """Blends each view with its mean luma."""
    return _blend(views, luma(views).mean(dim=(-2, -1), keepdim=True), factor)


def adjust_saturation(views: Tensor, factor: Tensor) -> Tensor:
    """Blends each view with its luma."""
    return _blend(views, luma(views), factor)


def adjust_hue(views: Tensor, shift: Tensor) -> Tensor:
    """Turns the hue in HSV space by ``shift``, where 1 is a full turn."""
    red, green, blue = views.unbind(dim=1)
    value, chroma = views.amax(dim=1), views.amax(dim=1) - views.amin(dim=1)
    divisor = torch.where(chroma == 0, torch.ones_like(chroma), chroma)
    sixth = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    sixth = sixth + 6 * shift[:, None, None]
    channels = []
    for offset in (5, 3, 1):  # red, green, blue of the hexcone
        k = torch.remainder(sixth + offset, 6)
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, dim=1)


def gaussian_blur(views: Tensor, sigma: Tensor, kernel_size: int) -> Tensor:
    """Blurs with a separable Gaussian of ``kernel_size`` pixels, reflecting at the borders as often as it takes."""
    half = kernel_size // 2
    offsets = torch.arange(-half, half + 1, device=views.device, dtype=views.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True))[:, :, None, None, None]  # [M, K, 1, 1, 1]
    height, width = views.shape[-2:]
    padded = views.index_select(2, _reflected(height, half, views.device))
    padded = padded.index_select(3, _reflected(width, half, views.device))
    rows, blurred = torch.zeros_like(padded[:, :, :height]), torch.zeros_like(views)
    for i in range(kernel_size):
        rows = rows + kernel[:, i] * padded[:, :, i : i + height]
    for i in range(kernel_size):
        blurred = blurred + kernel[:, i] * rows[..., i : i + width]
    return blurred


def _reflected(length: int, pad: int, device: torch.device) -> Tensor:
    """Indices of an axis reflected at its ends, without repeating the edge, ``[length + 2 * pad]``."""
    period = max(1, 2 * (length - 1))
    places = torch.arange(-pad, length + pad, device=device).remainder(period)
    return torch.minimum(places, period - places)
