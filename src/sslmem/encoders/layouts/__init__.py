"""Namings of encoders that the registries do not use, read as entries of the architectures that they are.

Each layout finds where an encoder stands by a few names, and turns its entries into those of a module of torchvision
or timm. What weights cannot show is chosen by :class:`sslmem.encoders.settings.Chooser`.
"""

from sslmem.encoders.layouts import convnext, residual, rope, swin, vit, xcit
from sslmem.encoders.layouts.base import Entries, Found, Read

__all__ = ["Entries", "Found", "Read", "find"]

# The name that tells the place, further names of which one each must stand there, and how to read it.
LAYOUTS: tuple[tuple[str, tuple[tuple[str, ...], ...], Read], ...] = (
    *residual.LAYOUTS,
    *rope.LAYOUTS,
    *vit.LAYOUTS,
    *convnext.LAYOUTS,
    *swin.LAYOUTS,
    *xcit.LAYOUTS,
)


def find(names: Entries) -> dict[str, Read]:
    """The layouts of all encoders that stand in the file, by their prefixes."""
    places: dict[str, Read] = {}
    for name in names:
        for anchor, others, read in LAYOUTS:
            if name != anchor and not name.endswith(("." + anchor, "/" + anchor)):
                continue
            prefix = name[: len(name) - len(anchor)]
            if all(any(prefix + other in names for other in alternatives) for alternatives in others):
                places.setdefault(prefix, read)
    return places
