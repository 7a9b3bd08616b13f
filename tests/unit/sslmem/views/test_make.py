"""Views depend on nothing but (seed, sample key, view index) and the image."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sslmem.recipe import RECIPES, Recipe
from sslmem.views.make import make_views, original_views
from tests.unit.builders import Pixels, noise, scene

CPU = torch.device("cpu")
# Two of each size, of which some are resampled by matrix products and others are not.
SIZES = [(20, 20), (20, 31), (100, 95), (20, 20), (100, 95), (20, 31)]
IMAGES = [scene(height, width, seed) for seed, (height, width) in enumerate(SIZES)]
KEYS = [f"key {i}" for i in range(len(SIZES))]
CHAINS: dict[str, Any] = {
    **{name: name for name in RECIPES},
    "without a crop": [{"color_jitter": {"hue": 0.1, "contrast": 0.5}}, {"gaussian_blur": {"kernel_size": 3}}],
    "crop last": ["horizontal_flip", {"color_jitter": {"contrast": 0.5}}, "random_resized_crop"],
    "crop twice": ["random_resized_crop", {"solarize": {"threshold": 0.5}}, "random_resized_crop", "invert"],
    "blur larger than the image": ["random_resized_crop", {"gaussian_blur": {"kernel_size": 41}}],
    "blur larger than the image first": [{"gaussian_blur": {"kernel_size": 41}}, "random_resized_crop"],
    "crop of no width": [{"random_resized_crop": {"ratio": [0.001, 0.002]}}],
    "crop of no height": [{"random_resized_crop": {"ratio": [500, 1000]}}],
}
every_chain = pytest.mark.parametrize("recipe", [Recipe.model_validate(c) for c in CHAINS.values()], ids=list(CHAINS))


def views_of(
    images: list[Pixels], keys: list[str], recipe: Recipe, *, size: int = 16, seed: int = 5, views: range = range(3)
) -> Tensor:
    return make_views(images, keys, recipe=recipe, size=size, seed=seed, views=views, device=CPU)


def assert_same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


@every_chain
def test_views_are_finite_and_of_the_size_asked_for(recipe: Recipe) -> None:
    views = views_of(IMAGES, KEYS, recipe)
    assert views.shape == (len(IMAGES), 3, 3, 16, 16)
    assert views.dtype == torch.float32
    assert views.min() >= -1e-6
    assert views.max() <= 1 + 1e-6


@every_chain
def test_views_of_a_sample_do_not_depend_on_its_batch(recipe: Recipe) -> None:
    together = views_of(IMAGES, KEYS, recipe)
    for i, (image, key) in enumerate(zip(IMAGES, KEYS, strict=True)):
        assert_same(together[i], views_of([image], [key], recipe)[0])


@every_chain
def test_views_of_a_sample_do_not_depend_on_the_order(recipe: Recipe) -> None:
    order = [4, 0, 2, 5, 1, 3]
    shuffled = views_of([IMAGES[i] for i in order], [KEYS[i] for i in order], recipe)
    assert_same(shuffled, views_of(IMAGES, KEYS, recipe)[order])


@every_chain
def test_further_views_leave_the_earlier_ones_as_they_were(recipe: Recipe) -> None:
    more = views_of(IMAGES, KEYS, recipe, views=range(6))
    assert_same(more[:, 2:5], views_of(IMAGES, KEYS, recipe, views=range(2, 5)))


@every_chain
def test_same_call_gives_the_same_bits(recipe: Recipe) -> None:
    assert torch.equal(views_of(IMAGES, KEYS, recipe), views_of(IMAGES, KEYS, recipe))


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_views_differ_among_indices_keys_and_seeds(name: str) -> None:
    recipe, image = Recipe.named(name), noise(40, 40)
    views = torch.cat(
        [views_of([image, image], ["a", "b"], recipe, seed=seed, views=range(5)).flatten(0, 1) for seed in (0, 1)]
    )
    distances = torch.cdist(views.flatten(1), views.flatten(1)) + torch.eye(len(views)) * 1e3
    assert distances.min() > 0.1


def test_images_with_one_key_get_the_same_augmentations() -> None:
    bright, dark = np.full((20, 20, 3), 200, np.uint8), np.full((20, 20, 3), 100, np.uint8)
    views = views_of([bright, dark], ["key", "key"], Recipe.model_validate([{"color_jitter": {"brightness": 0.2}}]))
    assert_same(views[0], 2 * views[1])


def test_probability_one_changes_every_view_and_zero_none() -> None:
    original = original_views(IMAGES, 16, CPU)[:, None].expand(-1, 3, -1, -1, -1)
    assert_same(views_of(IMAGES, KEYS, Recipe.model_validate([{"invert": {"p": 1.0}}])), 1 - original)
    assert_same(views_of(IMAGES, KEYS, Recipe.model_validate([{"invert": {"p": 0.0}}])), original)


def test_augmentations_apply_in_the_order_of_the_recipe() -> None:
    solarize, invert = {"solarize": {"threshold": 0.7, "p": 1.0}}, {"invert": {"p": 1.0}}
    pixel = np.full((4, 4, 3), 204, np.uint8)  # 0.8: solarized to 0.2, inverted to 0.2, which is not solarized
    first = views_of([pixel], ["a"], Recipe.model_validate([solarize, invert]), size=4)
    last = views_of([pixel], ["a"], Recipe.model_validate([invert, solarize]), size=4)
    assert_same(first, torch.full_like(first, 0.8))
    assert_same(last, torch.full_like(last, 0.2))


def test_original_is_not_distorted() -> None:
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, 20:60] = 255  # the central square
    assert_same(original_views([image], 10, CPU), torch.ones(1, 3, 10, 10))


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (30, 1), (2, 3)])
def test_tiny_images_have_views(size: tuple[int, int]) -> None:
    views = views_of([noise(*size)], ["a"], Recipe.named("simclr"), size=8)
    assert torch.isfinite(views).all()
    assert torch.isfinite(original_views([noise(*size)], 8, CPU)).all()
