"""CIFAR-10 and CIFAR-100 as their authors publish them: pickled and binary batches (Krizhevsky 2009)."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from sslmem.datasets.arrays import DataFile
from sslmem.datasets.numbered import Layout, NumberedDataset, Part, Raster
from sslmem.datasets.plain_pickle import Blob, PickledArray, PlainPickle
from sslmem.datasets.window import Window
from sslmem.errors import UnreadableDataset

SHAPE, NUM_BYTES = (32, 32, 3), 3072
# Bytes before the pixels, and the number of classes that each may name.
RECORDS = {"CIFAR-10": (10,), "CIFAR-100": (20, 100)}
MAX_CHECKED = 1000
BYTE = np.dtype(np.uint8)


def binary_kind(window: Window) -> str | None:
    """Which of the two a binary batch is of: the size and every label up to the thousandth must be right."""
    kinds = []
    for kind, classes in RECORDS.items():
        stride = len(classes) + NUM_BYTES
        if window.size == 0 or window.size % stride:
            continue
        labels = (window.pread(len(classes), i * stride) for i in range(min(window.size // stride, MAX_CHECKED)))
        if all(label < most for found in labels for label, most in zip(found, classes, strict=True)):
            kinds.append(kind)
    return kinds[0] if len(kinds) == 1 else None


def is_pickle(head: bytes) -> bool:
    """Whether a file begins as the pickled dictionaries of CIFAR do."""
    return len(head) > 3 and head[0] == 0x80 and head[1] in (2, 3, 4, 5) and head[2:3] in (b"}", b"\x95")


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _dictionary(file: DataFile) -> dict[str, Any]:
    found = PlainPickle(file.window).load()
    if not isinstance(found, dict):
        raise UnreadableDataset(f"the pickle {file.name} is no batch of CIFAR: expected a dictionary")
    return {_text(key): value for key, value in found.items()}


def _split(name: str) -> str:
    return "test" if PurePosixPath(name).name.startswith("test") else "train"


def _in_order(files: Sequence[DataFile]) -> list[DataFile]:
    """Batch 10 comes after batch 9."""
    return sorted(files, key=lambda file: [int(w) if w.isdigit() else w for w in re.split(r"(\d+)", file.name)])


def _named(names: Sequence[str], number: int) -> str:
    return names[number] if number < len(names) else str(number)


def pickled_dataset(kind: str, files: Sequence[DataFile], num_others: int) -> NumberedDataset:
    """A dataset of pickled batches; a file with the names of the classes may be among them.

    Raises:
        UnreadableDataset: a pickle is damaged, more than plain data, or no batch.
    """
    batches, names = [], list[str]()
    for file in _in_order(files):
        found = _dictionary(file)
        if "data" in found:
            batches.append((file, found))
            continue
        for key in ("label_names", "fine_label_names"):
            names = [_text(name) for name in found.get(key, names)]
    splits: dict[str, list[Part]] = {}
    for file, found in batches:
        split = _split(file.name) if file.name else ""
        splits.setdefault(split, []).append(_pickled_batch(file, found, names))
    return NumberedDataset(kind, splits, num_others)


def _pickled_batch(file: DataFile, found: Mapping[str, Any], names: Sequence[str]) -> Raster:
    data = found["data"]
    state = data.state if isinstance(data, PickledArray) else ()
    match state:
        case (_, (int(num), 3072), ("dtype", b"u1" | "u1"), False | 0, Blob(start, size)) if size == num * NUM_BYTES:
            labels = found.get("labels", found.get("fine_labels", [None] * num))
            if len(labels) != num:
                raise UnreadableDataset(f"the batch {file.name} holds {num} images and {len(labels)} labels")
            layout = Layout(SHAPE, True, BYTE, start, NUM_BYTES)
            return Raster(file.window, num, layout, _listed_labels(labels, names))
    raise UnreadableDataset(f"the pickle {file.name} is no batch of CIFAR: expected uint8 data [N, {NUM_BYTES}]")


def _listed_labels(labels: Sequence[object], names: Sequence[str]) -> Callable[[int], str | None]:
    def label(number: int) -> str | None:
        value = labels[number]
        return _named(names, value) if isinstance(value, int) and value >= 0 else None

    return label


def binary_dataset(kind: str, files: Sequence[DataFile], num_others: int) -> NumberedDataset:
    """A dataset of binary batches.

    Raises:
        UnreadableDataset: a batch is of neither kind.
    """
    splits: dict[str, list[Part]] = {}
    for file in _in_order(files):
        found = binary_kind(file.window)
        if found is None:
            raise UnreadableDataset(f"the file {file.name} is no binary batch of CIFAR")
        before = len(RECORDS[found])
        stride = before + NUM_BYTES
        layout = Layout(SHAPE, True, BYTE, before, stride)
        label = partial(_binary_label, file.window, stride, before - 1)
        split = _split(file.name) if file.name else ""
        splits.setdefault(split, []).append(Raster(file.window, file.window.size // stride, layout, label))
    return NumberedDataset(kind, splits, num_others)


def _binary_label(window: Window, stride: int, place: int, number: int) -> str | None:
    data = window.pread(1, number * stride + place)
    return str(data[0]) if data else None
