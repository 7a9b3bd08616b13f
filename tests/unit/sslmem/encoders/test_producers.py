"""Checkpoints as producers write them load untouched, and the encoder is the original one to float precision."""

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
import torchvision
from timm.layers import SwiGLUPacked
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from sslmem.encoders.architectures import small_stem_resnet
from sslmem.encoders.load import load_checkpoint
from sslmem.encoders.producers import PRODUCERS
from sslmem.errors import AmbiguousCheckpoint, SpecError, StateDictMismatch, UnreadableCheckpoint
from tests.unit.builders import prefixed, randomize, save_torch

HEAD = {"0.weight": torch.ones(4, 4), "2.weight": torch.ones(4, 4)}
Views = Tensor
EPS6 = partial(nn.LayerNorm, eps=1e-6)


class Row(NamedTuple):
    """What a producer saves, and what its encoder computes."""

    content: Any
    original: Callable[[Views], Tensor]
    producer: str
    branch: str
    told: Mapping[str, Any] = MappingProxyType({})


def resnet(seed: int = 0, *, small: bool = False) -> nn.Module:
    if small:
        return randomize(small_stem_resnet("resnet18")[0], seed).eval()
    module = torchvision.models.resnet18()
    module.fc = nn.Identity()
    return randomize(module, seed).eval()


def vit(seed: int = 0, **options: object) -> VisionTransformer:
    torch.manual_seed(seed)
    given = {"img_size": 32, "patch_size": 8, "embed_dim": 192, "depth": 3, "num_heads": 3, "num_classes": 0}
    module = VisionTransformer(**{**given, "norm_layer": EPS6, **options})
    randomize(module, seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith(("pos_embed", "cls_token", "reg_token", "gamma")):
                parameter.normal_()
    return module.eval()


def state(module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    return prefixed(module.state_dict(), prefix)


def sequential(module: nn.Module, prefix: str, *, with_pool: bool) -> dict[str, Tensor]:
    """The entries of ``nn.Sequential(*children)``, with the max-pooling or without it."""
    children = [c for name, c in module.named_children() if name != "fc" and (with_pool or name != "maxpool")]
    return state(nn.Sequential(*children), prefix)


def training(**parts: object) -> dict[str, Any]:
    optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    return {**parts, "optimizer": optimizer, "epoch": 3, "args": argparse.Namespace(arch="x", path=Path("data"))}


# Masked prediction


def mae() -> Row:
    module = vit()
    decoder = {"decoder_embed.weight": torch.ones(4, 192), "decoder_blocks.0.norm1.weight": torch.ones(4)}
    entries = {**state(module), **decoder, "mask_token": torch.ones(1, 1, 4), "decoder_pos_embed": torch.ones(1, 17, 4)}
    return Row(training(model=entries), mean_of_patches(module), "MAE", "root")


def mean_of_patches(module: VisionTransformer) -> Callable[[Views], Tensor]:
    return lambda views: module.forward_features(views)[:, module.num_prefix_tokens :].mean(dim=1)


def mae_finetuned() -> Row:
    module = vit(global_pool="avg", fc_norm=True)
    return Row(training(model={**state(module), "head.weight": torch.ones(10, 192)}), module, "unknown", "root")


class SslmemEncoder(nn.Module):
    """The authors' encoder of MAE, without masks: positions of patches alone, norms with torch's own epsilon."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, 192))
        self.pos_embedding = nn.Parameter(torch.randn(16, 1, 192))
        self.patchify = nn.Conv2d(3, 192, 8, 8)
        self.transformer = nn.Sequential(*(Block(192, 3) for _ in range(2)))
        self.layer_norm = nn.LayerNorm(192)

    def forward(self, views: Views) -> Tensor:
        patches = self.patchify(views).flatten(2).permute(2, 0, 1) + self.pos_embedding  # [T, M, D]
        tokens = torch.cat([self.cls_token.expand(-1, patches.shape[1], -1), patches]).transpose(0, 1)
        out: Tensor = self.layer_norm(self.transformer(tokens))[:, 1:].mean(dim=1)
        return out


class SslmemMae(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = SslmemEncoder(), nn.Sequential(nn.Linear(4, 4))


def sslmem_mae() -> Row:
    torch.manual_seed(0)
    module = SslmemMae()
    randomize(module)
    return Row(module, module.encoder, "SSLMem (MAE)", "encoder")


def ijepa() -> Row:
    options = {"class_token": False, "global_pool": "avg", "fc_norm": False}
    target, context = vit(0, **options), vit(1, **options)
    content = {
        "encoder": state(context, "module."),
        "predictor": {"module.predictor_embed.weight": torch.ones(3, 3)},
        "target_encoder": state(target, "module."),
        "opt": {"state": {}},
        "scaler": {"scale": 1.0},
        "epoch": 3,
    }
    return Row(content, target, "I-JEPA", "target")


# Self-distillation


def dino() -> Row:
    teacher, student = vit(0), vit(1)
    head = {"head.mlp.0.weight": torch.ones(3, 3), "head.last_layer.weight_g": torch.ones(3, 1)}
    content = training(
        student={**state(student, "module.backbone."), **prefixed(head, "module.")},
        teacher={**state(teacher, "backbone."), **head},
        dino_loss={"center": torch.ones(1, 3)},
        fp16_scaler=None,
    )
    return Row(content, teacher, "DINO", "teacher")


def dino_student() -> Row:
    row = dino()
    return row._replace(original=vit(1), branch="student", told={"branch": "student"})


def dino_without_prefix() -> Row:
    teacher, student = vit(0), vit(1)
    content = training(student=state(student, "module."), teacher=state(teacher))
    return Row(content, teacher, "DINO", "teacher")


def dino_released() -> Row:
    module = vit()
    return Row(state(module), module, "unknown", "root")


def dino_resnet() -> Row:
    teacher, student = resnet(0), resnet(1)
    content = training(student=state(student, "module.backbone."), teacher=state(teacher, "backbone."))
    return Row(content, teacher, "DINO", "teacher")


def ibot() -> Row:
    module = vit()
    extra = {"module.head.mlp.0.weight": torch.ones(3, 3), "module.backbone.masked_embed": torch.ones(1, 192)}
    return Row({"state_dict": {**state(module, "module.backbone."), **extra}}, module, "iBOT", "module.backbone")


def as_dinov2(module: VisionTransformer) -> dict[str, Tensor]:
    """DINOv2's own names: positions hold one of the class token, blocks come in chunks."""
    entries = state(module)
    if "reg_token" in entries:
        entries["register_tokens"] = entries.pop("reg_token")
        of_class = torch.full((1, 1, 192), 0.25)
        entries["pos_embed"] = torch.cat([of_class, entries["pos_embed"]], dim=1)
        entries["cls_token"] = entries["cls_token"] - of_class
    named = {}
    for name, tensor in entries.items():
        new = (
            name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3")
            if "mlp.fc1" in name or "mlp.fc2" in name
            else name
        )
        named[new] = tensor
    return {**named, "mask_token": torch.ones(1, 192)}


class Dinov2(nn.Module):
    """The order in which DINOv2 puts its tokens together: positions first, registers between class and patches."""

    def __init__(self, module: VisionTransformer, entries: dict[str, Tensor]) -> None:
        super().__init__()
        self.module, self.entries = module, entries

    def forward(self, views: Views) -> Tensor:
        patches = self.module.patch_embed(views)
        num = len(patches)
        tokens = torch.cat([self.entries["cls_token"].expand(num, -1, -1), patches], dim=1) + self.entries["pos_embed"]
        registers = self.entries["register_tokens"].expand(num, -1, -1)
        tokens = torch.cat([tokens[:, :1], registers, tokens[:, 1:]], dim=1)
        out: Tensor = self.module.norm(self.module.blocks(tokens))[:, 0]
        return out


def dinov2() -> Row:
    """As training writes it: teacher and student in one state dict, blocks in chunks, registers, SwiGLU."""
    swiglu = {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU, "mlp_ratio": 4.0}
    options = {"init_values": 1e-5, "reg_tokens": 4, "no_embed_class": True, **swiglu}
    teacher, student = vit(0, **options), vit(1, **options)
    chunked = {
        k.replace("blocks.", "blocks.0.") if k.startswith("blocks.") else k: v for k, v in as_dinov2(teacher).items()
    }
    heads = {"teacher.dino_head.mlp.0.weight": torch.ones(3, 3), "student.ibot_head.mlp.0.weight": torch.ones(3, 3)}
    model = {
        **prefixed(chunked, "teacher.backbone."),
        **prefixed(as_dinov2(student), "student.backbone."),
        **heads,
    }
    return Row(
        {"model": model, "iteration": 3, "optimizer": {}}, Dinov2(teacher, as_dinov2(teacher)), "DINOv2", "teacher"
    )


# Joint embedding


def moco() -> Row:
    query, key = resnet(0), resnet(1)
    heads = {"module.encoder_q.fc.0.weight": torch.ones(3, 3), "module.encoder_k.fc.0.weight": torch.ones(3, 3)}
    queue = {"module.queue": torch.ones(3, 3), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    entries = {**state(query, "module.encoder_q."), **state(key, "module.encoder_k."), **heads, **queue}
    return Row(training(arch="resnet18", state_dict=entries), query, "MoCo v1/v2", "query")


def moco_v3() -> Row:
    """Its small transformer has twelve heads, which no weight shows."""
    base, momentum = (vit(seed, embed_dim=384, num_heads=12, depth=2) for seed in (0, 1))
    heads = {
        "module.base_encoder.head.0.weight": torch.ones(3, 3),
        "module.momentum_encoder.head.0.weight": torch.ones(3, 3),
    }
    entries = {
        **state(base, "module.base_encoder."),
        **state(momentum, "module.momentum_encoder."),
        **heads,
        "module.predictor.0.weight": torch.ones(3, 3),
    }
    return Row(training(arch="vit_small", state_dict=entries), base, "MoCo v3", "base")


def simsiam() -> Row:
    module = resnet()
    heads = {"module.encoder.fc.0.weight": torch.ones(3, 3), "module.predictor.0.weight": torch.ones(3, 3)}
    entries = {**state(module, "module.encoder."), **heads}
    return Row(training(arch="resnet18", state_dict=entries), module, "unknown", "module.encoder")


def byol() -> Row:
    online, target = resnet(0), resnet(1)
    parts = {
        f"{name}_network_state_dict": {
            **sequential(module, "encoder.", with_pool=True),
            **prefixed(HEAD, "projetion.net."),
        }
        for name, module in (("online", online), ("target", target))
    }
    return Row({**parts, "optimizer_state_dict": {}}, online, "BYOL (sthalles)", "online")


def byol_lucidrains() -> Row:
    online, target = resnet(0), resnet(1)
    entries = {
        **state(online, "online_encoder.net."),
        **state(target, "target_encoder.net."),
        **prefixed(HEAD, "online_encoder.projector."),
        **prefixed(HEAD, "online_predictor."),
    }
    return Row(entries, online, "BYOL (lucidrains)", "online")


def simclr_sthalles() -> Row:
    module = resnet()
    entries = {**state(module, "backbone."), **prefixed(HEAD, "backbone.fc.")}
    return Row(training(arch="resnet18", state_dict=entries), module, "unknown", "backbone")


def simclr_spijkervet() -> Row:
    module = resnet(small=True)
    entries = {**state(module, "module.encoder."), **prefixed(HEAD, "module.projector.")}
    return Row(entries, module, "unknown", "module.encoder")


def sslmem_simclr() -> Row:
    module = resnet(small=True)
    return Row({**sequential(module, "f.", with_pool=False), **prefixed(HEAD, "g.")}, module, "SSLMem (SimCLR)", "f")


def sslmem_vicreg() -> Row:
    module = resnet(small=True)
    module.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
    entries = {**sequential(module, "encoder.", with_pool=True), **prefixed(HEAD, "expander.")}
    return Row(training(model=entries), module, "SSLMem (VICReg)", "encoder")


def dejavu() -> Row:
    module = resnet()
    entries = {**state(module, "module.net."), **prefixed(HEAD, "module.projector.")}
    content = training(model=entries, probes={"weight": torch.ones(3, 3)}, optimizer_probes={})
    return Row(content, module, "DejaVu", "module.net")


def vicreg() -> Row:
    module = resnet()
    entries = {**state(module, "module.backbone."), **prefixed(HEAD, "module.projector.")}
    return Row(training(model=entries), module, "unknown", "module.backbone")


def barlow_twins() -> Row:
    module = resnet()
    bn = {"module.bn.running_mean": torch.ones(3), "module.bn.running_var": torch.ones(3)}
    entries = {**state(module, "module.backbone."), **prefixed(HEAD, "module.projector."), **bn}
    return Row(training(model=entries), module, "Barlow Twins", "module.backbone")


def swav() -> Row:
    module = resnet()
    heads = {**prefixed(HEAD, "module.projection_head."), "module.prototypes.weight": torch.ones(3, 3)}
    return Row({**state(module, "module."), **heads}, module, "SwAV", "module")


# Frameworks


def lightning(entries: dict[str, Tensor]) -> dict[str, Any]:
    return {
        "epoch": 3,
        "global_step": 10,
        "pytorch-lightning_version": "2.5",
        "state_dict": entries,
        "callbacks": {"ModelCheckpoint": {"best": torch.ones(1)}},
        "optimizer_states": [{"state": {0: {"momentum_buffer": torch.ones(3)}}}],
        "lr_schedulers": [],
        "hyper_parameters": {"method": "x", "lr": 0.1},
    }


def solo_learn() -> Row:
    """Its small stem pads by two pixels."""
    module, momentum = resnet(0, small=True), resnet(1, small=True)
    for one in (module, momentum):
        one.get_submodule("conv1").__dict__["padding"] = (2, 2)
    entries = {
        **state(module, "backbone."),
        **state(momentum, "momentum_backbone."),
        **prefixed(HEAD, "projector."),
        **prefixed(HEAD, "momentum_projector."),
        "classifier.weight": torch.ones(10, 512),
    }
    return Row(lightning(entries), module, "solo-learn", "backbone")


def lightly() -> Row:
    module, momentum = resnet(0), resnet(1)
    entries = {
        **sequential(module, "backbone.", with_pool=True),
        **sequential(momentum, "backbone_momentum.", with_pool=True),
        **prefixed(HEAD, "projection_head.layers."),
        **prefixed(HEAD, "projection_head_momentum.layers."),
    }
    return Row(lightning(entries), module, "lightly", "backbone")


def lightly_train() -> Row:
    """Live modules beside a state dict of the training."""
    module = vit()
    content = {"lightly_train": {"version": "0.18", "models": {"model": module}, "normalize_args": {"mean": (0.5,)}}}
    return Row(content, module, "unknown", "root")


def lightning_generic() -> Row:
    module = vit()
    return Row(lightning(state(module, "learner.net.")), module, "unknown", "learner.net")


def timm_with_average() -> Row:
    ema, raw = vit(0), vit(1)
    return Row(training(state_dict=state(raw), state_dict_ema=state(ema)), ema, PRODUCERS[-2].name, "ema")


def torchvision_reference() -> Row:
    ema, raw = resnet(0), resnet(1)
    content = training(
        model=state(raw), model_ema={**state(ema, "module."), "n_averaged": torch.tensor(3)}, lr_scheduler={}
    )
    return Row(content, ema, PRODUCERS[-2].name, "ema")


def open_clip_tower() -> Row:
    import open_clip  # noqa: PLC0415  takes seconds

    torch.manual_seed(0)
    whole = open_clip.model.CLIP(
        embed_dim=32,
        vision_cfg=open_clip.CLIPVisionCfg(layers=2, width=128, head_width=64, patch_size=8, image_size=32),
        text_cfg=open_clip.CLIPTextCfg(context_length=8, vocab_size=16, width=32, heads=2, layers=1),
    )
    randomize(whole)
    visual = whole.visual
    entries = state(whole, "module.")
    visual.proj = None  # what is measured is before the projection to the space of texts
    return Row({"epoch": 3, "name": "x", "state_dict": entries}, visual, "open_clip", "module.visual")


ROWS = [
    mae, mae_finetuned, sslmem_mae, ijepa, dino, dino_student, dino_without_prefix, dino_released, dino_resnet, ibot,
    dinov2, moco, moco_v3, simsiam, byol, byol_lucidrains, simclr_sthalles, simclr_spijkervet, sslmem_simclr,
    sslmem_vicreg, dejavu, vicreg, barlow_twins, swav, solo_learn, lightly, lightly_train, lightning_generic,
    timm_with_average, torchvision_reference, open_clip_tower,
]  # fmt: skip


@pytest.mark.parametrize("make", ROWS)
def test_checkpoint_of_a_producer_loads_as_it_lies_on_disk(tmp_path: Path, make: Callable[[], Row]) -> None:
    row = make()
    encoder = load_checkpoint(save_torch(row.content, tmp_path / "c"), input_size=32, **row.told)
    report = encoder.report
    assert (report.producer, report.branch) == (row.producer, row.branch)
    views = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor(encoder.mean)[:, None, None], torch.tensor(encoder.std)[:, None, None]
    with torch.inference_mode():
        expected = row.original((views - mean) / std).flatten(1)
    assert expected.std(dim=0).mean() > 1e-3  # different images do differ
    torch.testing.assert_close(encoder.represent(views), expected, rtol=1e-4, atol=1e-4)


# No guesses


def test_branches_that_were_not_taken_are_named(tmp_path: Path) -> None:
    report = load_checkpoint(save_torch(dino().content, tmp_path / "c")).report
    assert report.other_branches == ["student"]
    assert report.dropped_because["another encoder: student"] == len(vit().state_dict())
    assert report.dropped_because["the projection head"] == 4


def test_branch_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    path = save_torch(dino().content, tmp_path / "c")
    with pytest.raises(AmbiguousCheckpoint, match="expected one of teacher, student"):
        load_checkpoint(path, branch="ema")


def test_two_encoders_of_nobody_known_are_not_chosen_between(tmp_path: Path) -> None:
    path = save_torch({**state(vit(0), "one."), **state(vit(1), "two.")}, tmp_path / "c")
    with pytest.raises(AmbiguousCheckpoint, match="--branch one or two"):
        load_checkpoint(path)
    assert load_checkpoint(path, branch="two").report.prefix == "two."


def test_entries_that_belong_nowhere_are_refused_for_known_producers_too(tmp_path: Path) -> None:
    content = dino().content
    content["teacher"]["backbone.extra.weight"] = torch.ones(3)
    with pytest.raises(StateDictMismatch, match=r"teacher/backbone\.extra\.weight"):
        load_checkpoint(save_torch(content, tmp_path / "c"))


def test_missing_block_is_an_error(tmp_path: Path) -> None:
    entries = {name: tensor for name, tensor in state(vit()).items() if not name.startswith("blocks.1.")}
    with pytest.raises(StateDictMismatch, match="2 of 3"):
        load_checkpoint(save_torch(entries, tmp_path / "c"))


def test_what_weights_do_not_show_is_noted_and_can_be_told(tmp_path: Path) -> None:
    module = vit(num_heads=6)
    path = save_torch(state(module), tmp_path / "c")
    assert any(
        note.startswith("num_heads 3, which weights do not show") for note in load_checkpoint(path).report.inferred
    )
    encoder = load_checkpoint(path, options={"num_heads": 6})
    views = torch.rand(2, 3, 32, 32)
    mean, std = torch.tensor(encoder.mean)[:, None, None], torch.tensor(encoder.std)[:, None, None]
    with torch.inference_mode():
        torch.testing.assert_close(encoder.represent(views), module((views - mean) / std), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{"heads": 3}, {"num_heads": "3"}, {"num_heads": 5}, {"activation": "relu"}])
def test_option_that_makes_no_sense_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    path = save_torch(state(vit()), tmp_path / "c")
    with pytest.raises(SpecError):
        load_checkpoint(path, options=options)


def test_shard_of_a_larger_model_is_refused_as_one(tmp_path: Path) -> None:
    path = save_torch({"model": {"teacher.backbone._flat_param": torch.ones(9)}}, tmp_path / "model.rank_0.pth")
    with pytest.raises(UnreadableCheckpoint, match="one rank is not a model"):
        load_checkpoint(path)


def test_encoder_of_videos_is_refused_as_one(tmp_path: Path) -> None:
    entries = {**state(vit()), "patch_embed.proj.weight": torch.ones(192, 3, 2, 8, 8)}
    with pytest.raises(StateDictMismatch, match="an encoder of videos"):
        load_checkpoint(save_torch(entries, tmp_path / "c"))


@pytest.mark.parametrize("make", [dinov2, moco, sslmem_mae])
def test_encoder_loads_again_by_the_name_it_was_given(tmp_path: Path, make: Callable[[], Row]) -> None:
    """A worker and ``verify`` load by the architecture and branch of the report."""
    path = save_torch(make().content, tmp_path / "c")
    first = load_checkpoint(path, input_size=32)
    again = load_checkpoint(path, architecture=first.report.architecture, branch=first.report.branch, input_size=32)
    assert again.report == first.report
    assert again.weights_digest == first.weights_digest
