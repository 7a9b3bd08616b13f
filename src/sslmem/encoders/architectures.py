"""Builds encoders by the name of their architecture, without pretrained weights and without a classifier."""

from collections.abc import Callable, Mapping

import timm
import torch
import torchvision
from torch import nn

from sslmem.encoders import registered
from sslmem.errors import UnknownArchitecture

Shapes = Mapping[str, tuple[int, ...]]

# Widths and depths of residual networks show in the shapes of their weights, so these need not be named.
INFERABLE = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "wide_resnet50_2",
    "wide_resnet101_2",
)
LIBRARIES = ("", "timm", "torchvision", "registered")
DEFAULT_INPUT_SIZE = 224
MAX_INPUT_SIZE = 2048  # as in the score spec
MAX_TOKENS = 2**16
SMALL_STEM_INPUT_SIZE = 32


def build(architecture: str, shapes: Shapes, input_size: int | None) -> tuple[nn.Module, int, list[str]]:
    """Builds the module that ``shapes`` belong to, with random weights.

    Args:
        architecture: a name that torchvision or timm knows; torchvision goes first, a prefix ``timm/`` or
            ``torchvision/`` decides. Then those that the operator registered, see :mod:`sslmem.encoders.registered`.
        shapes: of the checkpoint's entries, without prefix: the 3x3 stem of a ResNet and the patch and input
            size of a ViT show there.
        input_size: side of the input in pixels, if known.

    Returns:
        The module, the input size, and what was inferred, as sentences.

    Raises:
        UnknownArchitecture: neither library knows the name.
    """
    library, _, name = architecture.rpartition("/")
    if library not in LIBRARIES:
        raise UnknownArchitecture(
            f"expected a name such as resnet18, torchvision/NAME, timm/NAME or registered/NAME; found {architecture}"
        )
    if library in ("", "torchvision") and name in torchvision.models.list_models(module=torchvision.models):
        # A ViT is built for one input size; other networks take any.
        module = _torchvision(name, **({"image_size": input_size} if name.startswith("vit_") and input_size else {}))
        notes: list[str] = []
    elif library in ("", "timm") and timm.is_model(name):
        module, notes = _timm(name, shapes, input_size)
    elif library in ("", "registered") and name in registered.names():
        return registered.build(name, input_size)
    else:
        raise UnknownArchitecture(
            f"the architecture {architecture!r} is known to neither torchvision nor timm, nor registered on this "
            "machine; names look like resnet18, resnet50 or vit_tiny_patch16_224"
        )
    small_stem = _fit_stem(module, shapes)
    notes += small_stem
    size = input_size or _own_input_size(module) or (SMALL_STEM_INPUT_SIZE if small_stem else DEFAULT_INPUT_SIZE)
    if input_size is None:
        notes.append(f"input size {size}, the default of the architecture: say it if views were of another size")
    return module, size, notes


def is_known(architecture: str) -> bool:
    """Whether there is an architecture of that name."""
    library, _, name = architecture.rpartition("/")
    return library in LIBRARIES and (
        name in torchvision.models.list_models(module=torchvision.models)
        or bool(timm.is_model(name))
        or name in registered.names()
    )


def infer(shapes: Callable[[nn.Module], str | None]) -> str | None:
    """Returns the largest inferable architecture for which ``shapes(module)`` finds no fault, if there is one.

    A deeper network holds the entries of the shallower ones of its family, so these fit it as well.
    """
    with torch.device("meta"):
        fitting = {name: module for name in INFERABLE if shapes(module := _torchvision(name)) is None}
    return max(fitting, key=lambda name: len(fitting[name].state_dict()), default=None)


def _torchvision(name: str, **options: int) -> nn.Module:
    module: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    # The classifier is the last linear layer; what stands before it (a norm, say) belongs to the encoder.
    linears = [path for path, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    if linears and linears[-1].split(".")[0] in ("fc", "classifier", "heads", "head"):
        module.set_submodule(linears[-1], nn.Identity())
    return module


def _timm(name: str, shapes: Shapes, input_size: int | None) -> tuple[nn.Module, list[str]]:
    options = _vit_options(shapes, input_size)
    if options:
        note = f"patches of {options['patch_size']} pixels, from the shape of patch_embed.proj.weight"
        try:
            return timm.create_model(name, pretrained=False, num_classes=0, **options), [note]
        except TypeError:  # Hiera, for one, has such entries and takes no such options
            pass
    return timm.create_model(name, pretrained=False, num_classes=0), []


def _vit_options(shapes: Shapes, input_size: int | None) -> dict[str, int]:
    """Patch and input size of a plain ViT, whose patches are cut from RGB and whose positions are ``[1, T, D]``."""
    patch, positions = shapes.get("patch_embed.proj.weight", ()), shapes.get("pos_embed", ())
    if len(patch) != 4 or patch[1] != 3 or 0 in patch or len(positions) != 3 or positions[1] > MAX_TOKENS:
        return {}
    side = int(positions[1] ** 0.5)  # a class token or registers are fewer than a further row of patches
    size = input_size or side * patch[-1]
    usable = 0 < size <= MAX_INPUT_SIZE and (size // patch[-1]) ** 2 <= MAX_TOKENS
    return {"patch_size": patch[-1], "img_size": size} if usable else {}


def _own_input_size(module: nn.Module) -> int | None:
    embed = getattr(module, "patch_embed", None)
    size = getattr(embed, "img_size", None) or getattr(module, "image_size", None)
    return size[0] if isinstance(size, tuple) else size if isinstance(size, int) else None


def small_stem_resnet(name: str) -> tuple[nn.Module, int]:
    """Builds a torchvision ResNet with the CIFAR stem and no classifier; returns it with its output width."""
    module = torchvision.models.get_model(name, weights=None)
    width = int(module.fc.in_features)
    module.fc = nn.Identity()
    _give_small_stem(module, module.conv1.out_channels)
    return module, width


def _give_small_stem(module: nn.Module, channels: int) -> None:
    module.conv1 = nn.Conv2d(3, channels, kernel_size=3, stride=1, padding=1, bias=False)
    module.maxpool = nn.Identity()


def _fit_stem(module: nn.Module, shapes: Shapes) -> list[str]:
    """Gives a ResNet the CIFAR stem when the checkpoint's first convolution is 3x3 and the module's is larger."""
    stem, found = getattr(module, "conv1", None), shapes.get("conv1.weight", ())
    if not isinstance(stem, nn.Conv2d) or found[-2:] != (3, 3) or stem.kernel_size == (3, 3):
        return []
    _give_small_stem(module, stem.out_channels)
    return ["CIFAR stem: 3x3 convolution with stride 1 and padding 1, no max-pooling (conv1.weight is 3x3)"]
