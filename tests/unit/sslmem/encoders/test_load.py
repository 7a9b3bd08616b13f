"""Encoders load from every usual form of a checkpoint, exactly, or not at all."""

import argparse
from collections import OrderedDict
from collections.abc import Callable, Mapping
from itertools import cycle
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from sslmem.encoders.architectures import small_stem_resnet
from sslmem.encoders.encoder import Encoder
from sslmem.encoders.load import HEADS, load_checkpoint, load_encoder, probe
from sslmem.errors import (
    AmbiguousCheckpoint,
    CheckpointError,
    NonFiniteRepresentation,
    ScoringError,
    StateDictMismatch,
    UnknownArchitecture,
    UnreadableCheckpoint,
)
from tests.unit.builders import Function, encoder_of, prefixed, randomize, save_torch

# A convolutional network with BatchNorm of 99 000 weights, so that each test takes little time.
SMALL = "test_efficientnet"
Entries = Mapping[str, Tensor]


def small_network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    module: nn.Module = timm.create_model(SMALL, num_classes=0)
    return randomize(module, seed)


ORIGINAL = small_network()
STATE = ORIGINAL.state_dict()


def save(entries: Entries, path: Path, container: str) -> Path:
    if container == "safetensors":
        save_file({name: tensor.clone().contiguous() for name, tensor in entries.items()}, path)
        return path
    return save_torch(dict(entries), path, legacy=container == "legacy")


def load_small(path: Path, *, input_size: int = 32) -> Encoder:
    return load_checkpoint(path, architecture=SMALL, input_size=input_size)


def load_plain(entries: Entries, folder: Path) -> Encoder:
    """Loads entries that need no conversion."""
    return load_encoder(save(entries, folder / "plain", "safetensors"), architecture=SMALL, input_size=32)


def assert_same_function(encoder: Encoder, module: nn.Module, *, tolerance: float = 1e-5) -> None:
    generator = torch.Generator().manual_seed(0)
    views = torch.rand(3, 3, encoder.input_size, encoder.input_size, generator=generator)
    mean, std = torch.tensor(encoder.mean)[:, None, None], torch.tensor(encoder.std)[:, None, None]
    with torch.inference_mode():
        expected = module.eval()((views - mean) / std).flatten(1)
    assert expected.std() > 0.01
    torch.testing.assert_close(encoder.represent(views), expected, rtol=tolerance, atol=tolerance)


def refusal(kind: type[CheckpointError], load: Callable[[], Encoder]) -> str:
    with pytest.raises(kind) as caught:
        load()
    assert "\n" not in caught.value.detail
    return caught.value.detail


CONTAINERS = ["zip", "legacy", "safetensors"]
PREFIXES = ["", "module.", "backbone.", "encoder.", "module.encoder.", "module.backbone.0.", "model.online_encoder."]
containers = pytest.mark.parametrize("container", CONTAINERS)


# Forms of a checkpoint


@pytest.mark.parametrize(("prefix", "container"), list(zip(PREFIXES, cycle(CONTAINERS), strict=False)))
def test_encoder_loads_from_under_a_prefix(tmp_path: Path, prefix: str, container: str) -> None:
    encoder = load_small(save(prefixed(STATE, prefix), tmp_path / "c", container))
    assert_same_function(encoder, ORIGINAL)
    assert encoder.report.prefix == prefix
    assert encoder.report.matched == len(STATE)
    assert encoder.report.dropped == []
    assert encoder.report.absent_counters == 0


@pytest.mark.parametrize("legacy", [False, True])
def test_encoder_loads_from_a_whole_training_checkpoint(tmp_path: Path, *, legacy: bool) -> None:
    module = small_network()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    module(torch.rand(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    content = {
        "epoch": 200,
        "arch": SMALL,
        "optimizer": optimizer.state_dict(),
        "state_dict": OrderedDict(prefixed(STATE, "module.encoder_q.")),
        "args": argparse.Namespace(lr=0.1, path=Path("data")),
        "loss": torch.tensor(0.5),
    }
    encoder = load_small(save_torch(content, tmp_path / "c.pth.tar", legacy=legacy))
    assert_same_function(encoder, ORIGINAL)
    assert encoder.report.prefix == "module.encoder_q."


@containers
def test_heads_are_left_out_and_reported(tmp_path: Path, container: str) -> None:
    heads = {f"module.{head}.0.weight": torch.ones(4, 4) for head in HEADS}
    encoder = load_small(save({**heads, **prefixed(STATE, "module.encoder.")}, tmp_path / "c", container))
    assert_same_function(encoder, ORIGINAL)
    assert sorted(encoder.report.dropped) == sorted(heads)


def test_classifier_beside_the_encoder_is_left_out(tmp_path: Path) -> None:
    whole = {**STATE, "classifier.weight": torch.ones(10, 64), "classifier.bias": torch.ones(10)}
    encoder = load_small(save(whole, tmp_path / "c", "zip"))
    assert sorted(encoder.report.dropped) == ["classifier.bias", "classifier.weight"]
    assert_same_function(encoder, ORIGINAL)


@pytest.mark.parametrize(
    ("dtype", "container"),
    [
        (torch.float16, "zip"),
        (torch.float16, "safetensors"),
        (torch.bfloat16, "legacy"),
        (torch.bfloat16, "safetensors"),
        (torch.float64, "zip"),
    ],
)
def test_weights_of_other_precision_load_as_they_are_rounded(
    tmp_path: Path, dtype: torch.dtype, container: str
) -> None:
    rounded = small_network()
    rounded.load_state_dict({name: tensor.to(dtype) for name, tensor in STATE.items()})
    # Casting everything, as many scripts do, casts the counters of BatchNorm as well.
    encoder = load_small(save({k: v.to(dtype) for k, v in STATE.items()}, tmp_path / "c", container))
    assert_same_function(encoder, rounded)
    assert {parameter.dtype for parameter in encoder.module.parameters()} == {torch.float32}


@pytest.mark.parametrize("legacy", [False, True])
def test_parameters_load_as_their_tensors(tmp_path: Path, *, legacy: bool) -> None:
    entries = {k: nn.Parameter(v) if v.is_floating_point() else v for k, v in STATE.items()}
    assert_same_function(load_small(save_torch(entries, tmp_path / "c", legacy=legacy)), ORIGINAL)


def one_storage(entries: Entries) -> dict[str, Tensor]:
    """The same entries as windows on one long tensor."""
    flat = torch.cat([tensor.flatten() for tensor in entries.values()])
    windows, start = {}, 0
    for name, tensor in entries.items():
        windows[name] = flat[start : start + tensor.numel()].view(tensor.shape)
        start += tensor.numel()
    return windows


def every_other_element(tensor: Tensor) -> Tensor:
    return torch.stack([tensor, torch.full_like(tensor, 99)], dim=-1)[..., 0]


def transposed(tensor: Tensor) -> Tensor:
    backwards = tuple(reversed(range(tensor.dim())))
    return tensor.permute(backwards).contiguous().permute(backwards)


@pytest.mark.parametrize(
    "layout",
    [
        lambda entries: {k: every_other_element(v) for k, v in entries.items()},
        lambda entries: {k: transposed(v) for k, v in entries.items()},
        lambda entries: {k: v.to(memory_format=torch.channels_last) if v.dim() == 4 else v for k, v in entries.items()},
    ],
    ids=["strided", "transposed", "channels last"],
)
def test_layout_in_memory_does_not_matter(tmp_path: Path, layout: Callable[[Entries], dict[str, Tensor]]) -> None:
    assert_same_function(load_small(save_torch(layout(STATE), tmp_path / "c")), ORIGINAL)


@pytest.mark.parametrize("legacy", [False, True])
def test_entries_may_be_windows_on_one_storage(tmp_path: Path, *, legacy: bool) -> None:
    windows = one_storage({k: v.float() for k, v in STATE.items()})
    assert_same_function(load_small(save_torch(windows, tmp_path / "c", legacy=legacy)), ORIGINAL)


def test_expanded_tensor_loads_unfolded(tmp_path: Path) -> None:
    module = small_network()
    bias = next(name for name in STATE if name.endswith("bias"))
    module.load_state_dict({**STATE, bias: torch.full_like(STATE[bias], 0.3)})
    entries = {**STATE, bias: torch.tensor([0.3]).expand(STATE[bias].shape)}
    assert_same_function(load_small(save_torch(entries, tmp_path / "c")), module)


def test_order_of_the_entries_does_not_matter(tmp_path: Path) -> None:
    encoder = load_small(save(dict(reversed(STATE.items())), tmp_path / "c", "zip"))
    assert_same_function(encoder, ORIGINAL)


def test_counters_of_batchnorm_may_be_absent(tmp_path: Path) -> None:
    entries = {k: v for k, v in STATE.items() if not k.endswith("num_batches_tracked")}
    encoder = load_small(save(entries, tmp_path / "c", "zip"))
    assert_same_function(encoder, ORIGINAL)
    assert encoder.report.absent_counters == len(STATE) - len(entries) > 0
    assert encoder.report.matched == len(entries)


def test_digest_is_that_of_the_weights_not_of_the_file(tmp_path: Path) -> None:
    other = small_network(seed=1).state_dict()
    digests = [
        load_small(path).weights_digest
        for path in (
            save(STATE, tmp_path / "a", "zip"),
            save(prefixed(STATE, "module."), tmp_path / "b", "legacy"),
            save({**STATE, "fc.weight": torch.ones(2)}, tmp_path / "c", "safetensors"),
            save(other, tmp_path / "d", "zip"),
        )
    ]
    assert digests[0] == digests[1] == digests[2] != digests[3]
    assert digests[0].startswith("sha256:")


# Architectures


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("small_stem", [True, False])
def test_residual_network_is_recognised_with_its_stem(tmp_path: Path, name: str, *, small_stem: bool) -> None:
    module = small_stem_resnet(name)[0] if small_stem else torchvision.models.get_model(name)
    randomize(module)
    entries = prefixed(module.state_dict(), "module.")
    if not small_stem:
        module.fc = nn.Identity()
    path = save(dict(reversed(entries.items())), tmp_path / "c", "zip")
    encoder = load_checkpoint(path, input_size=32)
    assert encoder.report.architecture == name
    assert any("CIFAR stem" in note for note in encoder.report.inferred) == small_stem
    assert sorted(encoder.report.dropped) == ([] if small_stem else ["module.fc.bias", "module.fc.weight"])
    assert_same_function(encoder, module, tolerance=1e-4)


def test_vit_of_small_patches_loads_with_their_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = timm.create_model("vit_tiny_patch16_224", num_classes=0, patch_size=4, img_size=32)
    path = save(prefixed(module.state_dict(), "student.backbone."), tmp_path / "c", "zip")
    encoder = load_checkpoint(path, architecture="vit_tiny_patch16_224")
    assert encoder.input_size == 32
    assert encoder.report.prefix == "student.backbone."
    assert_same_function(encoder, module, tolerance=1e-4)


def test_vit_of_another_input_size_is_refused_with_both_shapes(tmp_path: Path) -> None:
    module = timm.create_model("test_vit", num_classes=0, img_size=64)
    path = save(module.state_dict(), tmp_path / "c", "zip")
    message = refusal(StateDictMismatch, lambda: load_checkpoint(path, architecture="test_vit", input_size=32))
    assert "pos_embed is [1, 17, 64], expected [1, 5, 64]; name another architecture or input size" in message


# Strictness


def test_missing_entries_are_named(tmp_path: Path) -> None:
    gone = ["module.bn1.weight", "module.bn2.bias"]
    entries = {k: v for k, v in prefixed(STATE, "module.").items() if k not in gone}
    needed = [k for k in STATE if not k.endswith("num_batches_tracked")]
    message = refusal(StateDictMismatch, lambda: load_plain(entries, tmp_path))
    assert message.startswith(f"2 of {len(needed)} entries of {SMALL} are missing, first {', '.join(gone)}; the file's")


def test_checkpoint_of_another_network_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    message = refusal(StateDictMismatch, lambda: load_plain({"layer.weight": torch.ones(3, 3)}, tmp_path))
    assert message.endswith("the file's entries begin with layer.weight")


@pytest.mark.parametrize("name", ["module.extra.weight", "scale", "module.headroom.weight", "queue"])
def test_entries_of_nothing_known_are_refused_by_name(tmp_path: Path, name: str) -> None:
    entries = {**prefixed(STATE, "module."), name: torch.ones(2)}
    message = refusal(StateDictMismatch, lambda: load_plain(entries, tmp_path))
    assert message.startswith(f"1 entries belong neither to {SMALL} nor to a known head: {name}; expected")


def test_entry_of_another_shape_is_refused_with_both_shapes(tmp_path: Path) -> None:
    name = next(name for name in STATE if name.endswith("conv_stem.weight"))
    entries = {**STATE, name: torch.ones(1, 2, 3, 4)}
    message = refusal(StateDictMismatch, lambda: load_plain(entries, tmp_path))
    assert f"{name} is [1, 2, 3, 4], expected {list(STATE[name].shape)}" in message


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool])
def test_quantized_weights_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    entries = {k: v.to(dtype) for k, v in STATE.items()}
    message = refusal(StateDictMismatch, lambda: load_plain(entries, tmp_path))
    assert f"is {dtype}, expected torch.float32" in message


def test_two_encoders_in_one_checkpoint_are_refused_with_their_prefixes(tmp_path: Path) -> None:
    both = {**prefixed(STATE, "encoder_q."), **prefixed(STATE, "encoder_k.")}
    message = refusal(AmbiguousCheckpoint, lambda: load_plain(both, tmp_path))
    assert "'encoder_q.'" in message
    assert "'encoder_k.'" in message


def test_encoder_and_a_part_of_another_are_refused(tmp_path: Path) -> None:
    part = dict(list(prefixed(STATE, "momentum.").items())[:3])
    entries = {**prefixed(STATE, "online."), **part}
    message = refusal(StateDictMismatch, lambda: load_plain(entries, tmp_path))
    assert "3 entries belong neither" in message


def test_architecture_that_cannot_be_told_must_be_named(tmp_path: Path) -> None:
    path = save(STATE, tmp_path / "c", "zip")
    message = refusal(UnknownArchitecture, lambda: load_checkpoint(path))
    assert "the architecture cannot be told from the checkpoint; expected its name" in message
    assert "conv_stem.weight" in message


def test_architecture_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    path = save(STATE, tmp_path / "c", "zip")
    message = refusal(UnknownArchitecture, lambda: load_checkpoint(path, architecture="resnet19"))
    assert "'resnet19' is known to neither torchvision nor timm" in message


@pytest.mark.parametrize("content", [b"", b"x", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ", b"PK\x03\x04" + bytes(50)])
def test_file_that_is_no_safetensors_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c.safetensors"
    path.write_bytes(content)
    with pytest.raises((UnreadableCheckpoint, UnknownArchitecture)):
        load_encoder(path)


# Using an encoder


def test_encoder_is_frozen_in_eval_mode(tmp_path: Path) -> None:
    encoder = load_plain(STATE, tmp_path)
    assert not any(module.training for module in encoder.module.modules())
    assert not any(parameter.requires_grad for parameter in encoder.module.parameters())


def test_views_are_normalized_by_the_encoders_mean_and_std(tmp_path: Path) -> None:
    path = save(STATE, tmp_path / "c", "zip")
    encoder = load_checkpoint(path, architecture=SMALL, input_size=32, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    assert_same_function(encoder, ORIGINAL)
    assert not torch.allclose(
        encoder.represent(torch.ones(1, 3, 32, 32)), load_small(path).represent(torch.ones(1, 3, 32, 32))
    )


def test_representation_of_a_view_does_not_depend_on_its_batch(tmp_path: Path) -> None:
    encoder = load_plain(STATE, tmp_path)
    views = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(encoder.represent(views)[2:3], encoder.represent(views[2:3]), rtol=1e-4, atol=1e-5)


def test_representations_are_flat_and_in_float32() -> None:
    module = Function(lambda views: views.double().mean(dim=3))
    assert encoder_of(module).represent(torch.rand(2, 3, 16, 16)).shape == (2, 48)
    assert encoder_of(module).represent(torch.rand(2, 3, 16, 16)).dtype == torch.float32


def test_probe_tells_the_width_of_the_representation(tmp_path: Path) -> None:
    found = probe(load_plain(STATE, tmp_path), num_views=4)
    assert found.representation_dim == ORIGINAL(torch.zeros(1, 3, 32, 32)).shape[1]
    assert found.views_per_second > 0


def test_probe_refuses_weights_that_are_not_finite(tmp_path: Path) -> None:
    spoiled = {k: v * torch.nan if k == "bn1.weight" else v for k, v in STATE.items()}
    with pytest.raises(NonFiniteRepresentation, match="its weights are unusable"):
        probe(load_plain(spoiled, tmp_path), num_views=2)


def test_probe_refuses_an_input_size_that_the_architecture_does_not_take(tmp_path: Path) -> None:
    path = save(torchvision.models.squeezenet1_1().state_dict(), tmp_path / "c", "safetensors")
    encoder = load_checkpoint(path, architecture="squeezenet1_1", input_size=2)
    with pytest.raises(ScoringError, match="squeezenet1_1 does not take views of 2 pixels"):
        probe(encoder, num_views=2)
