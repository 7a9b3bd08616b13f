"""Architectures that the operator of a machine installed, for encoders that torchvision and timm do not know.

A package on that machine names them as entry points of the group ``sslmem.architectures``: functions that take the
side of the views in pixels, or None, and return the encoder with any weights. Checkpoints never name code: they name
one of these, or are read under the name that was told. docs/encoders.md has an example.
"""

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

from torch import nn

from sslmem.errors import UnknownArchitecture

GROUP = "sslmem.architectures"
DEFAULT_INPUT_SIZE = 224


def names() -> list[str]:
    """What is registered."""
    return sorted(point.name for point in _points())


def build(name: str, input_size: int | None) -> tuple[nn.Module, int, list[str]]:
    """Builds a registered architecture; see :func:`sslmem.encoders.architectures.build`.

    Raises:
        UnknownArchitecture: it is registered twice, or what is registered gives no module.
    """
    points = [point for point in _points() if point.name == name]
    if len(points) != 1:
        raise UnknownArchitecture(f"the architecture {name} is registered {len(points)} times; expected once")
    function: Callable[[int | None], nn.Module] = points[0].load()
    module = function(input_size)
    if not isinstance(module, nn.Module):
        raise UnknownArchitecture(f"{points[0].value} gives a {type(module).__name__}; expected a torch.nn.Module")
    size = input_size or getattr(module, "input_size", None) or DEFAULT_INPUT_SIZE
    return module, int(size), [f"{name} is registered on this machine, by {points[0].value}"]


def _points() -> list[EntryPoint]:
    return list(entry_points(group=GROUP))
