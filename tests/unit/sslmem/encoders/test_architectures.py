"""Architectures by name, built to fit the shapes of a checkpoint."""

from collections.abc import Iterator

import pytest
import timm
import torch
import torchvision
from torch import nn

from sslmem.encoders.architectures import build, infer, small_stem_resnet
from sslmem.errors import UnknownArchitecture

Shapes = dict[str, tuple[int, ...]]


def shapes_of(module: nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


@pytest.fixture(autouse=True)
def _without_memory() -> Iterator[None]:
    """Builds modules of any size in no time: their tensors have shapes alone."""
    with torch.device("meta"):
        yield


def test_torchvision_goes_before_timm() -> None:
    module, _, _ = build("resnet18", {}, None)
    assert isinstance(module, torchvision.models.ResNet)


def test_library_may_be_named() -> None:
    assert isinstance(build("torchvision/resnet18", {}, None)[0], torchvision.models.ResNet)
    assert isinstance(build("timm/resnet18", {}, None)[0], timm.models.ResNet)


@pytest.mark.parametrize(
    "name",
    ["resnet19", "", "torchvision/vit_tiny_patch16_224", "timm/none", "hf-hub:timm/resnet18", "quantized/resnet18"],
)
def test_unknown_architecture_is_refused_with_an_example(name: str) -> None:
    with pytest.raises(UnknownArchitecture, match="resnet18") as caught:
        build(name, {}, None)
    assert caught.value.code == "architecture-unknown"


@pytest.mark.parametrize(
    ("name", "classifier", "left"),
    [
        ("resnet18", "fc", None),
        ("vgg11", "classifier.6", "classifier.3.weight"),
        ("densenet121", "classifier", "features.norm5.weight"),
        ("mobilenet_v3_small", "classifier.3", "classifier.0.weight"),
        ("convnext_tiny", "classifier.2", "classifier.0.weight"),
        ("vit_b_16", "heads.head", "encoder.ln.weight"),
        ("swin_t", "head", "norm.weight"),
    ],
)
def test_last_linear_layer_alone_is_no_part_of_the_encoder(name: str, classifier: str, left: str | None) -> None:
    names = set(build(name, {}, None)[0].state_dict())
    whole = set(torchvision.models.get_model(name).state_dict())
    assert whole - names == {f"{classifier}.weight", f"{classifier}.bias"}
    assert left is None or left in names


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "timm/resnet18"])
def test_residual_network_gets_the_stem_of_its_weights(name: str) -> None:
    large, size, notes = build(name, {"conv1.weight": (64, 3, 7, 7)}, None)
    assert shapes_of(large)["conv1.weight"] == (64, 3, 7, 7)
    assert size == 224
    assert not any("CIFAR" in note for note in notes)
    small, size, notes = build(name, {"conv1.weight": (64, 3, 3, 3)}, None)
    assert shapes_of(small)["conv1.weight"] == (64, 3, 3, 3)
    assert isinstance(small.maxpool, nn.Identity)
    assert size == 32
    assert notes[0].startswith("CIFAR stem: 3x3 convolution with stride 1")


def test_input_size_that_was_not_told_is_noted() -> None:
    assert "input size 224" in build("resnet18", {}, None)[2][-1]
    assert build("resnet18", {}, 96)[1:] == (96, [])


@pytest.mark.parametrize(("patch", "side"), [(4, 32), (2, 32), (14, 98)])
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2"])
def test_patch_and_input_size_of_a_vit_are_those_of_its_weights(name: str, patch: int, side: int) -> None:
    weights = shapes_of(timm.create_model(name, num_classes=0, patch_size=patch, img_size=side))
    module, size, notes = build(name, weights, None)
    assert shapes_of(module) == weights
    assert size == side
    assert notes[0] == f"patches of {patch} pixels, from the shape of patch_embed.proj.weight"


def test_input_size_of_a_vit_may_be_told() -> None:
    weights = shapes_of(timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=64))
    module, size, _ = build("vit_tiny_patch16_224", weights, 64)
    assert size == 64
    assert shapes_of(module) == weights


def test_torchvision_vit_is_built_for_the_input_size() -> None:
    module, size, _ = build("vit_b_16", {}, 32)
    assert size == 32
    assert shapes_of(module)["encoder.pos_embedding"] == (1, 5, 768)
    assert build("vit_b_16", {}, None)[1] == 224


@pytest.mark.parametrize("name", ["hiera_tiny_224", "volo_d1_224", "vit_small_r26_s32_224", "samvit_base_patch16"])
def test_network_that_only_resembles_a_vit_is_built_as_it_is(name: str) -> None:
    weights = shapes_of(timm.create_model(name, num_classes=0))
    assert shapes_of(build(name, weights, None)[0]) == weights


@pytest.mark.parametrize(
    ("patch", "positions"),
    [
        ((192, 3, 4, 4), (1, 10**12, 0)),
        ((192, 3, 4, 4), (1, 2**40, 1)),
        ((192, 3, 0, 0), (1, 65, 192)),
        ((0, 3, 2**20, 2**20), (1, 65, 192)),
        ((192, 3, 4096, 4096), (1, 65, 192)),
        ((192, 3, 1, 1), (1, 2**22, 192)),
        ((192, 3, 4, 4), (1, 0, 192)),
        ((192, 3, 4, 4), ()),
        ((), (1, 65, 192)),
        ((192, 3, 4, 4, 4), (1, 65, 192)),
    ],
)
def test_shapes_of_no_real_vit_do_not_make_a_large_one(patch: tuple[int, ...], positions: tuple[int, ...]) -> None:
    module, _, _ = build("vit_tiny_patch16_224", {"patch_embed.proj.weight": patch, "pos_embed": positions}, None)
    assert sum(tensor.numel() for tensor in module.state_dict().values()) < 10_000_000


@pytest.mark.parametrize("name", ["resnet34", "resnet101", "wide_resnet101_2"])
def test_residual_network_is_told_from_its_shapes(name: str) -> None:
    weights = shapes_of(torchvision.models.get_model(name))

    def fault(module: nn.Module) -> str | None:
        return next((k for k, shape in shapes_of(module).items() if weights.get(k) != shape), None)

    assert infer(fault) == name


def test_architecture_that_fits_nothing_is_not_told() -> None:
    assert infer(lambda _: "conv1.weight") is None


def test_small_stem_network_has_the_width_of_its_output() -> None:
    with torch.device("cpu"):
        module, width = small_stem_resnet("resnet18")
        assert module.eval()(torch.zeros(1, 3, 8, 8)).shape == (1, width)
