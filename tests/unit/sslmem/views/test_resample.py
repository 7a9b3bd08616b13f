"""Antialiased resampling. Agreement with torchvision on whole images is tested in tests/numerics."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from sslmem.views.resample import DENSE_PIXELS, resample_weights, resized_crops
from tests.numerics.reference import as_float
from tests.unit.builders import noise


@given(st.integers(1, 400), st.integers(1, 96), st.data())
def test_weights_are_an_average_of_pixels_inside_the_box(source: int, size: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, source - 1))
    length = data.draw(st.integers(1, source - start))
    weights = resample_weights(torch.tensor([float(start)]), torch.tensor([float(length)]), source, size)[0]
    assert weights.shape == (size, source)
    assert (weights >= 0).all()
    assert (weights[:, :start] == 0).all()
    assert (weights[:, start + length :] == 0).all()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(size))


@given(st.integers(1, 64))
def test_box_of_the_wanted_size_is_copied(size: int) -> None:
    weights = resample_weights(torch.tensor([3.0]), torch.tensor([float(size)]), size + 5, size)[0]
    torch.testing.assert_close(weights[:, 3 : 3 + size], torch.eye(size))


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 40), st.data())
def test_crops_are_those_that_torch_interpolates(height: int, width: int, size: int, data: st.DataObject) -> None:
    image = as_float(noise(height, width))
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    h, w = data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left))
    crop = resized_crops(image[None], torch.tensor([[[top, left, h, w]]]), size)[0, 0]
    box = image[None, :, top : top + h, left : left + w]
    expected = functional.interpolate(box, size=(size, size), mode="bilinear", antialias=True)[0]
    torch.testing.assert_close(crop, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("side", [int(DENSE_PIXELS**0.5), int(DENSE_PIXELS**0.5) + 1])
def test_each_image_is_cut_by_its_own_boxes(side: int) -> None:
    images = torch.stack([as_float(noise(side, side, seed)) for seed in range(2)])
    boxes = torch.tensor(
        [[[0, 0, 50, 60], [10, 5, 30, 20], [40, 40, 1, 1]], [[3, 3, 9, 9], [0, 0, side, side], [1, 2, 3, 4]]]
    )
    crops = resized_crops(images, boxes, 16)
    assert crops.shape == (2, 3, 3, 16, 16)
    for n in range(2):
        for v in range(3):
            alone = resized_crops(images[n : n + 1], boxes[n : n + 1, v : v + 1], 16)[0, 0]
            torch.testing.assert_close(crops[n, v], alone, atol=1e-5, rtol=0)


def test_single_pixel_fills_the_crop() -> None:
    image = as_float(noise(9, 9))
    crop = resized_crops(image[None], torch.tensor([[[4, 5, 1, 1]]]), 7)[0, 0]
    torch.testing.assert_close(crop, image[:, 4:5, 5:6].expand(3, 7, 7))
