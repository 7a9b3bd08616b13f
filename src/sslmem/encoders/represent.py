"""Which tensor of an encoder is measured: chosen by name, so that a report can say what was audited.

``pooled``      what the encoder returns: a ResNet's average over positions, a ViT's class token unless it was built
                to average
``cls``         the class token after the last norm
``mean``        the mean of the patch tokens after the last norm, without class and register tokens; of a
                convolutional network the mean over positions
``tokens``      class and patch tokens, or the last feature map, flattened
``layer:NAME``  the output of the submodule NAME, flattened
``head``        the projection head's output, where the checkpoint holds a head that is a plain MLP
"""

from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from sslmem.errors import SpecError

Extract = Callable[[Tensor], Tensor]

# Methods whose objective does not reach the class token, or that have none: their mean of patch tokens is what
# downstream tasks use (method document of MAE: He et al. 2022, section 4; I-JEPA: Assran et al. 2023).
MEAN_METHODS = frozenset({"mae", "simmim", "ijepa"})
# The submodule whose output holds tokens or the last feature map, in networks that cannot be asked for features.
FEATURE_LAYERS = ("layer4", "features", "encoder")


def default_representation(module: nn.Module, method: str | None) -> str:
    """The tensor that is measured unless another is asked for.

    Args:
        module: the encoder.
        method: how it was trained, such as ``simclr``, ``dino`` or ``mae``; None if unknown.
    """
    return "mean" if (method or "").lower() in MEAN_METHODS and has_tokens(module) else "pooled"


def has_tokens(module: nn.Module) -> bool:
    """Whether an encoder is a transformer over tokens, of timm or torchvision."""
    return hasattr(module, "pos_embed") or hasattr(module, "class_token")


def extractor(module: nn.Module, representation: str, head: nn.Module | None = None) -> Extract:
    """Returns the function from normalised views ``[M, 3, S, S]`` to the chosen tensor ``[M, D]``.

    Args:
        module: the encoder.
        representation: one of the names above.
        head: the projection head, for ``head``.

    Raises:
        SpecError: the encoder has no such tensor.
    """
    kind, _, name = representation.partition(":")
    if kind == "pooled":
        return lambda views: module(views).flatten(1)
    if kind == "head":
        if head is None:
            raise SpecError("the checkpoint holds no projection head that is a plain MLP; expected another tensor")
        projection = head
        return lambda views: projection(module(views).flatten(1))
    if kind == "layer":
        return _layer(module, name)
    features, num_prefix = _features(module), _num_prefix_tokens(module)
    if kind == "cls" and num_prefix == 0:
        raise SpecError("the encoder has no class token; expected pooled, mean, tokens or layer:NAME")
    match kind:
        case "cls":
            return lambda views: features(views)[:, 0]
        case "mean":
            return lambda views: _mean(features(views), num_prefix)
        case "tokens":
            return lambda views: _without_registers(features(views), num_prefix).flatten(1)
        case _:
            raise SpecError(f"expected pooled, cls, mean, tokens, head or layer:NAME; found {representation!r}")


def _mean(features: Tensor, num_prefix: int) -> Tensor:
    return features[:, num_prefix:].mean(dim=1) if features.ndim == 3 else features.mean(dim=(-2, -1))


def _without_registers(features: Tensor, num_prefix: int) -> Tensor:
    if features.ndim == 3 and num_prefix > 1:  # class token, registers, patches
        return torch.cat([features[:, :1], features[:, num_prefix:]], dim=1)
    return features


def _num_prefix_tokens(module: nn.Module) -> int:
    if hasattr(module, "class_token"):  # torchvision
        return 1
    return int(getattr(module, "num_prefix_tokens", 0)) if has_tokens(module) else 0


def _features(module: nn.Module) -> Extract:
    """Tokens ``[M, T, D]`` or the last feature map ``[M, C, H, W]``."""
    if hasattr(module, "forward_features"):
        features = cast("Extract", module.forward_features)
        if getattr(module, "output_fmt", None) == "NHWC":  # timm's Swin
            return lambda views: features(views).permute(0, 3, 1, 2)
        return features
    for name in FEATURE_LAYERS:
        if isinstance(getattr(module, name, None), nn.Module):
            return _capture(module, name)
    raise SpecError("the encoder's features cannot be told from its output; expected pooled or layer:NAME")


def _layer(module: nn.Module, name: str) -> Extract:
    if name not in dict(module.named_modules()) or not name:
        known = [child for child, _ in module.named_modules() if child and child.count(".") == 0]
        raise SpecError(f"the encoder has no layer {name!r}; its parts are {', '.join(known)}, and those within them")
    captured = _capture(module, name)
    return lambda views: captured(views).flatten(1)


def _capture(module: nn.Module, name: str) -> Extract:
    """The output of a submodule during a pass through the whole encoder."""
    kept: list[Tensor] = []

    def keep(_: nn.Module, __: tuple[Tensor, ...], output: object) -> None:
        if not isinstance(output, Tensor):
            raise SpecError(f"the layer {name} returns no tensor; expected the name of a layer that does")
        kept.append(output)

    module.get_submodule(name).register_forward_hook(keep)

    def run(views: Tensor) -> Tensor:
        kept.clear()
        module(views)
        if len(kept) != 1:
            raise SpecError(f"the layer {name} runs {len(kept)} times a pass; expected one that runs once")
        return kept.pop()

    return run


def build_head(
    entries: Mapping[str, Tensor], module: nn.Module, input_size: int, device: str
) -> tuple[nn.Sequential, str] | None:
    """Builds a projection head out of the entries of one, if it is a plain MLP on the encoder's output.

    Linear layers follow each other, each but the last with a batch norm after it where there is one, and a ReLU.

    Args:
        entries: of the checkpoint that do not belong to the encoder.
        module: the encoder.
        input_size: of its views.
        device: where it is.

    Returns:
        The head in eval mode, and its name; None where there is no such head, or more than one.
    """
    heads: dict[str, list[str]] = {}
    for name in entries:
        parent, _, layer = name.rpartition(".")[0].rpartition(".")
        if layer.isdecimal():
            heads.setdefault(parent, []).append(layer)
    if not heads:
        return None
    with torch.inference_mode():
        width = module(torch.zeros(1, 3, input_size, input_size, device=device)).flatten(1).shape[1]
    built = ((_mlp(entries, name, layers, width), name) for name, layers in heads.items())
    found = [(head.to(device), name) for head, name in built if head is not None]
    return found[0] if len(found) == 1 else None


def _mlp(entries: Mapping[str, Tensor], name: str, layers: list[str], width: int) -> nn.Sequential | None:
    modules: list[nn.Module] = []
    for layer in sorted(set(layers), key=int):
        state = {
            key.removeprefix(f"{name}.{layer}."): value
            for key, value in entries.items()
            if key.startswith(f"{name}.{layer}.")
        }
        weight = state.get("weight")
        if "running_mean" in state and modules:
            norm = nn.BatchNorm1d(width, affine=weight is not None)
            state.setdefault("num_batches_tracked", torch.tensor(0))
            modules.append(_filled(norm, state))
        elif weight is not None and weight.ndim == 2 and weight.shape[1] == width:
            if modules:
                modules.append(nn.ReLU(inplace=True))
            width = weight.shape[0]
            modules.append(_filled(nn.Linear(weight.shape[1], width, bias="bias" in state), state))
        else:
            return None
    return nn.Sequential(*modules).eval() if modules else None


def _filled(module: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    module.load_state_dict(dict(state), strict=True)
    return module
