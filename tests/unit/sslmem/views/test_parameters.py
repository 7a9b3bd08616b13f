"""Parameters of augmentations have torchvision's distributions."""

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chisquare, ks_2samp, kstest
from torchvision.transforms import RandomResizedCrop as TorchvisionCrop

from sslmem import recipe as r
from sslmem.views.parameters import crop_boxes, draw, numbers_needed
from sslmem.views.philox import uniforms
from tests.unit.builders import REQUIRED

DRAWS = 2000
Floats = NDArray[np.float64]


def numbers(step: r.Step, count: int = DRAWS) -> Floats:
    drawn: Floats = uniforms(0, ["sample"], range(count), numbers_needed(step))[0]
    return drawn


def boxes(step: r.RandomResizedCrop, height: int, width: int, count: int = DRAWS) -> Floats:
    return crop_boxes(step, numbers(step, count), np.full(count, float(height)), np.full(count, float(width)))


def torchvision_boxes(step: r.RandomResizedCrop, height: int, width: int, count: int = DRAWS) -> Floats:
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    drawn = [TorchvisionCrop.get_params(image, list(step.scale), list(step.ratio)) for _ in range(count)]
    return np.array(drawn, dtype=np.float64)


@pytest.mark.parametrize("size", [(32, 32), (120, 90), (20, 200)])
@pytest.mark.parametrize("options", [{}, {"scale": (0.2, 1.0)}, {"scale": (0.5, 0.9), "ratio": (0.3, 2.0)}])
def test_crops_are_distributed_as_those_of_torchvision(
    size: tuple[int, int], options: dict[str, tuple[float, float]]
) -> None:
    step = r.RandomResizedCrop.model_validate(options)
    ours, theirs = boxes(step, *size), torchvision_boxes(step, *size)
    measures = {
        "area": lambda b: b[:, 2] * b[:, 3],
        "ratio": lambda b: b[:, 3] / b[:, 2],
        "top": lambda b: b[:, 0],
        "left": lambda b: b[:, 1],
    }
    for name, measure in measures.items():
        assert ks_2samp(measure(ours), measure(theirs)).pvalue > 0.005, name


@pytest.mark.parametrize("size", [(200, 10), (10, 200), (7, 50)])
def test_image_that_no_ratio_fits_gives_the_central_crop_of_torchvision(size: tuple[int, int]) -> None:
    step = r.RandomResizedCrop(scale=(1.0, 1.0))
    ours, theirs = boxes(step, *size, count=1), torchvision_boxes(step, *size, count=9)
    assert len(np.unique(theirs, axis=0)) == 1
    np.testing.assert_array_equal(ours[0], theirs[0])


@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.floats(0.001, 1.0),
    st.floats(0.001, 1000.0),
    st.floats(1.0, 100.0),
)
def test_crops_lie_within_the_image_and_are_not_empty(
    height: int, width: int, scale: float, ratio: float, spread: float
) -> None:
    step = r.RandomResizedCrop(scale=(scale, 1.0), ratio=(ratio, ratio * spread))
    top, left, h, w = boxes(step, height, width, count=20).T
    assert (np.stack([top, left, h, w]) == np.floor([top, left, h, w])).all()
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (h >= 1).all()
    assert (w >= 1).all()
    assert (top + h <= height).all()
    assert (left + w <= width).all()


def test_crops_reach_every_border() -> None:
    top, left, h, w = boxes(r.RandomResizedCrop(scale=(0.2, 0.5)), 20, 30).T
    assert top.min() == left.min() == 0
    assert (top + h).max() == 20
    assert (left + w).max() == 30


def test_every_order_of_the_jitter_is_as_frequent() -> None:
    step = r.ColorJitter(brightness=0.4)
    order = draw(step, numbers(step, 4800), np.ones(4800), np.ones(4800)).values["order"]
    names, counts = np.unique(order, axis=0, return_counts=True)
    assert sorted(map(tuple, names.tolist())) == sorted(permutations([0.0, 1.0, 2.0, 3.0]))
    assert chisquare(counts).pvalue > 0.01


def test_factors_of_the_jitter_are_uniform_within_their_ranges() -> None:
    step = r.ColorJitter(brightness=0.4, contrast=1.5, saturation=(0.1, 0.2), hue=0.1)
    factors = draw(step, numbers(step), np.ones(DRAWS), np.ones(DRAWS)).values["factors"]
    for factor, (low, high) in zip(factors.T, step.ranges().values(), strict=True):
        assert kstest(factor, "uniform", args=(low, high - low)).pvalue > 0.005


def test_factors_order_and_chance_of_the_jitter_are_independent() -> None:
    step = r.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, p=0.5)
    drawn = draw(step, numbers(step), np.ones(DRAWS), np.ones(DRAWS))
    columns = [drawn.applies, *drawn.values["factors"].T, *drawn.values["order"].T[:1]]
    correlations = np.corrcoef(np.stack(columns).astype(float))
    assert np.abs(correlations - np.eye(len(columns))).max() < 4 / np.sqrt(DRAWS)


def test_sigma_of_the_blur_is_uniform_within_its_range() -> None:
    step = r.GaussianBlur(kernel_size=3, sigma=(0.1, 5.0))
    sigma = draw(step, numbers(step), np.ones(DRAWS), np.ones(DRAWS)).values["sigma"]
    assert kstest(sigma, "uniform", args=(0.1, 4.9)).pvalue > 0.01


@pytest.mark.parametrize("op", sorted(set(r.STEPS) - {"random_resized_crop"}))
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
def test_augmentation_applies_with_its_probability(op: str, p: float) -> None:
    step = r.STEPS[op].model_validate({**REQUIRED.get(op, {}), "p": p})
    share = draw(step, numbers(step), np.ones(DRAWS), np.ones(DRAWS)).applies.mean()
    assert abs(share - p) <= 3 * np.sqrt(p * (1 - p) / DRAWS)


def test_crop_always_applies() -> None:
    step = r.RandomResizedCrop()
    assert draw(step, numbers(step, 50), np.full(50, 9.0), np.full(50, 9.0)).applies.all()


def test_step_of_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(TypeError, match="no parameters are known for Step"):
        draw(r.Step(), np.full((1, 1), 0.5), np.ones(1), np.ones(1))
