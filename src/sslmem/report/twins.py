"""Images that are nearly alike: a candidate with a twin elsewhere cannot be told from one that was memorized, or hides.

Each image becomes 128 bits: whether each cell of a 9 x 9 grid of grey means is brighter than its right and than its
lower neighbour (difference hash, after Krawetz 2013). Copies that were resized, compressed again or made brighter
differ in few bits; crops and turned copies are not found.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sslmem.datasets.image import decode_image
from sslmem.errors import UndecodableImage

GRID = 9
MAX_BITS = 4  # of 128 that may differ between twins

Hashes = NDArray[np.uint64]


def perceptual_hash(pixels: NDArray[np.uint8]) -> Hashes:
    """The hash ``[2]`` of an image ``[H, W, 3]``: 64 bits across, 64 bits down."""
    grey = Image.fromarray(pixels).convert("L").resize((GRID, GRID), Image.Resampling.BILINEAR)
    cells = np.asarray(grey, dtype=np.int16)
    bits = np.stack([cells[:-1, :-1] > cells[:-1, 1:], cells[:-1, :-1] > cells[1:, :-1]])
    return np.packbits(bits.reshape(2, 64), axis=1).view(np.uint64)[:, 0]


def twins_of(
    candidates: Sequence[str], others: Sequence[str], read_image: Callable[[str], bytes]
) -> list[tuple[str, str]]:
    """Pairs of a candidate and a nearly equal image: each candidate that has one, with its nearest.

    Args:
        candidates: paths of the candidates.
        others: paths of the images of other roles.
        read_image: returns the encoded bytes of an image by its path; raises UndecodableImage if it cannot.
    """
    names = [*candidates, *others]
    hashes = [_hash(name, read_image) for name in names]
    known = [i for i, one in enumerate(hashes) if one is not None]
    table = np.array([hashes[i] for i in known], dtype=np.uint64).reshape(len(known), 2)
    pairs = []
    for row, i in enumerate(known):
        if i >= len(candidates):
            break
        bits = np.bitwise_count(table ^ table[row]).sum(axis=1, dtype=np.int64)
        bits[row] = 2 * 64 + 1
        nearest = int(bits.argmin())
        if bits[nearest] <= MAX_BITS:
            pairs.append((names[i], names[known[nearest]]))
    return pairs


def _hash(name: str, read_image: Callable[[str], bytes]) -> Hashes | None:
    try:
        return perceptual_hash(decode_image(read_image(name)))
    except UndecodableImage:
        return None
