"""ConvNeXt under the names of its authors (and of DINOv3), of timm and of transformers, read as timm's."""

from functools import partial
from typing import Any

from timm.models.convnext import ConvNeXt
from torch import Tensor

from sslmem.encoders.layouts.base import Entries, Found, Read, Renamed, Rules, check_width
from sslmem.encoders.settings import Chooser
from sslmem.errors import StateDictMismatch

_AUTHORS = (
    (r"^downsample_layers\.0\.", "stem."), (r"^downsample_layers\.([1-3])\.", r"stages.\1.downsample."),
    (r"^stages\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2."), (r"\.dwconv\.", ".conv_dw."),
    (r"\.pwconv(\d)\.", r".mlp.fc\1."),
    (r"\.grn\.gamma$", ".mlp.grn.weight"), (r"\.grn\.beta$", ".mlp.grn.bias"), (r"^norm\.", "head.norm."),
)  # fmt: skip
_HUGGING_FACE = (
    (r"^(model\.)?stages\.0\.downsample_layers\.", "stem."),
    (r"^(model\.)?stages\.([1-3])\.downsample_layers\.", r"stages.\2.downsample."),
    (r"^(model\.)?stages\.(\d)\.layers\.(\d+)\.", r"stages.\2.blocks.\3."), (r"\.depthwise_conv\.", ".conv_dw."),
    (r"\.layer_norm\.", ".norm."), (r"\.pointwise_conv(\d)\.", r".mlp.fc\1."), (r"^layer_norm\.", "head.norm."),
)  # fmt: skip
_UNUSED = ((r"^norms\.", "the norm of the last stage, written twice"),)


def _convnext(rules: Rules, entries: Entries, chooser: Chooser) -> Found:
    renamed = Renamed(entries, rules, _UNUSED)
    stem = renamed["stem.0.weight"].shape
    depths = tuple(renamed.count(rf"stages\.{i}\.blocks\.(\d{{1,3}})\.") for i in range(4))
    dims = tuple(renamed[f"stages.{i}.blocks.0.conv_dw.weight"].shape[0] for i in range(4))
    check_width(max(dims))
    if len(stem) != 4 or stem[-1] != stem[-2]:
        raise StateDictMismatch(f"expected a stem of square patches; found {list(stem)}")
    for name in [name for name in renamed.entries if ".grn." in name]:
        renamed.replace(name, renamed[name].flatten())  # the authors': [1, 1, 1, D]
    chooser.one_of("activation", "gelu", {"gelu": None})
    epsilon = chooser.choose("norm_eps", 1e-6)
    first: Tensor = renamed["stages.0.blocks.0.mlp.fc1.weight"]
    kwargs: dict[str, Any] = {
        "num_classes": 0,
        "depths": depths,
        "dims": dims,
        "patch_size": stem[-1],
        "kernel_sizes": renamed["stages.0.blocks.0.conv_dw.weight"].shape[-1],
        "ls_init_value": 1.0 if "stages.0.blocks.0.gamma" in renamed else None,
        "conv_mlp": first.ndim == 4,
        "use_grn": "stages.0.blocks.0.mlp.grn.weight" in renamed,
        "norm_eps": epsilon,
    }
    return Found(
        renamed.entries,
        renamed.sources,
        build=lambda _: ConvNeXt(**kwargs),
        architecture=f"convnext_{'-'.join(map(str, depths))}_{dims[0]}",
        unused=renamed.unused,
        notes=[
            f"stages of {', '.join(map(str, depths))} blocks, {', '.join(map(str, dims))} channels, eps {epsilon:g}"
        ],
    )


LAYOUTS: tuple[tuple[str, tuple[tuple[str, ...], ...], Read], ...] = (
    (
        "downsample_layers.0.0.weight",
        (("stages.0.0.dwconv.weight",), ("stages.3.0.dwconv.weight",)),
        partial(_convnext, _AUTHORS),
    ),
    (
        "stem.0.weight",
        (("stages.0.blocks.0.conv_dw.weight",), ("stages.3.blocks.0.conv_dw.weight",), ("head.norm.weight",)),
        partial(_convnext, ()),
    ),
    *(
        (
            f"{model}stages.0.downsample_layers.0.weight",
            ((f"{model}stages.3.layers.0.depthwise_conv.weight",), ("layer_norm.weight",)),
            partial(_convnext, _HUGGING_FACE),
        )
        for model in ("model.", "")
    ),
)
