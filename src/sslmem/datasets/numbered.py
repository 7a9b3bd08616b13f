"""Datasets whose samples have no names of their own, only numbers within splits: arrays and tables."""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol, Self, overload

import numpy as np

from sslmem.datasets.image import MAX_PIXELS, as_ppm, over_white
from sslmem.datasets.protocol import SampleEntry
from sslmem.datasets.window import Window
from sslmem.errors import EmptyDataset, UndecodableImage, UnreadableDataset

MIN_DIGITS = 5


class Part(Protocol):
    """Consecutive samples of a split, in one file."""

    def __len__(self) -> int: ...

    def read(self, number: int) -> bytes:
        """Returns the encoded bytes of one; raises UndecodableImage if it cannot be read."""

    def label(self, number: int) -> str | None:
        """Its label."""


@dataclass(frozen=True)
class Layout:
    """How pixels lie in a file.

    Attributes:
        shape: height, width and channels: 1, 3 or 4.
        planar: the channels one after the other, not side by side.
        dtype: of 8 or 16 bits, unsigned.
        start: of the first image.
        stride: from one image to the next.
    """

    shape: tuple[int, int, int]
    planar: bool
    dtype: "np.dtype[np.uint8] | np.dtype[np.uint16]"
    start: int
    stride: int


@dataclass(frozen=True)
class Raster:
    """Images of one size that lie one after the other in a file, read one by one.

    An image is given as a binary PPM file of its colours, so that the same pixels are the same sample in every format.
    """

    window: Window
    num_images: int
    layout: Layout
    label_of: Callable[[int], str | None] = lambda _: None

    def __len__(self) -> int:
        return self.num_images

    def read(self, number: int) -> bytes:
        """Returns an image as a PPM file.

        Raises:
            UndecodableImage: the file ends before it.
        """
        layout = self.layout
        height, width, channels = layout.shape
        size = math.prod(layout.shape) * layout.dtype.itemsize
        data = self.window.pread(size, layout.start + number * layout.stride)
        if len(data) < size:
            raise UndecodableImage(f"the file ends in the middle of image {number}")
        pixels = np.frombuffer(data, dtype=layout.dtype)
        if layout.planar:
            pixels = pixels.reshape(channels, height, width).transpose(1, 2, 0)
        pixels = pixels.reshape(height, width, channels)
        if pixels.dtype.itemsize == 2:
            pixels = (pixels.astype(np.int64) + 128) // 257
        levels = pixels.astype(np.uint8)
        return as_ppm(over_white(levels) if channels == 4 else np.broadcast_to(levels, (height, width, 3)))

    def label(self, number: int) -> str | None:
        """The label of an image."""
        return self.label_of(number)


def layout_of(shape: Sequence[int], dtype: "np.dtype[np.generic]", start: int, what: str) -> tuple[int, Layout]:
    """How many images an array holds, and how they lie in it.

    Args:
        shape: ``[N, H, W]``, ``[N, H, W, C]`` or ``[N, C, H, W]``, with 1, 3 or 4 channels.
        dtype: uint8, or uint16.
        start: where the array begins in its file.
        what: to call it in messages.

    Raises:
        UnreadableDataset: it holds no images, or may be read in two ways.
    """
    expected = "expected uint8 or uint16 of the shape [N, H, W], [N, H, W, C] or [N, C, H, W] with 1, 3 or 4 channels"
    shown = f"{what} is {dtype} {list(shape)}"
    if dtype.kind != "u" or dtype.itemsize > 2:
        raise UnreadableDataset(f"{expected}; {shown}")
    last, first = (len(shape) == 4 and shape[axis] in (1, 3, 4) for axis in (3, 1))
    if len(shape) == 3 and shape[2] > 4:
        height, width, channels = shape[1], shape[2], 1
    elif last and not (first and shape[2] > 4 >= shape[3] and shape[1] == shape[3]):
        height, width, channels = shape[1:]
    elif first and not last:
        channels, height, width = shape[1:]
    else:
        raise UnreadableDataset(f"{expected}; {shown}, which is none of them, or two")
    if not 0 < height * width <= MAX_PIXELS:
        raise UnreadableDataset(f"{shown}: {height} x {width} pixels each; at most {MAX_PIXELS} are read")
    pixels: np.dtype[np.uint8] | np.dtype[np.uint16] = np.dtype(dtype)  # type: ignore[assignment]
    stride = height * width * channels * dtype.itemsize
    return shape[0], Layout((height, width, channels), not last and channels > 1, pixels, start, stride)


class Numbered(Sequence[SampleEntry]):
    """Names made of split and number; nothing is kept in memory but the parts."""

    def __init__(self, splits: Mapping[str, Sequence[Part]]) -> None:
        names = sorted(splits, key=lambda name: f"{name}/")
        self.parts = [part for name in names for part in splits[name]]
        self.sizes = {name: sum(map(len, splits[name])) for name in names}
        self._part_ends = list(accumulate(map(len, self.parts)))
        self._split_ends = list(accumulate(self.sizes.values()))
        self._names = names

    def __len__(self) -> int:
        return self._part_ends[-1] if self._part_ends else 0

    @overload
    def __getitem__(self, position: int) -> SampleEntry: ...
    @overload
    def __getitem__(self, position: slice) -> list[SampleEntry]: ...
    def __getitem__(self, position: int | slice) -> SampleEntry | list[SampleEntry]:
        if isinstance(position, slice):
            return [self[i] for i in range(*position.indices(len(self)))]
        if not -len(self) <= position < len(self):
            raise IndexError(position)
        position %= len(self)
        split = bisect_right(self._split_ends, position)
        name = self._names[split]
        number = position - (self._split_ends[split] - self.sizes[name])
        part, within = self.locate(position)
        return SampleEntry(self._name(name, number), part.label(within))

    def __iter__(self) -> Iterator[SampleEntry]:
        return (self[position] for position in range(len(self)))

    def locate(self, position: int) -> tuple[Part, int]:
        """The part of a sample, and its number there."""
        index = bisect_right(self._part_ends, position)
        part = self.parts[index]
        return part, position - (self._part_ends[index] - len(part))

    def _name(self, split: str, number: int) -> str:
        digits = max(MIN_DIGITS, len(str(self.sizes[split] - 1)))
        return f"{split}/{number:0{digits}}" if split else f"{number:0{digits}}"

    def position(self, path: str) -> int | None:
        """Where a sample stands in the order of names."""
        split, _, digits = path.rpartition("/")
        if split not in self.sizes or not (digits.isascii() and digits.isdecimal()) or len(digits) > 20:
            return None
        number = int(digits)
        if number >= self.sizes[split] or self._name(split, number) != path:
            return None
        return self.below(split).start + number if split else number

    def below(self, folder: str) -> range:
        """The positions of the samples of a split, or of all splits in a folder."""
        found = [i for i, name in enumerate(self._names) if name == folder or name.startswith(f"{folder}/")]
        if not found:
            return range(0)
        first, last = found[0], found[-1]
        return range(self._split_ends[first] - self.sizes[self._names[first]], self._split_ends[last])


class NumberedDataset:
    """A dataset of arrays or tables."""

    def __init__(self, kind: str, splits: Mapping[str, Sequence[Part]], num_others: int = 0) -> None:
        self.samples = Numbered(splits)
        if not len(self.samples):
            raise EmptyDataset(f"the {kind} hold no images; expected at least one")
        self.format, self.splits, self.num_others = kind, self.samples.sizes, num_others
        self._closing = ExitStack()

    def position(self, path: str) -> int | None:
        """Where a sample stands in the order of names."""
        return self.samples.position(path)

    def below(self, folder: str) -> range:
        """The positions of the samples of a split."""
        return self.samples.below(folder)

    def read(self, path: str) -> bytes:
        """Returns the encoded bytes of a sample.

        Raises:
            UndecodableImage: it cannot be read, or there is none.
        """
        position = self.samples.position(path)
        if position is None:
            raise UndecodableImage(f"there is no sample {path}")
        part, number = self.samples.locate(position)
        return part.read(number)

    def close(self) -> None:
        """Closes the files."""
        self._closing.close()

    def when_closed(self, close: Callable[[], object]) -> None:
        """Has something called once the dataset is closed."""
        self._closing.callback(close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
