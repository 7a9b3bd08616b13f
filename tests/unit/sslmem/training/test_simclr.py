"""Training with SimCLR: the loss, and that it trains what can be audited."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from sslmem.datasets.image import sample_key
from sslmem.encoders.load import load_checkpoint
from sslmem.recipe import Recipe
from sslmem.training.simclr import SimclrSettings, nt_xent, train_simclr
from tests.unit.builders import encoded, scene

IMAGES = [scene(12, 12, seed) for seed in range(16)]
KEYS = [sample_key(encoded(image)) for image in IMAGES]


def train(
    *, epochs: int = 1, batch_size: int = 4, seed: int = 0, count: int = 8
) -> tuple[dict[str, Tensor], list[float]]:
    """Weights and the loss of each epoch."""
    losses: list[float] = []
    settings = SimclrSettings(
        architecture="resnet18",
        input_size=8,
        recipe=Recipe.model_validate([{"random_resized_crop": {"scale": [0.6, 1.0]}}, "horizontal_flip"]),
        epochs=epochs,
        batch_size=batch_size,
        projection=16,
        seed=seed,
    )
    device = torch.device("cpu")
    state = train_simclr(IMAGES[:count], KEYS[:count], settings, device=device, on_epoch=losses.append)
    return state, losses


def naive_nt_xent(first: Tensor, second: Tensor, temperature: float) -> float:
    """Equation 1 of Chen et al. 2020, view by view."""
    views = [*first.double(), *second.double()]
    partners = [*range(len(first), 2 * len(first)), *range(len(first))]
    total = 0.0
    for i, partner in enumerate(partners):
        similarities = [torch.cosine_similarity(views[i], view, dim=0).div(temperature).exp().item() for view in views]
        total -= torch.tensor(similarities[partner] / (sum(similarities) - similarities[i])).log().item()
    return total / len(views)


@given(st.integers(1, 6), st.integers(2, 8), st.sampled_from([0.1, 0.5, 1.0]), st.integers(0, 1000))
def test_loss_is_that_of_plain_loops(num: int, dimensions: int, temperature: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.randn(num, dimensions, generator=generator) for _ in range(2))
    expected = naive_nt_xent(first, second, temperature)
    assert nt_xent(first, second, temperature).item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_loss_is_small_when_partners_alone_agree() -> None:
    views = torch.eye(5)
    assert nt_xent(views, views, 0.05).item() < 1e-3
    assert nt_xent(views, views.roll(1, dims=0), 0.05).item() > 5


def test_a_few_epochs_lower_the_loss() -> None:
    _, losses = train(epochs=8, batch_size=16, count=16)
    assert len(losses) == 8
    assert losses[-1] < losses[0] - 0.2


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return train()[0]


def test_same_seed_gives_the_same_weights_whatever_was_drawn_before(state: dict[str, Tensor]) -> None:
    torch.rand(7)
    again, _ = train()
    assert all(torch.equal(state[name], again[name]) for name in state)


def test_another_seed_gives_other_weights(state: dict[str, Tensor]) -> None:
    other, _ = train(seed=1)
    assert set(state) == set(other)
    assert not torch.equal(state["conv1.weight"], other["conv1.weight"])


@pytest.mark.parametrize(("epochs", "batch_size", "count"), [(1, 16, 2), (5, 2, 4)])
def test_any_number_of_steps_trains(epochs: int, batch_size: int, count: int) -> None:
    """Of these, ten steps in all would give the schedule a rise of no length."""
    trained, losses = train(epochs=epochs, batch_size=batch_size, count=count)
    assert len(losses) == epochs
    assert all(tensor.isfinite().all() for tensor in trained.values())


def test_trained_state_loads_as_an_encoder(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, tmp_path / "encoder.safetensors")
    encoder = load_checkpoint(tmp_path / "encoder.safetensors", input_size=8)
    assert encoder.report.architecture == "resnet18"
    assert encoder.report.dropped == sorted(name for name in state if name.startswith("projection_head."))
    assert len(encoder.report.dropped) == 4
    assert torch.equal(encoder.module.state_dict()["conv1.weight"], state["conv1.weight"])
