"""Namings of encoders that the registries do not use, read as entries of the architectures that they are.

Each layout finds where an encoder stands by a few names, and turns its entries into those of a module of torchvision
or timm. What weights cannot show has a default, which is noted; ``Options`` says otherwise.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import timm.layers
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from sslmem.errors import SpecError, StateDictMismatch

Entries = Mapping[str, Tensor]
Options = Mapping[str, Any]
OPTIONS = {"num_heads": int, "norm_eps": float, "activation": str, "stem_padding": int, "max_pool": bool}
ACTIVATIONS = {"gelu": nn.GELU, "quick_gelu": timm.layers.QuickGELU}
# Heads of the published sizes, by width; where a width is not among them each head has 64 channels.
HEADS_BY_WIDTH = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1536: 24}
SIZES = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge", 1408: "giant", 1536: "giant"}
MAX_WIDTH, MAX_DEPTH, MAX_INPUT_SIZE = 8192, 256, 2048


@dataclass(frozen=True)
class Found:
    """An encoder read off entries.

    Attributes:
        entries: under the names of the module.
        sources: of each, the name in the file.
        build: makes the module; None where a named architecture is inferred from the entries.
        architecture: what it is called; None likewise.
        input_size: None where the weights do not show it.
        notes: what was inferred or taken by default, as sentences.
    """

    entries: dict[str, Tensor]
    sources: dict[str, str]
    build: Callable[[], nn.Module] | None = None
    architecture: str | None = None
    input_size: int | None = None
    notes: list[str] = field(default_factory=list)


def find(names: Entries) -> dict[str, Callable[[Entries, Options], Found]]:
    """The layouts of all encoders that stand in the file, by their prefixes."""
    places: dict[str, Callable[[Entries, Options], Found]] = {}
    for name in names:
        for anchor, others, read in LAYOUTS:
            if name != anchor and not name.endswith(("." + anchor, "/" + anchor)):
                continue
            prefix = name[: len(name) - len(anchor)]
            if all(any(prefix + other in names for other in alternatives) for alternatives in others):
                places.setdefault(prefix, read)
    return places


def option(options: Options, name: str, default: Any, notes: list[str]) -> Any:  # noqa: ANN401  of the option's type
    """What was told, or the default with a note that it is one."""
    if name in options:
        return options[name]
    notes.append(f"{name} {default}, which weights do not show: say it if it was another")
    return default


def check_options(told: Options) -> None:
    """Refuses options that no layout has.

    Raises:
        SpecError: the name or the kind of an option is wrong.
    """
    for name, value in told.items():
        kind = OPTIONS.get(name)
        if kind is None or (kind is not float and type(value) is not kind) or (kind is float and type(value) is bool):
            expected = ", ".join(f"{key} ({kind.__name__})" for key, kind in OPTIONS.items())
            raise SpecError(f"expected options among {expected}; found {name}={value!r}")


def rename(entries: Entries, rules: tuple[tuple[str, str], ...]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Renames entries by all the rules in turn.

    Raises:
        StateDictMismatch: two entries would get one name.
    """
    renamed: dict[str, Tensor] = {}
    sources: dict[str, str] = {}
    for name, tensor in entries.items():
        new = name
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new)
        if new in renamed:
            raise StateDictMismatch(f"the entries {sources[new]} and {name} are both {new}")
        renamed[new], sources[new] = tensor, name
    return renamed, sources


def _residual(entries: Entries, _: Options) -> Found:
    return Found(dict(entries), {name: name for name in entries})


def _sequential(first: int, entries: Entries, _: Options) -> Found:
    """A residual network as ``nn.Sequential`` of its children: 0 and 1 are the stem, four layers from ``first`` on."""
    layers = tuple((rf"^{first + i}\.", f"layer{i + 1}.") for i in range(4))
    renamed, sources = rename(entries, ((r"^0\.", "conv1."), (r"^1\.", "bn1."), *layers))
    return Found(renamed, sources, notes=[f"a residual network whose layers are numbered {first} to {first + 3}"])


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


def _vit(rules: tuple[tuple[str, str], ...], eps: float, entries: Entries, options: Options) -> Found:
    """A plain vision transformer, read as timm's."""
    renamed, sources = rename(entries, rules)
    for name, dims in (("cls_token", 3), ("pos_embed", 3)):
        while name in renamed and renamed[name].ndim < dims:
            renamed[name] = renamed[name].unsqueeze(0)
    if "pos_embed" in renamed and renamed["pos_embed"].shape[0] != 1:  # SSLMem's: [N, 1, D]
        renamed["pos_embed"] = renamed["pos_embed"].transpose(0, 1)
    return _as_timm(renamed, sources, eps, options)


def _as_timm(renamed: dict[str, Tensor], sources: dict[str, str], eps: float, options: Options) -> Found:
    patch = renamed["patch_embed.proj.weight"]
    if patch.ndim == 5:
        raise StateDictMismatch("an encoder of videos (its patches have a duration); expected one of images")
    if patch.ndim != 4 or patch.shape[2] != patch.shape[3] or "pos_embed" not in renamed:
        raise StateDictMismatch(f"expected square patches and positions; patches are {list(patch.shape)}")
    width, _, _, side = patch.shape
    blocks = {int(found[1]) for name in renamed if (found := re.match(r"blocks\.(\d{1,4})\.", name))}
    depth = max(blocks, default=-1) + 1
    if not 0 < width <= MAX_WIDTH or not 0 < depth <= MAX_DEPTH or len(blocks) != depth:
        raise StateDictMismatch(
            f"expected a vision transformer whose blocks are complete; found {len(blocks)} of {depth}"
        )
    notes: list[str] = []
    registers = renamed["reg_token"].shape[1] if "reg_token" in renamed else 0
    has_class = "cls_token" in renamed
    tokens = renamed["pos_embed"].shape[1]
    if registers and has_class and _square(tokens - 1):
        # DINOv2: positions are of class and patch tokens, registers come between. timm: of patch tokens alone.
        renamed["cls_token"] = renamed["cls_token"] + renamed["pos_embed"][:, :1]
        renamed["pos_embed"] = renamed["pos_embed"][:, 1:]
        notes.append("the position of the class token is added to it, as timm has it")
        tokens -= 1
    alone = _square(tokens)  # positions of patches alone
    grid = _square(tokens if alone else tokens - 1)
    if not grid or grid * side > MAX_INPUT_SIZE:
        raise StateDictMismatch(f"expected positions of a square image; found {tokens} of them")
    swiglu = "blocks.0.mlp.fc1.weight" in renamed and (
        renamed["blocks.0.mlp.fc1.weight"].shape[0] == 2 * renamed["blocks.0.mlp.fc2.weight"].shape[-1]
    )
    hidden = renamed["blocks.0.mlp.fc1.weight"].shape[0] if "blocks.0.mlp.fc1.weight" in renamed else 4 * width
    heads_default = options.get("heads_by_width", {}).get(width) or HEADS_BY_WIDTH.get(width) or max(1, width // 64)
    heads = option(options, "num_heads", heads_default, notes)
    if heads <= 0 or width % heads:
        raise SpecError(f"expected a number of heads that divides the width {width}; found {heads}")
    activation = option(options, "activation", "gelu", notes) if not swiglu else "silu"
    if activation not in ACTIVATIONS and not swiglu:
        raise SpecError(f"expected an activation among {', '.join(ACTIVATIONS)}; found {activation}")
    epsilon = option(options, "norm_eps", eps, notes)
    average = "fc_norm.weight" in renamed
    kwargs: dict[str, Any] = {
        "img_size": grid * side,
        "patch_size": side,
        "embed_dim": width,
        "depth": depth,
        "num_heads": heads,
        "num_classes": 0,
        "mlp_ratio": (hidden + 0.5) / width,
        "qkv_bias": "blocks.0.attn.qkv.bias" in renamed,
        "init_values": 1.0 if "blocks.0.ls1.gamma" in renamed else None,
        "class_token": has_class,
        "no_embed_class": bool(alone) and has_class,
        "reg_tokens": registers,
        "pre_norm": "norm_pre.weight" in renamed,
        "global_pool": "token" if has_class and not average else "avg",
        "fc_norm": average,
        "norm_layer": partial(nn.LayerNorm, eps=epsilon),
        "weight_init": "skip",
    }
    if swiglu:
        kwargs |= {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": nn.SiLU}
    else:
        kwargs["act_layer"] = ACTIVATIONS[activation]
    size = SIZES.get(width, f"w{width}")
    name = f"vit_{size}_patch{side}" + (f"_reg{registers}" if registers else "")
    shown = f"width {width}, {depth} blocks, {heads} heads, patches of {side}, {activation}, eps {epsilon:g}"
    return Found(renamed, sources, partial(VisionTransformer, **kwargs), name, grid * side, [shown, *notes])


def _square(number: int) -> int:
    root = int(max(number, 0) ** 0.5)
    return root if root * root == number else 0


# The name that tells the place, further names of which one each must stand there, and how to read it.
LAYOUTS: tuple[tuple[str, tuple[tuple[str, ...], ...], Callable[[Entries, Options], Found]], ...] = (
    ("conv1.weight", (("layer1.0.conv1.weight",), ("layer4.0.conv1.weight",)), _residual),
    ("0.weight", (("4.0.conv1.weight",), ("7.0.conv1.weight",)), partial(_sequential, 4)),
    ("0.weight", (("3.0.conv1.weight",), ("6.0.conv1.weight",)), partial(_sequential, 3)),
    ("patch_embed.proj.weight", (("blocks.0.norm1.weight", "blocks.0.0.norm1.weight"),), partial(_vit, _VIT, 1e-6)),
    ("patchify.weight", (("pos_embedding",), ("transformer.0.norm1.weight",)), partial(_vit, _SSLMEM_MAE, 1e-5)),
    (
        "class_embedding",
        (("conv1.weight",), ("transformer.resblocks.0.ln_1.weight",)),
        partial(_vit, _CLIP, 1e-5),
    ),
)
