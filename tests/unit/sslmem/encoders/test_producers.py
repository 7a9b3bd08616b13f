"""Checkpoints as producers write them load untouched, and the encoder is the original one to float precision."""

import argparse
import copy
import re
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
import torchvision
from timm.layers import SwiGLUPacked
from timm.models.convnext import ConvNeXt
from timm.models.eva import Eva
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import Block, VisionTransformer
from timm.models.xcit import Xcit
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from sslmem.encoders.architectures import small_stem_resnet
from sslmem.encoders.load import load_checkpoint
from sslmem.errors import AmbiguousCheckpoint, SpecError, StateDictMismatch, UnreadableCheckpoint
from tests.unit.builders import prefixed, randomize, save_torch

HEAD = {"0.weight": torch.ones(4, 4), "2.weight": torch.ones(4, 4)}
Views = Tensor
AVERAGED = "timm or torchvision, with a moving average"
EPS6 = partial(nn.LayerNorm, eps=1e-6)


class Row(NamedTuple):
    """What a producer saves, and what its encoder computes on views of some size."""

    content: Any
    original: Callable[[Views], Tensor]
    producer: str
    branch: str
    told: Mapping[str, Any] = MappingProxyType({})
    size: int = 32


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


def dinov2_teacher() -> Row:
    """As its evaluation keeps it."""
    module = vit(0, init_values=1e-5)
    content = {**state(module, "backbone."), "backbone.mask_token": torch.ones(1, 192)}
    heads = {"dino_head.mlp.0.weight": torch.ones(3, 3), "ibot_head.mlp.0.weight": torch.ones(3, 3)}
    return Row({"teacher": {**content, **heads}}, module, "DINOv2", "backbone")


def dinov2_released() -> Row:
    options = {"init_values": 1e-5, "reg_tokens": 4, "no_embed_class": True, "mlp_layer": SwiGLUPacked}
    module = vit(0, **options, act_layer=nn.SiLU)
    return Row(as_dinov2(module), Dinov2(module, as_dinov2(module)), "DINOv2 (released)", "root")


def rotary(*, gated: bool) -> Eva:
    """timm's DINOv3, small: heads that no width tells, but the periods of its positions."""
    torch.manual_seed(0)
    module = Eva(
        img_size=32, patch_size=8, embed_dim=192, depth=3, num_heads=6, num_classes=0, qkv_bias=True,
        init_values=1e-5, rope_type="dinov3", rope_temperature=100, rope_rotate_half=True, use_rot_pos_emb=True,
        use_abs_pos_emb=False, num_reg_tokens=4, use_fc_norm=False, dynamic_img_size=True, global_pool="token",
        norm_layer=partial(nn.LayerNorm, eps=1e-5), swiglu_mlp=gated, swiglu_align_to=8 if gated else 0,
    )  # fmt: skip
    randomize(module)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith(("cls_token", "reg_token", "gamma_1", "gamma_2", "bias")):
                parameter.normal_()
    return module.eval()


def as_dinov3(module: Eva) -> dict[str, Tensor]:
    """DINOv3's own names: one bias for queries, keys and values, whose part for the keys a mask holds at zero."""
    names = {"gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma", "reg_token": "storage_tokens", "fc1_g": "w1",
             "fc1_x": "w2", "fc2": "w3"}  # fmt: skip
    gated = any("fc1_g" in name for name in module.state_dict())
    found: dict[str, Tensor] = {}
    for name, tensor in module.state_dict().items():
        new = name
        for old, own in names.items():
            new = new if old == "fc2" and not gated else new.replace(old, own)
        found[new] = tensor
    for i in range(3):
        query, value = found.pop(f"blocks.{i}.attn.q_bias"), found.pop(f"blocks.{i}.attn.v_bias")
        found[f"blocks.{i}.attn.qkv.bias"] = torch.cat([query, torch.full_like(query, 7.0), value])
        found[f"blocks.{i}.attn.qkv.bias_mask"] = torch.cat([torch.ones(192), torch.zeros(192), torch.ones(192)])
    periods = 100 ** (2 * torch.arange(8) / 16)
    norm = {f"local_cls_norm.{kind}": torch.ones(192) for kind in ("weight", "bias")}
    return {**found, "rope_embed.periods": periods, "mask_token": torch.zeros(1, 192), **norm}


def dinov3() -> Row:
    module = rotary(gated=False)
    return Row(as_dinov3(module), module, "DINOv3", "root")


def dinov3_distilled() -> Row:
    """Teacher and student in one training checkpoint, with gated layers."""
    module = rotary(gated=True)
    other = {name: tensor + 1 for name, tensor in as_dinov3(module).items()}
    model = {**prefixed(as_dinov3(module), "teacher.backbone."), **prefixed(other, "student.backbone.")}
    heads = {"teacher.dino_head.mlp.0.weight": torch.ones(3, 3), "student.ibot_head.mlp.0.weight": torch.ones(3, 3)}
    return Row({"model": {**model, **heads}, "iteration": 3}, module, "DINOv3", "teacher")


def convnext(**options: object) -> ConvNeXt:
    torch.manual_seed(0)
    module = ConvNeXt(depths=(1, 1, 2, 1), dims=(16, 32, 48, 64), num_classes=0, **options)
    randomize(module)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("gamma") or ".grn." in name:
                parameter.normal_()
    return module.eval()


def as_convnext(module: ConvNeXt) -> dict[str, Tensor]:
    """Its authors' names, which DINOv3 has, too: the last norm is written twice."""
    rules = (("stem.", "downsample_layers.0."), (r"stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
             (r"\.blocks\.", "."), (r"conv_dw", "dwconv"), (r"mlp\.fc", "pwconv"), (r"head\.norm\.", "norm."),
             (r"mlp\.grn\.weight", "grn.gamma"), (r"mlp\.grn\.bias", "grn.beta"))  # fmt: skip
    found = {}
    for name, tensor in module.state_dict().items():
        new = name
        for pattern, own in rules:
            new = re.sub(pattern, own, new)
        found[new] = tensor[None, None, None] if ".grn." in new else tensor
    return found


def dinov3_convnext() -> Row:
    module = convnext()
    entries = as_convnext(module)
    twice = {f"norms.3.{kind}": entries[f"norm.{kind}"] for kind in ("weight", "bias")}
    return Row({**entries, **twice}, module, "unknown", "root", size=64)


def convnext_v2() -> Row:
    module = convnext(use_grn=True, ls_init_value=None)
    return Row({"model": as_convnext(module)}, module, "unknown", "root", size=64)


def ibot_swin() -> Row:
    """Microsoft's names, in which a stage ends with what timm begins the next one with."""
    torch.manual_seed(0)
    module = SwinTransformer(
        img_size=64, patch_size=4, embed_dim=24, depths=(1, 1, 2, 1), num_heads=(1, 2, 3, 4), window_size=2,
        num_classes=0, norm_layer=EPS6,
    )  # fmt: skip
    randomize(module).eval()
    rules = {f"layers.{i + 1}.downsample.": f"layers.{i}.downsample." for i in range(3)}
    entries = {}
    for name, tensor in module.state_dict().items():
        old = next((old for old in rules if name.startswith(old)), "")
        entries[rules.get(old, "") + name[len(old) :]] = tensor
    extra = {
        "head.mlp.0.weight": torch.ones(3, 3),
        "backbone.masked_embed": torch.ones(1, 24),
        "backbone.layers.0.blocks.0.attn.relative_position_index": torch.zeros(4, 4, dtype=torch.long),
        "backbone.layers.0.blocks.1.attn_mask": torch.zeros(16, 4, 4),
    }
    return Row({"state_dict": {**prefixed(entries, "backbone."), **extra}}, module, "iBOT", "backbone", size=64)


def dino_xcit() -> Row:
    torch.manual_seed(0)
    module = Xcit(img_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=4, num_classes=0, tokens_norm=True)
    randomize(module).eval()
    entries = {name.replace("pos_embed.", "pos_embeder."): tensor for name, tensor in module.state_dict().items()}
    for i in range(2):
        for kind in ("weight", "bias"):
            names = [f"cls_attn_blocks.{i}.attn.{part}.{kind}" for part in "qkv"]
            if names[0] in entries:
                joined = torch.cat([entries.pop(name) for name in names])
                entries[f"cls_attn_blocks.{i}.attn.qkv.{kind}"] = joined
    return Row(training(teacher=prefixed(entries, "backbone."), student=prefixed(entries, "module.backbone.")),
               module, "DINO", "teacher")  # fmt: skip


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


def moco_v3_resnet() -> Row:
    base, momentum = resnet(0), resnet(1)
    heads = {"module.base_encoder.fc.0.weight": torch.ones(3, 3), "module.predictor.0.weight": torch.ones(3, 3)}
    entries = {**state(base, "module.base_encoder."), **state(momentum, "module.momentum_encoder."), **heads}
    return Row(training(arch="resnet18", state_dict=entries), base, "MoCo v3", "base")


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


class Wide(nn.Module):
    """SwAV's residual network, all of whose layers are several times as wide: it pads by one, then by two pixels."""

    def __init__(self, times: int) -> None:
        super().__init__()
        width = 64 * times
        self.padding = nn.ConstantPad2d(1, 0.0)
        self.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        for i in range(4):
            planes, stride = 64 * times * 2**i, 1 if i == 0 else 2
            shortcut = None
            if i:
                shortcut = nn.Sequential(nn.Conv2d(width, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))
            layer = nn.Sequential(BasicBlock(width, planes, stride, shortcut), BasicBlock(planes, planes))
            self.add_module(f"layer{i + 1}", layer)
            width = planes

    def forward(self, views: Views) -> Tensor:
        x = self.maxpool(torch.relu(self.bn1(self.conv1(self.padding(views)))))
        for i in range(4):
            x = self.get_submodule(f"layer{i + 1}")(x)
        out: Tensor = x.mean(dim=(2, 3))
        return out


def swav_wide() -> Row:
    module = randomize(Wide(2)).eval()
    heads = {**prefixed(HEAD, "module.projection_head."), "module.prototypes.weight": torch.ones(3, 3)}
    content = {"epoch": 3, "state_dict": {**state(module, "module."), **heads}, "optimizer": {}, "amp": {}}
    return Row(content, module, "SwAV", "module")


class BatchNormRelu(nn.Sequential):
    def __init__(self, channels: int, *, relu: bool = True) -> None:
        super().__init__(nn.BatchNorm2d(channels), nn.ReLU() if relu else nn.Identity())


class V2Block(nn.Module):
    """A bottleneck as SimCLRv2's converter nests it."""

    def __init__(self, channels: int, inner: int, stride: int, *, first: bool) -> None:
        super().__init__()
        if first:
            self.projection = nn.Module()
            conv = nn.Conv2d(channels, 4 * inner, 1, stride, bias=False)
            self.projection.shortcut = nn.Sequential(conv, BatchNormRelu(4 * inner, relu=False))
        self.net = nn.Sequential(
            nn.Conv2d(channels, inner, 1, bias=False), BatchNormRelu(inner),
            nn.Conv2d(inner, inner, 3, stride, 1, bias=False), BatchNormRelu(inner),
            nn.Conv2d(inner, 4 * inner, 1, bias=False), BatchNormRelu(4 * inner, relu=False),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        projection = getattr(self, "projection", None)
        shortcut = x if projection is None else projection.shortcut(x)
        return torch.relu(shortcut + self.net(x))


def simclr_v2() -> Row:
    def nested(*parts: nn.Module) -> nn.Module:
        holder = nn.Module()
        holder.net = nn.Sequential(*parts)
        return holder

    layers, channels = [], 64
    for i, depth in enumerate((3, 4, 6, 3)):
        inner = 64 * 2**i
        blocks = [
            V2Block(channels if j == 0 else 4 * inner, inner, 2 if i and j == 0 else 1, first=j == 0)
            for j in range(depth)
        ]
        layers.append(nested(*blocks))
        channels = 4 * inner
    stem = nested(nn.Conv2d(3, 64, 7, 2, 3, bias=False), BatchNormRelu(64), nn.MaxPool2d(3, 2, 1))
    module = nested(stem, *layers)
    randomize(module).eval()

    def original(views: Views) -> Tensor:
        for part in module.get_submodule("net").children():
            views = part.get_submodule("net")(views)
        return views.mean(dim=(2, 3))

    head = {"layers.0.weight": torch.ones(3, 3), "layers.1.0.weight": torch.ones(3)}
    return Row({"resnet": module.state_dict(), "head": head}, original, "SimCLRv2 (converter)", "resnet/net")


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


def solo_learn_older() -> Row:
    module = resnet()
    entries = {**state(module, "encoder."), **prefixed(HEAD, "projector."), "classifier.weight": torch.ones(10, 512)}
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


class Wrapped(nn.Module):
    """As LightlyTrain wraps an encoder, twice."""

    def __init__(self, module: nn.Module, name: str) -> None:
        super().__init__()
        self.add_module(name, module)


def lightly_train() -> Row:
    """Live modules, one encoder wrapped twice, beside the state of the training and the normalisation."""
    module, teacher = vit(0), vit(1)
    wrapped = Wrapped(module, "_model")
    models = {"model": module, "wrapped_model": wrapped, "embedding_model": Wrapped(wrapped, "wrapped_model")}
    normalize = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4)}
    content = {
        **lightning({
            **state(module, "student_embedding_model.wrapped_model._model."),
            **state(teacher, "teacher_embedding_model.wrapped_model._model."),
            "student_projection_head.layers.0.weight": torch.ones(3, 3),
        }),
        "lightly_train": {"version": "0.18.0", "date": "2026", "models": models, "normalize_args": normalize,
                          "license_info": None},
    }  # fmt: skip
    return Row(content, module, "LightlyTrain", "model")


def lightly_train_export() -> Row:
    module = vit()
    return Row(state(module), module, "unknown", "root")


def lightning_generic() -> Row:
    module = vit()
    return Row(lightning(state(module, "learner.net.")), module, "unknown", "learner.net")


def timm_with_average() -> Row:
    ema, raw = vit(0), vit(1)
    return Row(training(state_dict=state(raw), state_dict_ema=state(ema)), ema, AVERAGED, "ema")


def torchvision_reference() -> Row:
    ema, raw = resnet(0), resnet(1)
    content = training(
        model=state(raw), model_ema={**state(ema, "module."), "n_averaged": torch.tensor(3)}, lr_scheduler={}
    )
    return Row(content, ema, AVERAGED, "ema")


def torchvision_vit() -> Row:
    torch.manual_seed(0)
    module = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=3, hidden_dim=192, mlp_dim=384
    )
    randomize(module)
    with torch.no_grad():
        module.class_token.normal_()
    entries = state(module)
    module.heads = nn.Identity()
    return Row(training(model=entries), module.eval(), "unknown", "root")


def vissl() -> Row:
    module = resnet()
    trunk, heads = state(module, "_feature_blocks."), {"0.clf.0.weight": torch.ones(3, 3)}
    content = {
        "classy_state_dict": {"base_model": {"model": {"trunk": trunk, "heads": heads}, "meta": {}}},
        "iteration": 3,
    }
    branch = "classy_state_dict/base_model/model/trunk/_feature_blocks"
    return Row(content, module, "VISSL", branch)


def mmselfsup() -> Row:
    module = resnet()
    entries = {**state(module, "backbone."), **prefixed(HEAD, "neck."), "head.fc_cls.weight": torch.ones(3, 3)}
    return Row({"meta": {"epoch": 3}, "state_dict": entries}, module, "mmselfsup", "backbone")


def clip(**options: object) -> nn.Module:
    import open_clip  # noqa: PLC0415  takes seconds

    torch.manual_seed(0)
    whole = open_clip.model.CLIP(
        embed_dim=32,
        vision_cfg=open_clip.CLIPVisionCfg(layers=2, width=128, head_width=64, patch_size=8, image_size=32),
        text_cfg=open_clip.CLIPTextCfg(context_length=8, vocab_size=16, width=32, heads=2, layers=1),
        **options,
    )
    return randomize(whole).eval()


class OpenAi(nn.Module):
    """The names that OpenAI's archives have beside the visual tower."""

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        self.visual, self.transformer = whole.get_submodule("visual"), whole.get_submodule("transformer")
        for name, value in (("input_resolution", 32), ("context_length", 8), ("vocab_size", 16)):
            self.register_buffer(name, torch.tensor(value))
        self.logit_scale = nn.Parameter(torch.ones([]))

    def forward(self, views: Views) -> Tensor:
        return self.visual(views) * self.logit_scale.exp()  # type: ignore[no-any-return]


def openai_clip() -> Row:
    """TorchScript in half precision, with QuickGELU, which no weight shows."""
    whole = clip(quick_gelu=True).half().float()
    visual = copy.deepcopy(whole.get_submodule("visual"))
    with warnings.catch_warnings(action="ignore"):  # torch would rather have us export, which OpenAI did not
        script = torch.jit.trace(OpenAi(whole), torch.zeros(1, 3, 32, 32), check_trace=False).half()
    visual.proj = None  # type: ignore[assignment]
    return Row(script, visual, "OpenAI CLIP", "visual")


def timm_tower(pool: str = "", *, bias: bool = False) -> tuple[nn.Module, dict[str, Tensor]]:
    from open_clip.timm_model import TimmModel  # noqa: PLC0415  takes seconds

    torch.manual_seed(0)
    tower = TimmModel("test_vit", embed_dim=32, image_size=160, pool=pool, proj="linear")
    randomize(tower)
    entries = {
        **state(tower, "visual."),
        "text.token_embedding.weight": torch.ones(3, 3),
        "logit_scale": torch.ones([]),
    }
    return tower.trunk.eval(), entries | ({"logit_bias": torch.ones([])} if bias else {})


def open_clip_timm_tower() -> Row:
    """Its heads are fewer than their width tells."""
    trunk, entries = timm_tower()
    content = {"epoch": 3, "name": "x", "state_dict": prefixed(entries, "module.")}
    return Row(content, trunk, "open_clip", "module.visual.trunk", {"options": {"num_heads": 2}}, size=160)


def open_clip_siglip() -> Row:
    trunk, entries = timm_tower(bias=True)
    return Row(entries, trunk, "open_clip (SigLIP)", "visual.trunk", {"options": {"num_heads": 2}}, size=160)


def open_clip_tower() -> Row:
    whole = clip()
    visual = whole.get_submodule("visual")
    entries = state(whole, "module.")
    visual.proj = None  # type: ignore[assignment]  # what is measured is before the projection to the space of texts
    return Row({"epoch": 3, "name": "x", "state_dict": entries}, visual, "open_clip", "module.visual")


ROWS = [
    mae, mae_finetuned, sslmem_mae, ijepa, dino, dino_student, dino_without_prefix, dino_released, dino_resnet,
    dino_xcit, ibot, ibot_swin, dinov2, dinov2_teacher, dinov2_released, dinov3, dinov3_distilled, dinov3_convnext,
    convnext_v2, moco, moco_v3, moco_v3_resnet, simsiam, byol, byol_lucidrains, simclr_sthalles, simclr_spijkervet,
    simclr_v2, sslmem_simclr, sslmem_vicreg, dejavu, vicreg, barlow_twins, swav, swav_wide, solo_learn,
    solo_learn_older, lightly, lightly_train, lightly_train_export, lightning_generic, timm_with_average,
    torchvision_reference, torchvision_vit, vissl, mmselfsup, open_clip_tower, open_clip_timm_tower, open_clip_siglip,
    openai_clip,
]  # fmt: skip


def save(content: object, path: Path) -> Path:
    if isinstance(content, torch.jit.ScriptModule):
        with warnings.catch_warnings(action="ignore"):
            torch.jit.save(content, path)
        return path
    return save_torch(content, path)


@pytest.mark.parametrize("make", ROWS)
def test_checkpoint_of_a_producer_loads_as_it_lies_on_disk(tmp_path: Path, make: Callable[[], Row]) -> None:
    row = make()
    encoder = load_checkpoint(save(row.content, tmp_path / "c"), input_size=row.size, **row.told)
    report = encoder.report
    assert (report.producer, report.branch) == (row.producer, row.branch)
    views = torch.rand(3, 3, row.size, row.size, generator=torch.Generator().manual_seed(0))
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


@pytest.mark.parametrize("options", [{"heads": 3}, {"num_heads": "3"}, {"num_heads": 5}, {"activation": "tanh"}])
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


@pytest.mark.parametrize("make", [dinov2, dinov3, moco, sslmem_mae, ibot_swin, dino_xcit])
def test_encoder_loads_again_by_the_name_it_was_given(tmp_path: Path, make: Callable[[], Row]) -> None:
    """A worker and ``verify`` load by the architecture and branch of the report."""
    path = save_torch(make().content, tmp_path / "c")
    size = make().size
    first = load_checkpoint(path, input_size=size)
    report = first.report
    again = load_checkpoint(
        path, architecture=report.architecture, branch=report.branch, input_size=size, options=report.options
    )
    assert again.report.loaded == report.loaded
    assert {k: v.value for k, v in again.report.settings.items()} == {k: v.value for k, v in report.settings.items()}
    assert again.weights_digest == first.weights_digest


@pytest.mark.parametrize(
    ("make", "mean", "std", "source"),
    [
        (swav, (0.485, 0.456, 0.406), (0.228, 0.224, 0.225), "producer"),
        (open_clip_tower, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711), "producer"),
        (open_clip_siglip, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "producer"),
        (lightly_train, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), "file"),
        (dino, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "default"),
    ],
)
def test_normalisation_is_the_files_or_its_producers_unless_told(
    tmp_path: Path, make: Callable[[], Row], mean: tuple[float, ...], std: tuple[float, ...], source: str
) -> None:
    row = make()
    path = save(row.content, tmp_path / "c")
    encoder = load_checkpoint(path, **row.told)
    assert (encoder.mean, encoder.std) == (mean, std)
    assert {encoder.report.settings[name].source for name in ("mean", "std")} == {source}
    told = load_checkpoint(path, std=(0.1, 0.2, 0.3), **row.told)
    assert (told.mean, told.std) == ((0.485, 0.456, 0.406), (0.1, 0.2, 0.3))
    assert told.report.settings["std"].source == "told"


def test_report_lists_where_every_entry_came_from(tmp_path: Path) -> None:
    content = dinov2().content
    encoder = load_checkpoint(save_torch(content, tmp_path / "c"))
    report = encoder.report
    assert set(report.loaded) == set(encoder.module.state_dict())
    assert report.loaded["reg_token"] == ["teacher.backbone.register_tokens"]
    assert report.loaded["blocks.1.mlp.fc1.weight"] == ["teacher.backbone.blocks.0.1.mlp.w12.weight"]
    read = [name for names in report.loaded.values() for name in names]
    assert sorted([*read, *report.dropped]) == sorted(content["model"])


def test_settings_say_who_said_them(tmp_path: Path) -> None:
    path = save_torch(moco_v3().content, tmp_path / "c")
    told = load_checkpoint(path, options={"activation": "relu"}, input_size=32).report
    sources = {name: setting.source for name, setting in told.settings.items()}
    assert sources["num_heads"] == "producer"
    assert sources["activation"] == sources["input_size"] == "told"
    assert sources["norm_eps"] == sources["pooling"] == "default"
    again = load_checkpoint(path, options=told.options).report
    assert {name: setting.value for name, setting in again.settings.items()} == {
        name: setting.value for name, setting in told.settings.items()
    }


def test_rotary_positions_tell_the_heads_and_nothing_else_is_believed(tmp_path: Path) -> None:
    path = save_torch(dinov3().content, tmp_path / "c")
    assert load_checkpoint(path).report.settings["num_heads"].model_dump() == {"value": 6, "source": "weights"}
    with pytest.raises(SpecError, match="the weights show num_heads 6"):
        load_checkpoint(path, options={"num_heads": 3})


def test_bias_of_the_keys_without_its_mask_is_refused(tmp_path: Path) -> None:
    entries = {name: tensor for name, tensor in dinov3().content.items() if "bias_mask" not in name}
    with pytest.raises(StateDictMismatch, match="bias of the keys"):
        load_checkpoint(save_torch(entries, tmp_path / "c"))
