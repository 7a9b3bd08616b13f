"""Antialiased bilinear resampling of one box per view, as Pillow and torch do it for one image."""

import torch
from torch import Tensor
from torch.nn import functional

# Up to this many source pixels, two small matrix products per view beat one interpolation call per view on a CPU.
DENSE_PIXELS = 96 * 96


def resample_weights(start: Tensor, length: Tensor, source: int, size: int) -> Tensor:
    """Triangle filter weights that map one axis of a source to ``size`` pixels.

    Args:
        start: first source pixel of each box, ``[M]``.
        length: number of source pixels of each box, ``[M]``.
        source: number of pixels along the source's axis.
        size: number of pixels wanted.

    Returns:
        ``[M, size, source]``; rows sum to one and are zero outside the box.
    """
    scale = (length / size)[:, None, None]
    centre = start[:, None, None] + (torch.arange(size, device=start.device)[:, None] + 0.5) * scale
    pixel = torch.arange(source, device=start.device) + 0.5
    weight = (1 - (pixel - centre).abs() / scale.clamp(min=1)).clamp(min=0)
    inside = (pixel > start[:, None, None]) & (pixel < (start + length)[:, None, None])
    weight = weight * inside
    return weight / weight.sum(dim=-1, keepdim=True)


def resized_crops(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Crops V boxes out of each image and resizes them to ``size`` x ``size``.

    Args:
        images: ``[N, 3, H, W]``, float.
        boxes: ``[N, V, 4]`` of (top, left, height, width), on the CPU.
        size: side of the result in pixels.

    Returns:
        ``[N, V, 3, size, size]``.
    """
    num_samples, num_views = boxes.shape[:2]
    height, width = images.shape[-2:]
    if images.device.type == "cpu" and height * width > DENSE_PIXELS:
        views = [
            functional.interpolate(
                images[n : n + 1, :, top : top + h, left : left + w], size=(size, size), mode="bilinear", antialias=True
            )
            for n in range(num_samples)
            for top, left, h, w in boxes[n].int().tolist()
        ]
        return torch.cat(views).view(num_samples, num_views, 3, size, size)
    flat = boxes.to(images.device, images.dtype).view(-1, 4)
    rows = resample_weights(flat[:, 0], flat[:, 2], height, size).view(num_samples, num_views, 1, size, height)
    columns = resample_weights(flat[:, 1], flat[:, 3], width, size).view(num_samples, num_views, 1, size, width)
    return rows @ (images[:, None] @ columns.transpose(-1, -2))
