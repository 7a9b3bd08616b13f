"""Alignment distances and their standard errors: what must hold whatever the numbers are."""

from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sslmem.alignment import alignment_distances, distance_between, standard_errors, unit
from sslmem.spec import Distance, Pairing

DISTANCES: tuple[Distance, ...] = get_args(Distance)
PAIRINGS: tuple[Pairing, ...] = get_args(Pairing)
SHAPES = st.tuples(st.integers(1, 4), st.integers(2, 9), st.integers(2, 12))
SEEDS = st.integers(0, 1000)


def representations(shape: tuple[int, int, int], seed: int) -> Tensor:
    """Of N samples, whose V views differ less than the samples do."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randn(shape[0], 1, shape[2], generator=generator)
    return centre + 0.5 * torch.randn(shape, generator=generator)


def rotation(dimensions: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    orthogonal: Tensor = torch.linalg.qr(torch.randn(dimensions, dimensions, generator=generator).double())[0]
    return orthogonal.float()


@pytest.mark.parametrize("distance", DISTANCES)
def test_pairs_come_in_lexicographic_order(distance: Distance) -> None:
    vectors = representations((2, 4, 5), 0)
    distances = alignment_distances(vectors, pairing="views", distance=distance, normalize=True)
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    for place, (i, j) in enumerate(pairs):
        expected = distance_between(unit(vectors[:, i]), unit(vectors[:, j]), distance)
        torch.testing.assert_close(distances[:, place], expected)


@pytest.mark.parametrize("distance", DISTANCES)
def test_original_is_compared_with_each_view(distance: Distance) -> None:
    vectors = representations((3, 5, 4), 0)
    distances = alignment_distances(vectors, pairing="original", distance=distance, normalize=True)
    everything = alignment_distances(vectors, pairing="views", distance=distance, normalize=True)
    torch.testing.assert_close(distances, everything[:, :4])


@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("distance", DISTANCES)
@given(shape=SHAPES, seed=SEEDS, normalize=st.booleans())
def test_difference_is_zero_when_the_target_is_the_reference(
    pairing: Pairing, distance: Distance, shape: tuple[int, int, int], seed: int, *, normalize: bool
) -> None:
    vectors = representations(shape, seed)
    first, second = (
        alignment_distances(v, pairing=pairing, distance=distance, normalize=normalize)
        for v in (vectors, vectors.clone())
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize("distance", ["l2", "cosine", "angular"])
@given(shape=SHAPES, seed=SEEDS, normalize=st.booleans())
def test_distances_do_not_change_when_the_representation_is_rotated(
    distance: Distance, shape: tuple[int, int, int], seed: int, *, normalize: bool
) -> None:
    vectors = representations(shape, seed)
    rotated = vectors @ rotation(shape[2], seed)
    torch.testing.assert_close(
        alignment_distances(rotated, pairing="views", distance=distance, normalize=normalize),
        alignment_distances(vectors, pairing="views", distance=distance, normalize=normalize),
        atol=1e-5,
        rtol=1e-3,
    )


@pytest.mark.parametrize("distance", DISTANCES)
@given(shape=SHAPES, seed=SEEDS, scale=st.floats(1e-3, 1e3))
def test_normalized_distances_do_not_change_when_the_representation_is_scaled(
    distance: Distance, shape: tuple[int, int, int], seed: int, scale: float
) -> None:
    vectors = representations(shape, seed)
    torch.testing.assert_close(
        alignment_distances(vectors * scale, pairing="views", distance=distance, normalize=True),
        alignment_distances(vectors, pairing="views", distance=distance, normalize=True),
        atol=1e-5,
        rtol=1e-3,
    )


@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_distances_scale_with_a_representation_that_is_not_normalized(distance: Distance) -> None:
    vectors = representations((3, 5, 4), 0)
    once = alignment_distances(vectors, pairing="views", distance=distance, normalize=False)
    torch.testing.assert_close(
        alignment_distances(2 * vectors, pairing="views", distance=distance, normalize=False), 2 * once
    )


@pytest.mark.parametrize(("distance", "most"), [("l2", 2.0), ("cosine", 2.0), ("angular", 1.0)])
@given(shape=SHAPES, seed=SEEDS)
def test_normalized_distances_are_bounded(
    distance: Distance, most: float, shape: tuple[int, int, int], seed: int
) -> None:
    distances = alignment_distances(representations(shape, seed), pairing="views", distance=distance, normalize=True)
    assert (distances >= 0).all()
    assert (distances <= most + 1e-6).all()


@pytest.mark.parametrize(
    ("distance", "orthogonal", "opposite"),
    [("l2", 2**0.5, 2.0), ("l1", 2.0, 2.0), ("cosine", 1.0, 2.0), ("angular", 0.5, 1.0)],
)
def test_distances_of_known_vectors(distance: Distance, orthogonal: float, opposite: float) -> None:
    vectors = torch.tensor([[[3.0, 0.0], [0.0, 5.0], [-7.0, 0.0]]])
    distances = alignment_distances(vectors, pairing="views", distance=distance, normalize=True)[0]
    torch.testing.assert_close(distances[:2], torch.tensor([orthogonal, opposite]))


@pytest.mark.parametrize("distance", DISTANCES)
def test_zero_vector_shows_as_nan_of_its_sample_alone(distance: Distance) -> None:
    vectors = representations((3, 4, 5), 0)
    vectors[1, 2] = 0
    means = alignment_distances(vectors, pairing="views", distance=distance, normalize=True).mean(dim=1)
    assert means.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_distances_are_computed_in_float32(dtype: torch.dtype) -> None:
    vectors = representations((3, 4, 5), 0).to(dtype)
    distances = alignment_distances(vectors, pairing="views", distance="l2", normalize=True)
    assert distances.dtype == torch.float32
    torch.testing.assert_close(
        distances, alignment_distances(vectors.float(), pairing="views", distance="l2", normalize=True)
    )


@given(num=st.integers(1, 4), views=st.integers(4, 12), seed=SEEDS)
def test_standard_error_does_not_depend_on_the_order_of_views(num: int, views: int, seed: int) -> None:
    vectors = representations((num, views, 5), seed)
    order = torch.randperm(views, generator=torch.Generator().manual_seed(seed))
    errors = [
        standard_errors(alignment_distances(v, pairing="views", distance="l2", normalize=True), pairing="views")
        for v in (vectors, vectors[:, order])
    ]
    torch.testing.assert_close(errors[0], errors[1], rtol=1e-4, atol=1e-7)


@given(num=st.integers(1, 4), views=st.integers(4, 12), seed=SEEDS)
def test_standard_error_lies_within_hoeffdings_bounds(num: int, views: int, seed: int) -> None:
    differences = torch.randn(num, views * (views - 1) // 2, generator=torch.Generator().manual_seed(seed)).double()
    errors = standard_errors(differences, pairing="views")
    assert (errors >= 0).all()
    # The pair variance itself is estimated, at most by the second moment plus the largest variance of the mean.
    assert (errors <= differences.std(dim=1, correction=0) * 2).all()


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_standard_error_of_equal_differences_is_zero(pairing: Pairing) -> None:
    assert standard_errors(torch.full((2, 10), 0.3), pairing=pairing).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("pairing", PAIRINGS)
@given(seed=SEEDS, shift=st.floats(-5, 5), scale=st.floats(0.1, 10))
def test_standard_error_follows_scale_and_ignores_shifts(
    pairing: Pairing, seed: int, shift: float, scale: float
) -> None:
    differences = torch.randn(2, 15, generator=torch.Generator().manual_seed(seed)).double()
    torch.testing.assert_close(
        standard_errors(differences * scale + shift, pairing=pairing),
        standard_errors(differences, pairing=pairing) * scale,
    )


def test_standard_error_of_independent_differences_is_the_textbooks() -> None:
    differences = torch.randn(3, 7, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(standard_errors(differences, pairing="original"), differences.std(dim=1) / 7**0.5)


@pytest.mark.parametrize(("pairing", "views", "pairs"), [("views", 2, 1), ("views", 3, 3), ("original", 1, 1)])
def test_standard_error_of_too_few_views_is_nan(pairing: Pairing, views: int, pairs: int) -> None:
    assert pairs in (views, views * (views - 1) // 2)
    assert standard_errors(torch.rand(3, pairs), pairing=pairing).isnan().all()


@pytest.mark.parametrize(("pairing", "pairs"), [("views", 6), ("original", 2)])
def test_standard_error_of_just_enough_views_is_a_number(pairing: Pairing, pairs: int) -> None:
    assert standard_errors(torch.rand(3, pairs), pairing=pairing).isfinite().all()
