"""NumPy's .npy files (also within .npz) and the IDX files of MNIST, read in place.

Formats: numpy.lib.format, versions 1.0 and 2.0; IDX as described with the MNIST database (LeCun et al. 1998).
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from sslmem.datasets.numbered import NumberedDataset, Part, Raster, layout_of
from sslmem.datasets.window import Window
from sslmem.errors import UnreadableDataset

NPY = b"\x93NUMPY"
MAX_HEADER = 10_000
IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
# What names of files say besides the split.
IMAGES = frozenset({"x", "image", "images", "img", "imgs", "data"})
LABELS = frozenset({"y", "label", "labels", "target", "targets", "fine"})
NOISE = frozenset({"idx1", "idx2", "idx3", "idx4", "ubyte", "npy", "npz", "gz", "bz2", "xz"})
SPLITS = {"t10k": "test"}


@dataclass(frozen=True)
class DataFile:
    """A file that holds many samples, or their labels."""

    name: str
    window: Window


@dataclass(frozen=True)
class Array:
    """An array where it lies."""

    name: str
    window: Window
    shape: tuple[int, ...]
    dtype: "np.dtype[np.generic]"
    start: int

    @property
    def what(self) -> str:
        """What to call it in messages."""
        return f"the array {self.name}" if self.name else "the array"


def is_idx(head: bytes) -> bool:
    """Whether a file begins as an IDX file of up to four dimensions does."""
    return len(head) >= 8 and head[:2] == b"\0\0" and head[2] in IDX_TYPES and 1 <= head[3] <= 4


def read_array(file: DataFile) -> Array:
    """Reads the header of a .npy or IDX file.

    Raises:
        UnreadableDataset: it is damaged, holds objects, or says that it holds more than it does.
    """
    window, what = file.window, f"the array {file.name}" if file.name else "the array"
    if window.pread(len(NPY), 0) == NPY:
        shape, dtype, start = _read_npy(window, what)
    else:
        head = window.pread(4 + 4 * 4, 0)
        shape = tuple(int.from_bytes(head[4 + 4 * i : 8 + 4 * i], "big") for i in range(head[3]))
        dtype, start = np.dtype(IDX_TYPES[head[2]]), 4 + 4 * head[3]
    if math.prod(shape) * dtype.itemsize > window.size - start:
        raise UnreadableDataset(f"{what} should hold {list(shape)} items of {dtype}; the file is too short for that")
    return Array(file.name, window, shape, dtype, start)


def _read_npy(window: Window, what: str) -> tuple[tuple[int, ...], "np.dtype[np.generic]", int]:
    window.seek(0)
    try:
        version = np.lib.format.read_magic(window)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, by_column, dtype = read(window, max_header_size=MAX_HEADER)
    except Exception as error:  # its header is a Python literal, which fails in any way
        raise UnreadableDataset(f"{what} is damaged: its header is none ({type(error).__name__})") from error
    if dtype.hasobject:
        raise UnreadableDataset(f"{what} holds pickled objects, which are not read; expected numbers")
    if by_column and len(shape) > 1:
        raise UnreadableDataset(f"{what} is stored by columns; save numpy.ascontiguousarray of it")
    if any(type(side) is not int or side < 0 for side in shape):
        raise UnreadableDataset(f"{what} is damaged: its shape is {shape}")
    return shape, dtype, window.tell()


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word and word not in NOISE]


def split_of(name: str) -> tuple[str, bool]:
    """The split that a file's name tells, and whether the name says that it holds labels."""
    path = PurePosixPath(name)
    words = _words(path.name)
    kept = [SPLITS.get(word, word) for word in words if word not in IMAGES | LABELS]
    return "/".join([*path.parts[:-1], *(["_".join(kept)] if kept else [])]), bool(LABELS & set(words))


def _labels(array: Array) -> Callable[[int], str | None]:
    def label(number: int) -> str | None:
        data = array.window.pread(array.dtype.itemsize, array.start + number * array.dtype.itemsize)
        if len(data) < array.dtype.itemsize:
            return None
        value = np.frombuffer(data, dtype=array.dtype)[0]
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        return text.replace("\0", "\ufffd")

    return label


def _is_labels(array: Array) -> bool:
    flat = len(array.shape) == 1 or (len(array.shape) == 2 and array.shape[1] == 1)
    return flat and array.dtype.kind in "iuSU" and array.dtype.itemsize > 0


def array_dataset(kind: str, files: Sequence[DataFile], num_others: int) -> NumberedDataset:
    """A dataset of arrays of images and of labels, which their names bring together.

    Raises:
        UnreadableDataset: an array is neither images nor labels, or two are of the same split.
    """
    arrays = [read_array(file) for file in files]
    labels = {split_of(array.name)[0]: array for array in arrays if _is_labels(array)}
    splits: dict[str, list[Part]] = {}
    for array in arrays:
        if _is_labels(array):
            continue
        split, _ = split_of(array.name)
        if split in splits:
            raise UnreadableDataset(f"two arrays hold images of the split {split or 'without a name'}; expected one")
        number, layout = layout_of(array.shape, array.dtype, array.start, array.what)
        mine = labels.pop(split, None)
        if mine is not None and mine.shape[0] != number:
            raise UnreadableDataset(f"{array.what} holds {number} images, and {mine.what} {mine.shape[0]} labels")
        splits[split] = [Raster(array.window, number, layout, _labels(mine) if mine else lambda _: None)]
    if len(splits) > 1 and "" in splits:
        splits["images"] = splits.pop("")
    return NumberedDataset(kind, splits, num_others)
