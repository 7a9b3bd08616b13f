"""Views agree with torchvision's, given the same parameters."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from sslmem.recipe import RECIPES, Recipe
from sslmem.views.make import make_views, original_views
from sslmem.views.resample import DENSE_PIXELS
from tests.numerics.reference import as_bytes, as_float, torchvision_view
from tests.unit.builders import Pixels, noise, scene

CPU = torch.device("cpu")
# Square and not, smaller and larger than the views, below, at and above what is resampled by matrix products.
SIZES = [(16, 16), (32, 32), (96, 96), (97, 97), (17, 23), (40, 200), (200, 30), (150, 120)]
IMAGES = [make(height, width, seed) for make in (noise, scene) for seed, (height, width) in enumerate(SIZES)]
KEYS = [f"image {i}" for i in range(len(IMAGES))]
NUM_VIEWS = 3

STEPS: dict[str, dict[str, Any]] = {
    "crop": {"random_resized_crop": {}},
    "small crop": {"random_resized_crop": {"scale": [0.01, 0.05]}},
    "crop of any ratio": {"random_resized_crop": {"scale": [0.2, 1.0], "ratio": [0.1, 10.0]}},
    "horizontal flip": {"horizontal_flip": {}},
    "vertical flip": {"vertical_flip": {}},
    "brightness": {"color_jitter": {"brightness": 0.9}},
    "contrast": {"color_jitter": {"contrast": 0.9}},
    "saturation": {"color_jitter": {"saturation": 0.9}},
    "strong saturation": {"color_jitter": {"saturation": [2.0, 4.0]}},
    "hue": {"color_jitter": {"hue": 0.5}},
    "jitter": {"color_jitter": {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2, "p": 0.8}},
    "grayscale": {"grayscale": {"p": 0.5}},
    "small blur": {"gaussian_blur": {"kernel_size": 3, "sigma": [0.1, 5.0], "p": 0.5}},
    "large blur": {"gaussian_blur": {"kernel_size": 23}},
    "solarize": {"solarize": {"threshold": 0.5}},
    "solarize all": {"solarize": {"threshold": 0.0, "p": 1.0}},
    "invert": {"invert": {}},
}
CHAINS: dict[str, list[Any]] = {
    **RECIPES,
    "everything": [
        "random_resized_crop",
        "horizontal_flip",
        "vertical_flip",
        {"color_jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "p": 0.8}},
        {"grayscale": {"p": 0.2}},
        {"gaussian_blur": {"kernel_size": 5, "p": 0.5}},
        {"solarize": {"threshold": 0.5, "p": 0.2}},
        "invert",
    ],
    "jitter twice": [{"color_jitter": {"contrast": 0.5}}, {"color_jitter": {"hue": 0.2, "saturation": 0.5}}],
    "crop last": [{"color_jitter": {"contrast": 0.5, "hue": 0.1}}, "horizontal_flip", "random_resized_crop"],
    "crop twice": ["random_resized_crop", "invert", {"random_resized_crop": {"scale": [0.5, 1.0]}}, "grayscale"],
    "blur before the crop": [{"gaussian_blur": {"kernel_size": 5}}, "random_resized_crop", "horizontal_flip"],
}


def differences(recipe: Recipe, size: int) -> list[Tensor]:
    """Of each view's pixels from torchvision's, in levels of 1/255."""
    views = make_views(IMAGES, KEYS, recipe=recipe, size=size, seed=1, views=range(NUM_VIEWS), device=CPU)
    assert views.dtype == torch.float32
    assert views.shape == (len(IMAGES), NUM_VIEWS, 3, size, size)
    assert views.min() >= -1e-6
    assert views.max() <= 1 + 1e-6
    return [
        (views[i, v] - torchvision_view(as_float(image), key, recipe, size=size, seed=1, view=v)).abs().flatten() * 255
        for i, (image, key) in enumerate(zip(IMAGES, KEYS, strict=True))
        for v in range(NUM_VIEWS)
    ]


@pytest.mark.parametrize(
    ("step", "size"), [*((step, 32) for step in STEPS), ("crop", 110), ("small crop", 110), ("hue", 110)]
)
def test_augmentation_is_torchvisions(step: str, size: int) -> None:
    for difference in differences(Recipe.model_validate([STEPS[step]]), size):
        # Required are 0.5 and 4; both compute in floats, so that much more is true.
        assert difference.mean() <= 0.01
        assert torch.quantile(difference, 0.999) <= 0.05


@pytest.mark.parametrize("name", CHAINS)
def test_chain_of_augmentations_is_torchvisions(name: str) -> None:
    for difference in differences(Recipe.model_validate(CHAINS[name]), 32):
        assert difference.mean() <= 0.01
        assert torch.quantile(difference, 0.999) <= 0.05


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: f"{image.shape[0]}x{image.shape[1]}")
@pytest.mark.parametrize("size", [8, 130])
def test_crop_is_that_of_8_bit_images_up_to_rounding(image: Pixels, size: int) -> None:
    """Training pipelines resize images of 8 bits; floats are what these round."""
    recipe = Recipe.model_validate([{"random_resized_crop": {"scale": [0.2, 1.0]}}])
    views = make_views([image], ["key"], recipe=recipe, size=size, seed=1, views=range(NUM_VIEWS), device=CPU)
    for v in range(NUM_VIEWS):
        expected = torchvision_view(as_bytes(image), "key", recipe, size=size, seed=1, view=v)
        difference = (views[0, v] * 255 - expected.float()).abs().flatten()
        assert difference.mean() <= 0.5
        assert torch.quantile(difference, 0.999) <= 4


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: f"{image.shape[0]}x{image.shape[1]}")
@pytest.mark.parametrize("size", [8, 33, 110])
def test_original_is_the_central_square_resized(image: Pixels, size: int) -> None:
    side = min(image.shape[:2])
    square = functional.center_crop(as_float(image), [side, side])
    expected = functional.resize(square, [size, size], antialias=True)
    difference = (original_views([image], size, CPU)[0] - expected).abs() * 255
    assert difference.max() <= 0.05


def test_original_is_close_to_resize_and_centre_crop() -> None:
    """Elsewhere the short side is resized first; that differs by less than a pixel's shift, so little on a scene."""
    image = scene(120, 180, seed=4)
    expected = functional.center_crop(functional.resize(as_float(image), [40], antialias=True), [40, 40])
    assert ((original_views([image], 40, CPU)[0] - expected).abs() * 255).mean() <= 0.5


def test_both_ways_of_resampling_are_tried() -> None:
    pixels = [height * width for height, width in SIZES]
    assert min(pixels) < DENSE_PIXELS
    assert DENSE_PIXELS in pixels
    assert max(pixels) > DENSE_PIXELS


def test_scenes_use_the_whole_range_of_levels() -> None:
    levels = np.concatenate([image.ravel() for image in IMAGES[len(SIZES) :]])
    assert np.unique(levels).size == 256
