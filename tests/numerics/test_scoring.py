"""Scores against a naive reference, end to end: view by view, encoder by encoder, pair by pair."""

from functools import partial
from typing import get_args

import pytest
import torch

from sslmem.encoders.architectures import small_stem_resnet
from sslmem.encoders.encoder import Encoder
from sslmem.recipe import Recipe
from sslmem.scoring import Sample, SampleScore, score
from sslmem.spec import Distance, Pairing, ScoreSpec
from sslmem.views.latin import latin
from sslmem.views.make import make_views, original_views
from sslmem.views.philox import uniforms
from tests.numerics.reference import naive_score
from tests.unit.builders import Pixels, encoder_of, noise, randomize, sample, scene, small_encoder

CPU = torch.device("cpu")
IMAGES = [scene(24, 24, 0), noise(40, 25, 1), scene(110, 100, 2), noise(24, 24, 3), scene(16, 16, 4)]
SAMPLES = [sample(f"{i}.png", image) for i, image in enumerate(IMAGES)]


def scores(targets: list[Encoder], references: list[Encoder], spec: ScoreSpec) -> list[SampleScore]:
    return [s for batch in score(targets, references, SAMPLES, spec, device=CPU, batch_size=3) for s in batch]


def assert_naive(targets: list[Encoder], references: list[Encoder], spec: ScoreSpec) -> None:
    for found, image, one in zip(scores(targets, references, spec), IMAGES, SAMPLES, strict=True):
        views = _views(image, one, spec)
        target, reference = naive_score(targets, references, views, spec)
        assert found.alignment_target == pytest.approx(target, rel=1e-5)
        assert found.alignment_reference == pytest.approx(reference, rel=1e-5)
        # A difference of nearly equal numbers is as exact as these are.
        assert found.score == pytest.approx(reference - target, abs=2e-5 * (target + reference))
        assert found.score_bounded == pytest.approx((reference - target) / (reference + target), abs=2e-5)


def _views(image: Pixels, one: Sample, spec: ScoreSpec) -> torch.Tensor:
    """The views one by one; that these are torchvision's is tested beside this file."""
    made = [
        make_views(
            [image],
            [one.key],
            recipe=spec.recipe,
            size=spec.input_size,
            seed=spec.seed,
            views=range(v, v + 1),
            device=CPU,
            numbers=uniforms if spec.stratify is None else partial(latin, spec.stratify),
        )[0]
        for v in range(spec.views)
    ]
    if spec.pairing == "original":
        made.insert(0, original_views([image], spec.input_size, CPU))
    return torch.cat(made)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("distance", get_args(Distance))
@pytest.mark.parametrize("pairing", get_args(Pairing))
def test_scores_are_those_of_plain_loops(pairing: Pairing, distance: Distance, *, normalize: bool) -> None:
    spec = ScoreSpec(views=5, pairing=pairing, distance=distance, normalize=normalize, seed=3, input_size=16)
    assert_naive([small_encoder(1)], [small_encoder(2)], spec)


def test_several_targets_and_references_are_averaged() -> None:
    targets, references = [small_encoder(seed) for seed in (1, 2)], [small_encoder(seed) for seed in (3, 4, 5)]
    assert_naive(targets, references, ScoreSpec(views=4, seed=3, input_size=16))


@pytest.mark.parametrize("pairing", get_args(Pairing))
def test_scores_of_views_in_groups_are_those_of_plain_loops(pairing: Pairing) -> None:
    assert_naive([small_encoder(1)], [small_encoder(2)], ScoreSpec(views=8, stratify=2, pairing=pairing, input_size=16))


@pytest.mark.parametrize("recipe", ["paper-strong", "paper-independent"])
def test_scores_with_other_recipes_are_those_of_plain_loops(recipe: str) -> None:
    spec = ScoreSpec(views=4, recipe=Recipe.named(recipe), seed=3, input_size=16)
    assert_naive([small_encoder(1)], [small_encoder(2)], spec)


def test_scores_of_residual_networks_are_those_of_plain_loops() -> None:
    torch.manual_seed(0)
    encoders = [encoder_of(randomize(small_stem_resnet("resnet18")[0], seed), 16) for seed in (1, 2)]
    with torch.inference_mode():
        assert_naive(encoders[:1], encoders[1:], ScoreSpec(views=3, seed=3, input_size=16))
