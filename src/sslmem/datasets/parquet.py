"""Parquet files with a column of images, as Hugging Face datasets writes them: encoded files within a table."""

import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sslmem.datasets.arrays import DataFile
from sslmem.datasets.containers import MAX_IMAGE_BYTES
from sslmem.datasets.numbered import NumberedDataset, Part
from sslmem.datasets.window import Window
from sslmem.errors import UndecodableImage, UnreadableDataset, UnsafeArchive

MAGIC = b"PAR1"
MAX_FOOTER = 64 * 2**20
MAX_GROUP_BYTES = 2**31  # of the images in a row group, unpacked
ROWS = 16
LABELS = ("label", "labels", "fine_label", "class", "target")


def _features(schema: pa.Schema) -> Mapping[str, Any]:
    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return found if isinstance(found, dict) else {}
    except (ValueError, KeyError, TypeError):
        return {}


def _is_image(field: pa.Field) -> bool:
    kind = field.type
    if not pa.types.is_struct(kind):
        return False
    children = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
    of_bytes = children.get("bytes")
    return of_bytes is not None and (pa.types.is_binary(of_bytes) or pa.types.is_large_binary(of_bytes))


def image_columns(window: Window) -> list[str]:
    """The columns of a Parquet file that hold images; none if it is no Parquet file that can be read."""
    footer = int.from_bytes(window.pread(4, window.size - 8), "little")
    if window.pread(4, 0) != MAGIC or window.pread(4, window.size - 4) != MAGIC or footer > MAX_FOOTER:
        return []
    try:
        schema = pq.read_schema(pa.PythonFile(window.part(0, window.size), mode="r"))
    except Exception:  # noqa: BLE001  a damaged footer makes the reader fail in any way
        return []
    marked = [
        name for name, kind in _features(schema).items() if isinstance(kind, dict) and kind.get("_type") == "Image"
    ]
    fit = [field.name for field in schema if _is_image(field)]
    return [name for name in fit if name in marked] or fit


class ParquetPart:
    """The rows of one file. Reading them in order is quick; going back starts the row group again."""

    def __init__(self, file: DataFile, column: str) -> None:
        self._window, self._name, self._column = file.window, file.name or "the Parquet file", column
        self._file = pq.ParquetFile(pa.PythonFile(file.window, mode="r"), pre_buffer=False)
        schema = self._file.schema_arrow
        features = _features(schema)
        fit = [name for name in LABELS if name in schema.names and not pa.types.is_nested(schema.field(name).type)]
        self._label = fit[0] if fit else None
        names = features.get(self._label or "", {})
        self._names: list[str] = names.get("names") or [] if isinstance(names, dict) else []
        metadata = self._file.metadata
        self._ends, total = [], 0
        for i in range(metadata.num_row_groups):
            group = metadata.row_group(i)
            self._check(group)
            total += group.num_rows
            self._ends.append(total)
        self._num_rows = total
        self._lock = threading.Lock()
        self._images, self._labels = _Rows(self._file, f"{column}.bytes"), _Rows(self._file, self._label or "")

    def _check(self, group: Any) -> None:  # noqa: ANN401  pyarrow has no types
        packed = unpacked = 0
        for i in range(group.num_columns):
            chunk = group.column(i)
            if chunk.path_in_schema.split(".")[0] == self._column:
                packed, unpacked = packed + chunk.total_compressed_size, unpacked + chunk.total_uncompressed_size
        if group.num_rows < 0 or packed > self._window.size:
            raise UnreadableDataset(f"{self._name} is damaged: a row group is larger than the file")
        if unpacked > MAX_GROUP_BYTES:
            raise UnsafeArchive(
                f"{self._name} has a row group of {unpacked} bytes of images; at most {MAX_GROUP_BYTES} are read"
            )

    def __len__(self) -> int:
        return self._num_rows

    def read(self, number: int) -> bytes:
        """Returns the encoded bytes of an image.

        Raises:
            UndecodableImage: the row has none, or the file is damaged there.
        """
        with self._lock:
            try:
                image = self._images.at(*self._locate(number))
            except Exception as error:  # damaged pages make the reader fail in any way
                raise UndecodableImage(f"row {number} of {self._name} is damaged: {type(error).__name__}") from error
        data = image.get("bytes") if isinstance(image, dict) else None
        if not isinstance(data, bytes):
            raise UndecodableImage(f"row {number} of {self._name} holds no image, or only the path of one")
        if len(data) > MAX_IMAGE_BYTES:
            raise UndecodableImage(f"row {number} of {self._name} is too large; at most {MAX_IMAGE_BYTES} are read")
        return data

    def label(self, number: int) -> str | None:
        """The label of a row; None, too, where it cannot be read."""
        if self._label is None:
            return None
        with self._lock:
            try:
                value = self._labels.at(*self._locate(number))
            except Exception:  # noqa: BLE001  damaged pages make the reader fail in any way
                return None
        if isinstance(value, int) and 0 <= value < len(self._names):
            return str(self._names[value])
        return None if value is None else str(value).replace("\0", "\ufffd")

    def _locate(self, number: int) -> tuple[int, int]:
        group = next(i for i, end in enumerate(self._ends) if number < end)
        return group, number - (self._ends[group - 1] if group else 0)


class _Rows:
    """A column, a few rows at a time."""

    def __init__(self, file: pq.ParquetFile, column: str) -> None:
        self._file, self._column = file, column
        self._group, self._start = -1, 0
        self._batch: Sequence[Any] = ()
        self._batches: Iterator[Any] = iter(())

    def at(self, group: int, row: int) -> Any:  # noqa: ANN401
        """The value of a row of a row group."""
        if group != self._group or row < self._start:
            self._group, self._start, self._batch = group, 0, ()
            self._batches = self._file.iter_batches(
                batch_size=ROWS, row_groups=[group], columns=[self._column], use_threads=False
            )
        while row >= self._start + len(self._batch):
            self._start += len(self._batch)
            self._batch = next(self._batches).column(0)
        return self._batch[row - self._start].as_py()


def split_of(name: str) -> str:
    """``data/train-00000-of-00002.parquet`` and ``train/0000.parquet`` are shards of ``train``."""
    path = PurePosixPath(name)
    stem = re.sub(r"(^|[-_.])\d+(-of-\d+)?$", "", path.name.removesuffix(".parquet"))
    parts = [part for part in path.parts[:-1] if part != "data"]
    return "/".join([*parts, stem] if stem else parts)


def parquet_dataset(kind: str, files: Sequence[DataFile], num_others: int) -> NumberedDataset:
    """A dataset of Parquet files, whose names tell split and order.

    Raises:
        UnreadableDataset: a file is damaged, or has several columns of images.
        UnsafeArchive: a row group is too large.
    """
    splits: dict[str, list[Part]] = {}
    for file in sorted(files, key=lambda file: file.name):
        columns = image_columns(file.window)
        if len(columns) != 1:
            named = f": {', '.join(columns)}" if columns else ""
            raise UnreadableDataset(f"expected one column of images; {file.name} has {len(columns)}{named}")
        try:
            part = ParquetPart(file, columns[0])
        except pa.ArrowException as error:
            raise UnreadableDataset(f"the file {file.name} is damaged: {error}") from error
        splits.setdefault(split_of(file.name) if file.name else "", []).append(part)
    return NumberedDataset(kind, splits, num_others)
