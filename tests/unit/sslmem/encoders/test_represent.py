"""Which tensor of an encoder is measured, against the networks' own parts taken apart by hand."""

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from sslmem.encoders.architectures import small_stem_resnet
from sslmem.encoders.load import load_checkpoint
from sslmem.encoders.represent import build_head, default_representation, extractor, has_tokens
from sslmem.errors import SpecError

VIEWS = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def resnet() -> nn.Module:
    torch.manual_seed(0)
    module, _ = small_stem_resnet("resnet18")
    return module.eval()


def vit(name: str = "vit_tiny_patch16_224", **options: object) -> nn.Module:
    torch.manual_seed(0)
    module: nn.Module = timm.create_model(name, num_classes=0, img_size=32, patch_size=8, **options)
    return module.eval()


def torchvision_vit() -> nn.Module:
    torch.manual_seed(0)
    module: nn.Module = torchvision.models.VisionTransformer(32, 8, 2, 2, 24, 48, num_classes=5)
    module.heads = nn.Identity()
    return module.eval()


def measured(module: nn.Module, representation: str) -> Tensor:
    with torch.inference_mode():
        return extractor(module, representation)(VIEWS)


def test_pooled_is_what_the_encoder_returns() -> None:
    for module in (resnet(), vit(), torchvision_vit()):
        assert torch.allclose(measured(module, "pooled"), module(VIEWS), atol=1e-5)


def test_mean_of_a_resnet_is_its_average_over_positions() -> None:
    module = resnet()
    assert torch.allclose(measured(module, "mean"), module(VIEWS), atol=1e-6)


def test_tokens_of_a_resnet_are_its_last_feature_map() -> None:
    module = resnet()
    whole = measured(module, "tokens")
    assert whole.shape == (3, 512 * 4 * 4)
    assert torch.allclose(whole.view(3, 512, 16).mean(dim=2), module(VIEWS), atol=1e-6)


def test_class_token_of_a_vit_is_what_it_returns_by_default() -> None:
    for module in (vit(), torchvision_vit()):
        assert torch.allclose(measured(module, "cls"), module(VIEWS), atol=1e-6)


def test_mean_of_a_vit_leaves_class_and_register_tokens_out() -> None:
    module = vit(reg_tokens=3)
    tokens = module.forward_features(VIEWS)  # type: ignore[operator]
    assert tokens.shape[1] == 1 + 3 + 16
    assert torch.allclose(measured(module, "mean"), tokens[:, 4:].mean(dim=1), atol=1e-6)


def test_tokens_of_a_vit_are_class_and_patch_tokens_without_registers() -> None:
    module = vit(reg_tokens=3)
    tokens = module.forward_features(VIEWS)  # type: ignore[operator]
    expected = torch.cat([tokens[:, :1], tokens[:, 4:]], dim=1).flatten(1)
    assert torch.equal(measured(module, "tokens"), expected)


def test_mean_of_torchvisions_vit_is_over_its_patch_tokens() -> None:
    module = torchvision_vit()
    kept: list[Tensor] = []
    module.get_submodule("encoder").register_forward_hook(lambda _, __, output: kept.append(output))
    module(VIEWS)
    assert torch.allclose(measured(module, "mean"), kept[0][:, 1:].mean(dim=1), atol=1e-6)


def test_named_layer_is_its_output_flattened() -> None:
    module = resnet()
    assert measured(module, "layer:layer2").shape == (3, 128 * 16 * 16)
    assert measured(vit(), "layer:blocks.3").shape == (3, 17 * 192)


def test_measuring_a_layer_leaves_the_encoder_as_it_was() -> None:
    module = resnet()
    before = module(VIEWS)
    measured(module, "layer:layer3")
    assert torch.equal(module(VIEWS), before)


@pytest.mark.parametrize(
    ("representation", "says"),
    [
        ("cls", "no class token"),
        ("layer:nowhere", "no layer 'nowhere'; its parts are conv1"),
        ("layer:", "no layer"),
        ("head", "no projection head"),
        ("something", "expected pooled"),
    ],
)
def test_refuses_a_tensor_that_is_not_there(representation: str, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        extractor(resnet(), representation)


def test_refuses_a_layer_that_runs_several_times_a_pass() -> None:
    with pytest.raises(SpecError, match="runs 2 times"):
        measured(resnet(), "layer:layer1.0.relu")


def test_default_is_the_mean_of_patch_tokens_for_mae_alone() -> None:
    assert default_representation(vit(), "mae") == "mean"
    assert default_representation(vit(), "MAE") == "mean"
    assert default_representation(vit(), "dino") == "pooled"
    assert default_representation(vit(), None) == "pooled"
    assert default_representation(resnet(), "mae") == "pooled"


def test_only_transformers_have_tokens() -> None:
    assert has_tokens(vit())
    assert has_tokens(torchvision_vit())
    assert not has_tokens(resnet())


@pytest.mark.parametrize("norm", [False, True])
def test_head_of_a_checkpoint_is_rebuilt_and_measured(tmp_path: Path, *, norm: bool) -> None:
    torch.manual_seed(1)
    module = resnet()
    layers: list[nn.Module] = [nn.Linear(512, 32, bias=not norm)]
    layers += [nn.BatchNorm1d(32)] if norm else []
    head = nn.Sequential(*layers, nn.ReLU(), nn.Linear(32, 16)).eval()
    state = {f"encoder.{k}": v for k, v in module.state_dict().items()}
    state |= {f"projector.{k}": v for k, v in head.state_dict().items()}
    torch.save(state, tmp_path / "f.pth")
    encoder = load_checkpoint(
        tmp_path / "f.pth",
        architecture="resnet18",
        input_size=32,
        representation="head",
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
    )
    assert encoder.report.head == "projector"
    assert encoder.report.representation == "head"
    assert torch.allclose(encoder.represent(VIEWS), head(module(VIEWS)), atol=1e-5)


def test_a_head_that_is_no_plain_mlp_is_not_built() -> None:
    entries = {"head.0.weight": torch.zeros(4, 512, 1, 1), "head.1.weight": torch.zeros(2, 4)}
    assert build_head(entries, resnet(), 32, "cpu") is None


def test_method_decides_the_tensor_and_the_report_names_it(tmp_path: Path) -> None:
    torch.save(vit().state_dict(), tmp_path / "f.pth")
    encoder = load_checkpoint(tmp_path / "f.pth", architecture="vit_tiny_patch16_224", method="mae")
    assert (encoder.report.method, encoder.report.representation) == ("mae", "mean")
    assert load_checkpoint(tmp_path / "f.pth", architecture="vit_tiny_patch16_224").report.representation == "pooled"
