"""XCiT under the names of its authors (and of DINO's hub), and of timm, read as timm's."""

import re
from typing import Any

from timm.models.xcit import Xcit

from sslmem.encoders.layouts.base import Entries, Found, Read, Renamed, check_width
from sslmem.encoders.settings import Chooser

_OWN = ((r"^pos_embeder\.", "pos_embed."),)
NANO = 128  # the one width whose class attention does not normalise the patch tokens
CONVOLUTIONS = {4: 16, 3: 8}  # of the patches, each halves the sides


def _xcit(entries: Entries, chooser: Chooser) -> Found:
    renamed = Renamed(entries, _OWN)
    width = renamed["cls_token"].shape[-1]
    check_width(width)
    depth = renamed.count(r"blocks\.(\d{1,4})\.")
    class_depth = renamed.count(r"cls_attn_blocks\.(\d{1,4})\.")
    for i in range(class_depth):
        for kind in ("weight", "bias"):
            name = f"cls_attn_blocks.{i}.attn.qkv.{kind}"
            if name in renamed:
                parts = renamed[name].chunk(3)
                renamed.split(name, {name.replace("qkv", part): t for part, t in zip("qkv", parts, strict=True)})
    convolutions = [name for name in renamed.entries if re.fullmatch(r"patch_embed\.proj\.\d\.0\.weight", name)]
    side = CONVOLUTIONS.get(len(convolutions), 16)
    heads = renamed["blocks.0.attn.temperature"].shape[0]
    chooser.shown("num_heads", heads)
    kwargs: dict[str, Any] = {
        "patch_size": side,
        "num_classes": 0,
        "embed_dim": width,
        "depth": depth,
        "num_heads": heads,
        "cls_attn_layers": class_depth,
        "use_pos_embed": any(name.startswith("pos_embed.") for name in renamed.entries),
        "eta": 1.0 if "blocks.0.gamma1" in renamed else None,
        "tokens_norm": width != NANO,
    }
    return Found(
        renamed.entries,
        renamed.sources,
        build=lambda size: Xcit(img_size=size, **kwargs),
        architecture=f"xcit_{depth}_{width}_p{side}",
        notes=[f"XCiT of width {width}, {depth} blocks, {heads} heads, patches of {side}"],
    )


LAYOUTS: tuple[tuple[str, tuple[tuple[str, ...], ...], Read], ...] = (
    ("cls_token", (("blocks.0.attn.temperature",), ("cls_attn_blocks.0.norm1.weight",)), _xcit),
)
