"""Swin transformers under the names of their authors (and of iBOT), and of timm, read as timm's."""

from functools import partial
from typing import Any

from timm.models.swin_transformer import SwinTransformer
from torch import nn

from sslmem.encoders.layouts import vit
from sslmem.encoders.layouts.base import Entries, Found, Read, Renamed, square
from sslmem.encoders.settings import Chooser
from sslmem.errors import StateDictMismatch

_UNUSED = (
    (r"\.(relative_position_index|attn_mask)$", "computed positions"),
    (r"^masked_embed$", "a token of the training"),
)


def _swin(entries: Entries, chooser: Chooser) -> Found:
    renamed = Renamed(entries, (), _UNUSED)
    if "layers.0.downsample.reduction.weight" in entries:
        # The authors downsample at the end of a stage, timm at the beginning of the next. Last one first.
        for stage in (2, 1, 0):
            for part in ("reduction.weight", "norm.weight", "norm.bias"):
                old, new = f"layers.{stage}.downsample.{part}", f"layers.{stage + 1}.downsample.{part}"
                renamed.join([old], new, lambda parts: parts[0])
    width, side = vit.patches_of(renamed)
    depths = tuple(renamed.count(rf"layers\.{i}\.blocks\.(\d{{1,3}})\.") for i in range(4))
    tables = [renamed[f"layers.{i}.blocks.0.attn.relative_position_bias_table"].shape for i in range(4)]
    window = (square(tables[0][0]) + 1) // 2
    if any(len(table) != 2 or square(table[0]) != 2 * window - 1 for table in tables) or not window:
        raise StateDictMismatch(f"expected square windows of one size; found tables {[list(t) for t in tables]}")
    epsilon = chooser.choose("norm_eps", 1e-5)
    kwargs: dict[str, Any] = {
        "patch_size": side,
        "num_classes": 0,
        "embed_dim": width,
        "depths": depths,
        "num_heads": tuple(table[1] for table in tables),
        "window_size": window,
        "mlp_ratio": renamed["layers.0.blocks.0.mlp.fc1.weight"].shape[0] / width * (1 + 1e-9),  # rounded down
        "norm_layer": partial(nn.LayerNorm, eps=epsilon),
    }
    return Found(
        renamed.entries,
        renamed.sources,
        build=lambda size: SwinTransformer(img_size=size, **kwargs),
        architecture=f"swin_{'-'.join(map(str, depths))}_{width}_window{window}",
        unused=renamed.unused,
        notes=[f"stages of {', '.join(map(str, depths))} blocks, windows of {window}, eps {epsilon:g}"],
    )


LAYOUTS: tuple[tuple[str, tuple[tuple[str, ...], ...], Read], ...] = (
    (
        "patch_embed.proj.weight",
        (("layers.0.blocks.0.attn.relative_position_bias_table",), ("layers.3.blocks.0.norm1.weight",)),
        _swin,
    ),
)
