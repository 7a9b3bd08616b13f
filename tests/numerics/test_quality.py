"""The quality of encoders on external images, against its definition and for collapsed and broken encoders."""

import numpy as np
import torch
from torch import nn

from sslmem.alignment import unit
from sslmem.report.quality import NUM_VIEWS, measure_quality
from sslmem.samples import Sample
from sslmem.spec import ScoreSpec
from sslmem.views.make import make_views
from tests.numerics.trained import CPU, RECIPE, SIZE, as_encoder, network
from tests.unit.builders import encoded, noise, sample, scene

SPEC = ScoreSpec(input_size=SIZE, recipe=RECIPE)
IMAGES = [scene(SIZE, SIZE, i) for i in range(20)]
SAMPLES = [sample(f"{i}.png", image) for i, image in enumerate(IMAGES)]


class Pixels(nn.Module):
    """The pixels themselves: any two different images stay apart."""

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        return views.flatten(1)


class Constant(nn.Module):
    """One point for all images."""

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(views), 4)


def test_figures_are_those_of_a_naive_computation() -> None:
    found = measure_quality([as_encoder(Pixels(), "f")], [as_encoder(Pixels(), "g")], SAMPLES, SPEC, device=CPU)
    assert found is not None
    keys = [one.key for one in SAMPLES]
    views = make_views(IMAGES, keys, recipe=RECIPE, size=SIZE, seed=0, views=range(NUM_VIEWS), device=CPU)
    vectors = unit(as_encoder(Pixels(), "h").represent(views.flatten(0, 1))).double().numpy()
    owner = np.repeat(np.arange(20), NUM_VIEWS)
    same, different, hits = [], [], 0
    for i, one in enumerate(vectors):
        squares = ((vectors - one) ** 2).sum(axis=1)
        squares[i] = np.inf
        hits += owner[squares.argmin()] == owner[i]
        same += list(squares[(owner == owner[i]) & np.isfinite(squares)])
        different += list(squares[owner != owner[i]])
    figures = found.targets[0]
    assert np.isclose(figures.alignment, np.mean(same), rtol=1e-5)
    assert np.isclose(figures.uniformity, np.log(np.mean(np.exp(-2 * np.array(different)))), rtol=1e-5)
    assert figures.retrieval == hits / len(vectors)
    assert np.isclose(figures.chance, 3 / 79)
    assert found.references == found.targets
    assert found.num_samples == 20


def test_collapsed_encoder_has_no_uniformity_and_finds_nothing() -> None:
    found = measure_quality([as_encoder(Constant(), "f")], [as_encoder(Pixels(), "g")], SAMPLES, SPEC, device=CPU)
    assert found is not None
    assert found.targets[0].uniformity > -1e-6
    assert found.targets[0].retrieval == 0.0
    assert found.references[0].uniformity < -0.05


def test_representation_that_is_not_finite_is_as_bad_as_collapse() -> None:
    broken = network()
    nn.init.constant_(broken[0].weight, torch.nan)  # type: ignore[arg-type]
    found = measure_quality([as_encoder(broken, "f")], [as_encoder(Pixels(), "g")], SAMPLES, SPEC, device=CPU)
    assert found is not None
    assert (found.targets[0].uniformity, found.targets[0].retrieval) == (0.0, 0.0)


def test_undecodable_samples_are_left_out_and_no_more_are_used_than_asked_for() -> None:
    some = [Sample("broken.png", "broken", b"no image"), *SAMPLES, sample("more.png", noise(SIZE, SIZE))]
    found = measure_quality(
        [as_encoder(Pixels(), "f")], [as_encoder(Pixels(), "g")], some, SPEC, device=CPU, max_samples=7
    )
    assert found is not None
    assert found.num_samples == 7


def test_one_image_says_nothing_about_telling_images_apart() -> None:
    alone = [Sample("a.png", "a", encoded(scene(SIZE, SIZE, 1)))]
    assert measure_quality([as_encoder(Pixels(), "f")], [as_encoder(Pixels(), "g")], alone, SPEC, device=CPU) is None
