"""Plain vision transformers, read as timm's: those of DINO, MAE and others, open_clip, torchvision, transformers."""

from functools import partial
from typing import Any

import timm.layers
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from sslmem.encoders.layouts.base import MAX_INPUT_SIZE, Entries, Found, Read, Renamed, Rules, check_width, square
from sslmem.encoders.settings import Chooser
from sslmem.errors import StateDictMismatch

ACTIVATIONS = {
    "gelu": nn.GELU,
    "quick_gelu": timm.layers.QuickGELU,
    "gelu_tanh": timm.layers.GELUTanh,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
}
POOLINGS = {"token": "the class token", "avg": "the mean of the patch tokens", "map": "attention over the tokens"}
# Heads of the published sizes, by width; where a width is not among them each head has 64 channels.
HEADS_BY_WIDTH = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1536: 24}
SIZES = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge", 1408: "giant", 1536: "giant"}

# DINOv2 writes blocks in chunks when it trains with FSDP: blocks.CHUNK.BLOCK, where BLOCK counts through.
_VIT = ((r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."), (r"\.mlp\.w12\.", ".mlp.fc1."), (r"\.mlp\.w3\.", ".mlp.fc2."),
        (r"^register_tokens$", "reg_token"))  # fmt: skip
_SSLMEM_MAE = (
    (r"^pos_embedding$", "pos_embed"), (r"^patchify\.", "patch_embed.proj."), (r"^transformer\.", "blocks."),
    (r"^layer_norm\.", "norm."),
)  # fmt: skip
_CLIP = (
    (r"^conv1\.", "patch_embed.proj."), (r"^positional_embedding$", "pos_embed"), (r"^class_embedding$", "cls_token"),
    (r"^transformer\.resblocks\.", "blocks."), (r"^ln_pre\.", "norm_pre."), (r"^ln_post\.", "norm."),
    (r"\.ln_(\d)\.", r".norm\1."), (r"\.in_proj_", ".qkv."), (r"\.out_proj\.", ".proj."), (r"\.c_fc\.", ".fc1."),
    (r"\.c_proj\.", ".fc2."),
)  # fmt: skip
_TORCHVISION = (
    (r"^conv_proj\.", "patch_embed.proj."), (r"^class_token$", "cls_token"), (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.layers\.encoder_layer_", "blocks."), (r"^encoder\.ln\.", "norm."), (r"\.ln_(\d)\.", r".norm\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."), (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(0|linear_1)\.", ".mlp.fc1."), (r"\.mlp\.(3|linear_2)\.", ".mlp.fc2."),
)  # fmt: skip
# transformers, of version 4 (encoder.layer.N.attention.attention.query) and of version 5 (layers.N.attention.q_proj).
HUGGING_FACE = (
    (r"^embeddings\.patch_embeddings\.(projection\.)?", "patch_embed.proj."),
    (r"^embeddings\.(cls_token|mask_token)$", r"\1"), (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^(encoder\.layer|encoder\.layers|layers|layer|model\.layer)\.(\d+)\.", r"blocks.\2."),
    (r"^layernorm\.", "norm."), (r"\.(layernorm_before|norm1)\.", ".norm1."),
    (r"\.(layernorm_after|norm2)\.", ".norm2."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.q_proj\.", ".attn.query."), (r"\.attention\.k_proj\.", ".attn.key."),
    (r"\.attention\.v_proj\.", ".attn.value."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"^(blocks\.\d+)\.intermediate\.dense\.", r"\1.mlp.fc1."), (r"^(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."), (r"\.mlp\.weights_out\.", ".mlp.fc2."), (r"\.mlp\.down_proj\.", ".mlp.fc2."),
)  # fmt: skip
HUGGING_FACE_UNUSED = (
    (r"^embeddings\.mask_token$", "a token of the training"),
    (r"^pooler\.", "a head"),
)


def join_attention(renamed: Renamed, depth: int) -> None:
    """Puts query, key and value into one entry, and gate and input of a gated layer."""
    for i in range(depth):
        for kind in ("weight", "bias"):
            attention = [f"blocks.{i}.attn.{name}.{kind}" for name in ("query", "key", "value")]
            renamed.join(attention, f"blocks.{i}.attn.qkv.{kind}", torch.cat)
            gated = [f"blocks.{i}.mlp.{name}.{kind}" for name in ("gate_proj", "up_proj")]
            renamed.join(gated, f"blocks.{i}.mlp.fc1.{kind}", torch.cat)


def _vit(rules: Rules, eps: float, entries: Entries, chooser: Chooser) -> Found:
    renamed = Renamed(entries, rules, HUGGING_FACE_UNUSED if rules is HUGGING_FACE else ())
    if rules is HUGGING_FACE:
        join_attention(renamed, renamed.count(r"blocks\.(\d{1,4})\."))
        eps = 1e-6 if "blocks.0.ls1.gamma" in renamed else eps  # as DINOv2 has it
    for name, dims in (("cls_token", 3), ("pos_embed", 3)):
        while name in renamed and renamed[name].ndim < dims:
            renamed.replace(name, renamed[name].unsqueeze(0))
    if "pos_embed" in renamed and renamed["pos_embed"].shape[0] != 1:  # SSLMem's: [N, 1, D]
        renamed.replace("pos_embed", renamed["pos_embed"].transpose(0, 1))
    return _as_timm(renamed, eps, chooser)


def patches_of(renamed: Renamed) -> tuple[int, int]:
    """Width and side of the patches.

    Raises:
        StateDictMismatch: they are not square, or of videos.
    """
    patch = renamed["patch_embed.proj.weight"]
    if patch.ndim == 5:
        raise StateDictMismatch("an encoder of videos (its patches have a duration); expected one of images")
    if patch.ndim != 4 or patch.shape[2] != patch.shape[3]:
        raise StateDictMismatch(f"expected square patches; found {list(patch.shape)}")
    check_width(patch.shape[0])
    return patch.shape[0], patch.shape[-1]


def _split_positions(renamed: Renamed, notes: list[str]) -> tuple[bool, int]:
    """Whether positions are of the patches alone, and how many patches a row has."""
    positions = renamed["pos_embed"]
    if positions.ndim != 3:
        raise StateDictMismatch(f"expected positions of tokens; found {list(positions.shape)}")
    tokens = positions.shape[1]
    if "reg_token" in renamed and "cls_token" in renamed and square(tokens - 1):
        # DINOv2: positions are of class and patch tokens, registers come between. timm: of patch tokens alone.
        renamed.replace("cls_token", renamed["cls_token"] + positions[:, :1])
        renamed.replace("pos_embed", positions[:, 1:])
        notes.append("the position of the class token is added to it, as timm has it")
        tokens -= 1
    alone = square(tokens)
    return bool(alone), alone or square(tokens - 1)


def _as_timm(renamed: Renamed, eps: float, chooser: Chooser) -> Found:
    width, side = patches_of(renamed)
    depth = renamed.count(r"blocks\.(\d{1,4})\.")
    notes: list[str] = []
    alone, grid = _split_positions(renamed, notes)
    if not grid or grid * side > MAX_INPUT_SIZE:
        raise StateDictMismatch(f"expected positions of a square image; found {renamed['pos_embed'].shape[1]} of them")
    registers = renamed["reg_token"].shape[1] if "reg_token" in renamed else 0
    has_class, has_map = "cls_token" in renamed, "attn_pool.latent" in renamed
    hidden = _hidden(renamed, "blocks.0.mlp.fc1.weight", 4 * width)
    swiglu = "blocks.0.mlp.fc2.weight" in renamed and hidden == 2 * renamed["blocks.0.mlp.fc2.weight"].shape[-1]
    heads = chooser.heads(width, HEADS_BY_WIDTH.get(width) or max(1, width // 64))
    activation = "silu" if swiglu else chooser.one_of("activation", "gelu", ACTIVATIONS)
    epsilon = chooser.choose("norm_eps", eps)
    average = "fc_norm.weight" in renamed
    pooling = "map" if has_map else chooser.one_of("pooling", "token" if has_class and not average else "avg", POOLINGS)
    if pooling == "token" and not has_class:
        raise StateDictMismatch("the encoder has no class token; expected another pooling")
    kwargs: dict[str, Any] = {
        "patch_size": side,
        "embed_dim": width,
        "depth": depth,
        "num_heads": heads,
        "num_classes": 0,
        "mlp_ratio": (hidden + 0.5) / width,
        "qkv_bias": "blocks.0.attn.qkv.bias" in renamed,
        "init_values": 1.0 if "blocks.0.ls1.gamma" in renamed else None,
        "class_token": has_class,
        "no_embed_class": alone and has_class,
        "reg_tokens": registers,
        "pre_norm": "norm_pre.weight" in renamed,
        "global_pool": pooling,
        "fc_norm": average,
        "norm_layer": partial(nn.LayerNorm, eps=epsilon),
        "act_layer": nn.SiLU if swiglu else ACTIVATIONS[activation],
        "weight_init": "skip",
    }
    if swiglu:
        kwargs["mlp_layer"] = timm.layers.SwiGLUPacked
    size = SIZES.get(width, f"w{width}")
    shown = f"width {width}, {depth} blocks, {heads} heads, patches of {side}, {activation}, eps {epsilon:g}"
    return Found(
        renamed.entries,
        renamed.sources,
        build=lambda size: VisionTransformer(img_size=size, **kwargs),
        architecture=f"vit_{size}_patch{side}" + (f"_reg{registers}" if registers else ""),
        input_size=grid * side,
        unused=renamed.unused,
        notes=[shown, f"pooling: {POOLINGS[pooling]}", *notes],
    )


def _hidden(renamed: Renamed, name: str, default: int) -> int:
    weight: Tensor | None = renamed.entries.get(name)
    return default if weight is None else weight.shape[0]


LAYOUTS: tuple[tuple[str, tuple[tuple[str, ...], ...], Read], ...] = (
    (
        "patch_embed.proj.weight",
        (("blocks.0.norm1.weight", "blocks.0.0.norm1.weight"), ("pos_embed",)),
        partial(_vit, _VIT, 1e-6),
    ),
    ("patchify.weight", (("pos_embedding",), ("transformer.0.norm1.weight",)), partial(_vit, _SSLMEM_MAE, 1e-5)),
    ("class_embedding", (("conv1.weight",), ("transformer.resblocks.0.ln_1.weight",)), partial(_vit, _CLIP, 1e-5)),
    (
        "conv_proj.weight",
        (("class_token",), ("encoder.layers.encoder_layer_0.ln_1.weight",)),
        partial(_vit, _TORCHVISION, 1e-6),
    ),
    (
        "embeddings.patch_embeddings.projection.weight",
        (
            ("embeddings.position_embeddings",),
            (
                "encoder.layer.0.attention.attention.query.weight",
                "encoder.layer.0.attention.q_proj.weight",
                "layers.0.attention.q_proj.weight",
            ),
        ),
        partial(_vit, HUGGING_FACE, 1e-12),
    ),
)
