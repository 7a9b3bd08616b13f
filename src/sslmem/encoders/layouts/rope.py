"""DINOv3's transformers, of its own code and of transformers: rotary positions, registers, no bias of the keys."""

from functools import partial
from typing import Any

import torch
from timm.models.eva import Eva
from torch import nn

from sslmem.encoders.layouts import vit
from sslmem.encoders.layouts.base import Entries, Found, Read, Renamed
from sslmem.encoders.settings import Chooser
from sslmem.errors import StateDictMismatch

_OWN = ((r"^storage_tokens$", "reg_token"), (r"\.ls(\d)\.gamma$", r".gamma_\1"), (r"\.mlp\.w1\.", ".mlp.fc1_g."),
        (r"\.mlp\.w2\.", ".mlp.fc1_x."), (r"\.mlp\.w3\.", ".mlp.fc2."))  # fmt: skip
_OWN_UNUSED = (
    (r"^rope_embed\.periods$", "computed positions"),
    (r"\.bias_mask$", "the mask that holds the keys' bias at zero"),
    (r"^mask_token$", "a token of the training"),
    (r"^local_cls_norm\.", "a norm of the training"),
)
# What transformers names alike is named alike for all transformers; the layers differ.
_HUGGING_FACE = (
    (r"\.mlp\.up_proj\.", ".mlp.up."), (r"\.mlp\.gate_proj\.", ".mlp.fc1_g."), *vit.HUGGING_FACE,
    (r"\.attn\.query\.bias$", ".attn.q_bias"), (r"\.attn\.value\.bias$", ".attn.v_bias"),
    (r"\.ls(\d)\.gamma$", r".gamma_\1"),
)  # fmt: skip
_HUGGING_FACE_UNUSED = (
    *vit.HUGGING_FACE_UNUSED,
    (r"^rope_embeddings\.", "computed positions"),
)


def _own(entries: Entries, chooser: Chooser) -> Found:
    renamed = Renamed(entries, _OWN, _OWN_UNUSED)
    periods = entries.get("rope_embed.periods")
    masked = "blocks.0.attn.qkv.bias_mask" in entries
    for i in range(renamed.count(r"blocks\.(\d{1,4})\.")):
        name = f"blocks.{i}.attn.qkv.bias"
        if name in renamed:
            query, key, value = renamed[name].chunk(3)
            if not masked and bool((key != 0).any()):
                raise StateDictMismatch(f"{name} has a bias of the keys, which such an encoder has none of")
            renamed.split(name, {f"blocks.{i}.attn.q_bias": query, f"blocks.{i}.attn.v_bias": value})
    heads = renamed["patch_embed.proj.weight"].shape[0] // (4 * len(periods)) if periods is not None else None
    return _as_timm(renamed, heads, chooser)


def _hugging_face(entries: Entries, chooser: Chooser) -> Found:
    renamed = Renamed(entries, _HUGGING_FACE, _HUGGING_FACE_UNUSED)
    gated = "blocks.0.mlp.fc1_g.weight" in renamed
    for i in range(renamed.count(r"blocks\.(\d{1,4})\.")):
        attention = [f"blocks.{i}.attn.{name}.weight" for name in ("query", "key", "value")]
        renamed.join(attention, f"blocks.{i}.attn.qkv.weight", torch.cat)
        for kind in ("weight", "bias"):
            name = f"blocks.{i}.mlp.fc1_x.{kind}" if gated else f"blocks.{i}.mlp.fc1.{kind}"
            renamed.join([f"blocks.{i}.mlp.up.{kind}"], name, lambda parts: parts[0])
    return _as_timm(renamed, None, chooser)


def _as_timm(renamed: Renamed, heads: int | None, chooser: Chooser) -> Found:
    width, side = vit.patches_of(renamed)
    depth = renamed.count(r"blocks\.(\d{1,4})\.")
    gated = "blocks.0.mlp.fc1_g.weight" in renamed
    hidden = renamed["blocks.0.mlp.fc1_g.weight" if gated else "blocks.0.mlp.fc1.weight"].shape[0]
    registers = renamed["reg_token"].shape[1] if "reg_token" in renamed else 0
    if heads is None:
        heads = chooser.heads(width, vit.HEADS_BY_WIDTH.get(width) or max(1, width // 64))
    else:
        chooser.shown("num_heads", heads)
    if heads <= 0 or width % heads:
        raise StateDictMismatch(f"expected rotary positions that fit the width {width}; found {heads} heads")
    only = "silu" if gated else "gelu"
    chooser.one_of("activation", only, {only: None})
    epsilon = chooser.choose("norm_eps", 1e-5)
    temperature = chooser.choose("rope_temperature", 100.0)
    pooling = chooser.one_of("pooling", "token", {name: vit.POOLINGS[name] for name in ("token", "avg")})
    kwargs: dict[str, Any] = {
        "patch_size": side,
        "embed_dim": width,
        "depth": depth,
        "num_heads": heads,
        "num_classes": 0,
        "qkv_bias": "blocks.0.attn.q_bias" in renamed,
        "mlp_ratio": (hidden + 0.5) / width,
        "swiglu_mlp": gated,
        "swiglu_align_to": 1 if gated else 0,
        "init_values": 1.0 if "blocks.0.gamma_1" in renamed else None,
        "num_reg_tokens": registers,
        "global_pool": pooling,
        "use_fc_norm": False,
        "use_abs_pos_emb": False,
        "use_rot_pos_emb": True,
        "rope_type": "dinov3",
        "rope_temperature": temperature,
        "rope_rotate_half": True,
        "dynamic_img_size": True,
        "norm_layer": partial(nn.LayerNorm, eps=epsilon),
    }
    size = vit.SIZES.get(width, f"w{width}")
    shown = f"width {width}, {depth} blocks, {heads} heads, patches of {side}, rotary positions, eps {epsilon:g}"
    return Found(
        renamed.entries,
        renamed.sources,
        build=lambda size: Eva(img_size=size, **kwargs),
        architecture=f"vit_{size}_patch{side}_rope" + (f"_reg{registers}" if registers else ""),
        unused=renamed.unused,
        notes=[shown, f"pooling: {vit.POOLINGS[pooling]}"],
    )


_ANCHOR = "patch_embed.proj.weight"
LAYOUTS: tuple[tuple[str, tuple[tuple[str, ...], ...], Read], ...] = (
    (_ANCHOR, (("storage_tokens", "rope_embed.periods"), ("blocks.0.norm1.weight",)), _own),
    (
        "embeddings.patch_embeddings.weight",
        (("embeddings.register_tokens",), ("layer.0.attention.q_proj.weight", "model.layer.0.attention.q_proj.weight")),
        _hugging_face,
    ),
)
