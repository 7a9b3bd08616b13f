"""Folders as Hugging Face's libraries write them: what lies beside the weights is read, and heeded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sslmem.encoders.load import load_checkpoint
from sslmem.errors import CheckpointError, UnreadableCheckpoint
from tests.unit.builders import randomize
from tests.unit.sslmem.encoders.test_producers import clip, timm_tower

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
SMALL = {"hidden_size": 192, "num_hidden_layers": 2, "num_attention_heads": 6, "image_size": 32, "patch_size": 8}
PLAIN = {**SMALL, "intermediate_size": 384}
PREPROCESSOR = {
    "do_normalize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "image_mean": MEAN,
    "image_std": STD,
    "size": {"height": 32, "width": 32},
}


class Kind(NamedTuple):
    """A model of transformers, and what its encoder computes."""

    model: nn.Module
    original: Callable[[Tensor], Tensor]
    method: str | None = None


def made(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    randomize(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("cls_token", "register_tokens", "position_embeddings", "lambda1", "gamma")):
                parameter.normal_()
    return model.eval()


def token(model: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda views: model(views).last_hidden_state[:, 0]


def vit() -> Kind:
    model = made(transformers.ViTModel(transformers.ViTConfig(**PLAIN)))
    return Kind(model, token(model))


def vit_classifier() -> Kind:
    config = transformers.ViTConfig(**PLAIN, hidden_act="quick_gelu", layer_norm_eps=1e-3, num_labels=4)
    model = made(transformers.ViTForImageClassification(config))
    return Kind(model, token(model.get_submodule("vit")))


def vit_mae() -> Kind:
    config = transformers.ViTMAEConfig(
        **PLAIN, mask_ratio=0.0, decoder_hidden_size=64, decoder_num_hidden_layers=1, decoder_num_attention_heads=4
    )
    model = made(transformers.ViTMAEForPreTraining(config))
    encoder = model.get_submodule("vit")
    return Kind(model, lambda views: encoder(views).last_hidden_state[:, 1:].mean(dim=1), "mae")


def dinov2(**options: Any) -> Kind:  # noqa: ANN401
    model = made(transformers.Dinov2Model(transformers.Dinov2Config(**SMALL, **options)))
    return Kind(model, token(model), "dinov2")


def dinov2_gated() -> Kind:
    return dinov2(use_swiglu_ffn=True)


def dinov2_with_registers() -> Kind:
    config = transformers.Dinov2WithRegistersConfig(**SMALL, num_register_tokens=4)
    model = made(transformers.Dinov2WithRegistersModel(config))
    return Kind(model, token(model), "dinov2")


def dinov3(**options: Any) -> Kind:  # noqa: ANN401
    config = transformers.DINOv3ViTConfig(**PLAIN, num_register_tokens=4, **options)
    model = made(transformers.DINOv3ViTModel(config))
    return Kind(model, token(model), "dinov3")


def dinov3_gated() -> Kind:
    return dinov3(use_gated_mlp=True, hidden_act="silu", rope_theta=50.0)


def dinov3_convnext() -> Kind:
    config = transformers.DINOv3ConvNextConfig(hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 2, 1], image_size=32)
    model = made(transformers.DINOv3ConvNextModel(config))
    return Kind(model, lambda views: model(views).pooler_output, "dinov3")


def ijepa() -> Kind:
    model = made(transformers.IJepaModel(transformers.IJepaConfig(**PLAIN)))
    return Kind(model, lambda views: model(views).last_hidden_state.mean(dim=1), "ijepa")


KINDS = [vit, vit_classifier, vit_mae, dinov2, dinov2_gated, dinov2_with_registers, dinov3, dinov3_gated,
         dinov3_convnext, ijepa]  # fmt: skip


def written(kind: Kind, folder: Path, **options: object) -> Path:
    kind.model.save_pretrained(folder, **options)  # type: ignore[operator]
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return folder


def assert_same(path: Path, original: Callable[[Tensor], Tensor], **told: Any) -> Any:  # noqa: ANN401
    encoder = load_checkpoint(path, **told)
    size = encoder.input_size
    views = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor(encoder.mean)[:, None, None], torch.tensor(encoder.std)[:, None, None]
    with torch.inference_mode():
        expected = original((views - mean) / std)
    assert expected.std(dim=0).mean() > 1e-3
    torch.testing.assert_close(encoder.represent(views), expected, rtol=1e-4, atol=1e-4)
    return encoder


@pytest.mark.parametrize("make", KINDS)
def test_folder_of_transformers_loads_with_all_that_it_says(tmp_path: Path, make: Callable[[], Kind]) -> None:
    kind = make()
    encoder = assert_same(written(kind, tmp_path / "model"), kind.original)
    assert (list(encoder.mean), list(encoder.std), encoder.input_size) == (MEAN, STD, 32)
    assert encoder.report.settings["mean"].source == "file"
    assert encoder.report.method == kind.method
    assert encoder.report.producer.startswith("transformers")


@pytest.mark.parametrize("make", KINDS)
def test_names_of_the_running_version_load_as_those_on_disk(tmp_path: Path, make: Callable[[], Kind]) -> None:
    """Version 5 of transformers has other names than version 4, which it still writes."""
    kind = make()
    folder = written(kind, tmp_path / "model")
    names = {name: tensor.contiguous().clone() for name, tensor in kind.model.state_dict().items()}
    save_file(names, folder / "model.safetensors")
    assert_same(folder, kind.original)


# As version 4 wrote them, for the files that are on disk since then.
OLD = {
    vit: (("layers.", "encoder.layer."), ("attention.q_proj", "attention.attention.query"),
          ("attention.k_proj", "attention.attention.key"), ("attention.v_proj", "attention.attention.value"),
          ("attention.o_proj", "attention.output.dense"), ("mlp.fc1", "intermediate.dense"),
          ("mlp.fc2", "output.dense")),
    dinov2: (("attention.q_proj", "attention.attention.query"), ("attention.k_proj", "attention.attention.key"),
             ("attention.v_proj", "attention.attention.value"), ("attention.o_proj", "attention.output.dense")),
    dinov3: (("model.layer.", "layer."),),
    dinov3_convnext: (("model.stages.", "stages."),),
}  # fmt: skip


@pytest.mark.parametrize("make", OLD)
def test_names_of_version_4_load(tmp_path: Path, make: Callable[[], Kind]) -> None:
    kind = make()
    folder = written(kind, tmp_path / "model")
    found = {}
    for name, tensor in kind.model.state_dict().items():
        new = name
        for mine, old in OLD[make]:
            new = new.replace(mine, old)
        found[new] = tensor.contiguous().clone()
    assert set(found) != set(kind.model.state_dict())
    save_file(found, folder / "model.safetensors")
    assert_same(folder, kind.original)


@pytest.mark.parametrize("form", ["zip", "tar", "gztar"])
@pytest.mark.parametrize("within", [True, False])
def test_archive_of_a_folder_loads_as_the_folder(tmp_path: Path, form: str, *, within: bool) -> None:
    kind = vit()
    written(kind, tmp_path / "all" / "model")
    root = tmp_path / "all" if within else tmp_path / "all" / "model"
    archive = Path(shutil.make_archive(str(tmp_path / "packed"), form, root))
    assert_same(archive, kind.original)


def test_sharded_weights_load_as_one(tmp_path: Path) -> None:
    kind = vit()
    folder = written(kind, tmp_path / "model", max_shard_size="500KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    assert_same(folder, kind.original)


def test_torch_file_in_a_folder_loads(tmp_path: Path) -> None:
    kind = vit()
    folder = written(kind, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    torch.save(kind.model.state_dict(), folder / "pytorch_model.bin")
    assert_same(folder, kind.original)


def test_users_word_goes_before_what_the_folder_says(tmp_path: Path) -> None:
    folder = written(vit(), tmp_path / "model")
    encoder = load_checkpoint(folder, mean=(0.1, 0.1, 0.1), options={"num_heads": 3, "activation": "relu"})
    assert encoder.mean == (0.1, 0.1, 0.1)
    assert encoder.report.settings["num_heads"].model_dump() == {"value": 3, "source": "told"}
    assert encoder.report.settings["norm_eps"].model_dump() == {"value": 1e-12, "source": "file"}


def test_pixels_that_are_scaled_otherwise_are_normalised_alike(tmp_path: Path) -> None:
    """Pixels from -1 to 1 by the factor alone, as some processors have it."""
    folder = written(vit(), tmp_path / "model")
    other = {**PREPROCESSOR, "rescale_factor": 2 / 255, "image_mean": [1, 1, 1], "image_std": [1, 1, 1]}
    (folder / "preprocessor_config.json").write_text(json.dumps(other))
    encoder = load_checkpoint(folder)
    torch.testing.assert_close(torch.tensor([encoder.mean, encoder.std]), torch.full((2, 3), 0.5))


def test_positions_go_before_the_size_that_the_folder_says(tmp_path: Path) -> None:
    folder = written(dinov2(), tmp_path / "model")
    (folder / "preprocessor_config.json").write_text(json.dumps({**PREPROCESSOR, "size": {"shortest_edge": 48}}))
    encoder = load_checkpoint(folder)
    assert encoder.input_size == 32
    assert any("the file says 48 pixels" in note for note in encoder.report.inferred)


def test_folder_of_timm_loads_by_the_architecture_it_names(tmp_path: Path) -> None:
    import timm  # noqa: PLC0415

    torch.manual_seed(0)
    module = randomize(timm.create_model("test_convnext", num_classes=0)).eval()
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({k: v.contiguous() for k, v in module.state_dict().items()}, folder / "model.safetensors")
    given = {"input_size": [3, 64, 64], "mean": MEAN, "std": STD}
    (folder / "config.json").write_text(json.dumps({"architecture": "test_convnext", "pretrained_cfg": given}))
    encoder = assert_same(folder, module)
    assert (encoder.report.architecture, encoder.input_size, list(encoder.mean)) == ("test_convnext", 64, MEAN)


def test_folder_of_open_clip_loads_with_its_activation(tmp_path: Path) -> None:
    whole = clip(quick_gelu=True)
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({k: v.contiguous() for k, v in whole.state_dict().items()}, folder / "open_clip_model.safetensors")
    vision = {"image_size": 32, "layers": 2, "width": 128, "patch_size": 8}
    config = {"model_cfg": {"quick_gelu": True, "vision_cfg": vision}, "preprocess_cfg": {"mean": MEAN, "std": STD}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    visual = whole.get_submodule("visual")
    visual.proj = None  # type: ignore[assignment]
    encoder = assert_same(folder, visual)
    assert encoder.report.settings["activation"].model_dump() == {"value": "quick_gelu", "source": "file"}


def test_folder_of_open_clip_names_its_tower_of_timm(tmp_path: Path) -> None:
    trunk, entries = timm_tower()
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(entries, folder / "open_clip_model.safetensors")
    vision = {"timm_model_name": "test_vit", "timm_pool": "", "image_size": 160}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"vision_cfg": vision}}))
    assert assert_same(folder, trunk).report.architecture == "test_vit"


# What is refused


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    return caught.value.detail


def test_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert "expected one file of weights, such as model.safetensors; found none" in refusal(tmp_path)


def test_folder_with_several_files_of_weights_is_not_guessed_about(tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        save_file({"w": torch.ones(1)}, tmp_path / name)
    assert "found a.safetensors, b.safetensors" in refusal(tmp_path)


def test_missing_shard_is_refused_by_name(tmp_path: Path) -> None:
    folder = written(vit(), tmp_path / "model", max_shard_size="500KB")
    gone = min(folder.glob("*.safetensors"))
    gone.unlink()
    assert f"the file '{gone.name}' of model.safetensors.index.json is not there" in refusal(folder)


def test_index_that_does_not_fit_its_shards_is_refused(tmp_path: Path) -> None:
    folder = written(vit(), tmp_path / "model", max_shard_size="500KB")
    index = folder / "model.safetensors.index.json"
    found = json.loads(index.read_text())
    found["weight_map"].popitem()
    index.write_text(json.dumps(found))
    assert "are of different tensors" in refusal(folder)


@pytest.mark.parametrize(
    "text", ["[]", "{", "[" * 100_000, '{"num_attention_heads": 6, "layer_norm_eps": "x"}', '{"layer_norm_eps": 1e999}']
)
def test_settings_that_are_none_are_refused(tmp_path: Path, text: str) -> None:
    folder = written(vit(), tmp_path / "model")
    (folder / "config.json").write_text(text)
    with pytest.raises(UnreadableCheckpoint):
        load_checkpoint(folder)


def test_settings_that_do_not_fit_the_weights_are_refused(tmp_path: Path) -> None:
    folder = written(vit(), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_attention_heads": 7}))
    assert load_file(folder / "model.safetensors")
    with pytest.raises(Exception, match="a number of heads that divides the width 192; found 7"):
        load_checkpoint(folder)
