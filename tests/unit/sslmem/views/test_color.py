"""Colour and blur of batches, one parameter per view. Agreement with torchvision is tested in tests/numerics."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.v2 import functional

from sslmem.views import color
from tests.unit.builders import noise, scene

Adjustment = Callable[[Tensor, Tensor], Tensor]
ADJUSTMENTS: list[Adjustment] = [
    color.adjust_brightness,
    color.adjust_contrast,
    color.adjust_saturation,
    color.adjust_hue,
]


def batch() -> Tensor:
    images = np.stack([noise(12, 15, 1), noise(12, 15, 2), scene(12, 15, 3), np.full((12, 15, 3), 77, np.uint8)])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize("adjust", ADJUSTMENTS)
def test_neutral_factor_changes_nothing(adjust: Adjustment) -> None:
    neutral = torch.full((4,), 0.0 if adjust is color.adjust_hue else 1.0)
    torch.testing.assert_close(adjust(batch(), neutral), batch())


@pytest.mark.parametrize("adjust", ADJUSTMENTS)
def test_each_view_gets_its_own_factor(adjust: Adjustment) -> None:
    factors = torch.tensor([0.3, 0.1, -0.2, 0.45]) + (0 if adjust is color.adjust_hue else 1)
    together = adjust(batch(), factors)
    for i in range(4):
        torch.testing.assert_close(together[i : i + 1], adjust(batch()[i : i + 1], factors[i : i + 1]))


@pytest.mark.parametrize("adjust", ADJUSTMENTS[:3])
@pytest.mark.parametrize("factor", [0.0, 0.5, 3.0, 100.0])
def test_pixels_stay_between_zero_and_one(adjust: Adjustment, factor: float) -> None:
    adjusted = adjust(batch(), torch.full((4,), factor))
    assert adjusted.min() >= 0
    assert adjusted.max() <= 1


def test_no_brightness_is_black() -> None:
    assert (color.adjust_brightness(batch(), torch.zeros(4)) == 0).all()


def test_no_contrast_is_the_mean_luma() -> None:
    flat = color.adjust_contrast(batch(), torch.zeros(4))
    expected = color.luma(batch()).mean(dim=(1, 2, 3))
    torch.testing.assert_close(flat, expected[:, None, None, None].expand_as(flat))


def test_no_saturation_is_the_luma() -> None:
    torch.testing.assert_close(
        color.adjust_saturation(batch(), torch.zeros(4)), color.luma(batch()).expand(-1, 3, -1, -1)
    )


def test_hue_turned_by_a_third_swaps_the_channels() -> None:
    turned = color.adjust_hue(batch(), torch.full((4,), 1 / 3))
    torch.testing.assert_close(turned, batch()[:, [2, 0, 1]], atol=1e-6, rtol=0)


def test_hue_of_grey_cannot_be_turned() -> None:
    grey = color.luma(batch()).expand(-1, 3, -1, -1)
    torch.testing.assert_close(color.adjust_hue(grey, torch.full((4,), 0.25)), grey)


@given(st.floats(-0.5, 0.5))
def test_turning_the_hue_and_back_restores_it(shift: float) -> None:
    there = color.adjust_hue(batch(), torch.full((4,), shift))
    torch.testing.assert_close(color.adjust_hue(there, torch.full((4,), -shift)), batch(), atol=2e-6, rtol=0)


@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from([1, 3, 5, 23]), st.floats(0.1, 10))
def test_blur_of_any_size_keeps_flat_images_flat(height: int, width: int, kernel_size: int, sigma: float) -> None:
    flat = torch.full((1, 3, height, width), 0.3)
    torch.testing.assert_close(color.gaussian_blur(flat, torch.tensor([sigma]), kernel_size), flat)


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([3, 7, 15]), st.floats(0.3, 5))
def test_blur_reflects_at_the_borders_as_often_as_it_takes(
    height: int, width: int, kernel_size: int, sigma: float
) -> None:
    views = batch()[:1, :, :height, :width]
    half = kernel_size // 2
    # Padded by numpy so far that torchvision's own single reflection is cut away.
    padded = torch.from_numpy(
        np.pad(views.numpy(), [(0, 0), (0, 0), (2 * half, 2 * half), (2 * half, 2 * half)], "reflect")
    )
    expected = functional.gaussian_blur(padded, [kernel_size] * 2, [sigma] * 2)
    expected = expected[..., 2 * half : 2 * half + height, 2 * half : 2 * half + width]
    torch.testing.assert_close(
        color.gaussian_blur(views, torch.tensor([sigma]), kernel_size), expected, atol=1e-5, rtol=0
    )


def test_each_view_gets_its_own_blur() -> None:
    sigma = torch.tensor([0.1, 1.0, 2.0, 9.0])
    together = color.gaussian_blur(batch(), sigma, 5)
    for i in range(4):
        torch.testing.assert_close(
            together[i : i + 1], color.gaussian_blur(batch()[i : i + 1], sigma[i : i + 1], 5), atol=1e-6, rtol=0
        )
