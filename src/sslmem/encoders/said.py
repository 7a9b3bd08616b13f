"""What a checkpoint says of its encoder besides the weights: the settings files that lie in its folder, or in it.

The reader (:mod:`sslmem.encoders.reader`) writes them into the plain file's header as they are. Nobody vouches for
them; the user's word goes before them, and what they say must fit the weights.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sslmem.errors import SpecError, UnreadableCheckpoint

Three = tuple[float, float, float]
KEY = "sslmem"  # of the header's metadata
# Names that transformers gives to activations that timm knows.
ACTIVATIONS = {
    "gelu": "gelu", "quick_gelu": "quick_gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh", "silu": "silu", "swish": "silu", "relu": "relu",
}  # fmt: skip
CLIP_HEAD_WIDTH = 64
# How encoders of a model type of transformers were trained, where that is always the same.
METHODS = {"vit_mae": "mae", "ijepa": "ijepa", "dinov2": "dinov2", "dinov2_with_registers": "dinov2",
           "dinov3_vit": "dinov3", "dinov3_convnext": "dinov3"}  # fmt: skip


@dataclass(frozen=True)
class Said:
    """What the file says.

    Attributes:
        kind: model type of transformers, such as ``dinov2``.
        architecture: a name of timm or torchvision.
        options: see :mod:`sslmem.encoders.settings`.
        input_size: side of the views in pixels.
        mean: of the normalisation of pixels in [0, 1].
        std: likewise.
        source: the file that says the normalisation.
    """

    kind: str | None = None
    architecture: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    input_size: int | None = None
    mean: Three | None = None
    std: Three | None = None
    source: str = ""


def read_said(metadata: Mapping[str, str] | None) -> Said:
    """Reads what the reader kept of a file in the header of the plain one.

    Raises:
        UnreadableCheckpoint: it is not of the form that such files have.
    """
    text = (metadata or {}).get(KEY)
    if text is None:
        return Said()
    try:
        files = json.loads(text)
        return _merged(files)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError, SpecError) as error:
        reason = error.detail if isinstance(error, SpecError) else f"{type(error).__name__}: {error}"
        raise UnreadableCheckpoint(f"what the file says of its encoder is not of the usual form ({reason})") from error


def _merged(files: Mapping[str, Any]) -> Said:
    found: dict[str, Any] = {"options": {}}
    for name, read in (
        ("facts", _facts),
        ("config.json", _config),
        ("open_clip_config.json", _open_clip),
        ("normalisation", _normalisation),
        ("preprocessor_config.json", _preprocessor),
    ):
        if isinstance(files.get(name), dict):
            part = read(files[name])
            found["options"] |= part.pop("options", {})
            if part.get("mean") is not None:
                part["source"] = name
            found |= {key: value for key, value in part.items() if value is not None}
    return Said(**found)


def _facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """A training checkpoint's own words on its architecture."""
    names = [facts[key] for key in ("arch", "args.arch", "args.model") if isinstance(facts.get(key), str)]
    return {"architecture": names[0] if names else None}


def _config(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config.json`` of transformers, or of timm."""
    if isinstance(config.get("architecture"), str):
        given = config.get("pretrained_cfg") or {}
        size = given.get("input_size")
        return {
            "architecture": config["architecture"],
            "input_size": _side(size[-1]) if size else None,
            **_pair(given.get("mean"), given.get("std")),
        }
    options: dict[str, Any] = {}
    if isinstance(config.get("num_attention_heads"), int):
        options["num_heads"] = config["num_attention_heads"]
    if "layer_norm_eps" in config:
        options["norm_eps"] = _number(config["layer_norm_eps"])
    if isinstance(config.get("hidden_act"), str):
        options["activation"] = ACTIVATIONS.get(config["hidden_act"], config["hidden_act"])
    if "rope_theta" in config:
        options["rope_temperature"] = _number(config["rope_theta"])
    return {"kind": config.get("model_type"), "options": options, "input_size": _side(config.get("image_size"))}


def _open_clip(config: Mapping[str, Any]) -> dict[str, Any]:
    model, preprocess = config.get("model_cfg") or {}, config.get("preprocess_cfg") or {}
    vision = model.get("vision_cfg") or {}
    options: dict[str, Any] = {}
    tower = vision.get("timm_model_name")
    if tower is None:
        options["activation"] = "quick_gelu" if model.get("quick_gelu") else "gelu"
        if "width" in vision:
            options["num_heads"] = int(vision["width"]) // int(vision.get("head_width", CLIP_HEAD_WIDTH))
    return {
        "kind": "open_clip",
        "architecture": tower,
        "options": options,
        "input_size": _side(vision.get("image_size")),
        **_pair(preprocess.get("mean"), preprocess.get("std")),
    }


def _normalisation(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a training checkpoint keeps of the normalisation that it was trained with."""
    return _pair(given.get("mean"), given.get("std"))


def _preprocessor(config: Mapping[str, Any]) -> dict[str, Any]:
    """``preprocessor_config.json`` of transformers: pixels 0 to 255 are scaled, then normalised."""
    scale = 255 * _number(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 255.0
    mean, std = [0.0] * 3, [1.0] * 3
    if config.get("do_normalize", True):
        if config.get("image_mean") is None:
            return {}
        mean, std = config["image_mean"], config["image_std"]
    pair = _pair([_number(m) / scale for m in _channels(mean)], [_number(s) / scale for s in _channels(std)])
    cropped = config.get("crop_size") if config.get("do_center_crop") else None
    return {"input_size": _side(cropped or config.get("size")), **pair}


def _side(size: Any) -> int | None:  # noqa: ANN401  of whatever form the file has
    if isinstance(size, dict):
        size = size.get("height", size.get("shortest_edge"))
    if isinstance(size, list):
        size = size[-1] if size else None
    return size if type(size) is int and size > 0 else None


def _channels(value: Any) -> list[Any]:  # noqa: ANN401
    return list(value) if isinstance(value, (list, tuple)) else [value] * 3


def _number(value: Any) -> float:  # noqa: ANN401
    number = float(value)
    if isinstance(value, (str, bool)) or not math.isfinite(number):
        raise SpecError(f"expected a number; found {value!r}")
    return number


def _pair(mean: Any, std: Any) -> dict[str, Any]:  # noqa: ANN401
    if mean is None or std is None:
        return {}
    means, stds = ([_number(part) for part in _channels(value)] for value in (mean, std))
    if len(means) != 3 or len(stds) != 3 or min(stds) <= 0:
        raise SpecError(f"expected three means and three positive stds; found {means} and {stds}")
    return {"mean": tuple(means), "std": tuple(stds)}
