"""Plain safetensors files: checked before they are believed, and written tensor by tensor."""

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from sslmem.encoders.entries import check_names
from sslmem.encoders.inert import Refused, TensorRef
from sslmem.encoders.torch_files import Source

MAX_HEADER = 100 * 2**20
BLOCK = 8 * 2**20
KEY = "sslmem"  # of the header's metadata: what the file says of its encoder; see sslmem.encoders.said
# safetensors' names of what encoders are made of, with bytes per element
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def contiguous(data: bytes, ref: TensorRef) -> bytes:
    """Returns the elements of a tensor in row-major order."""
    elements = np.frombuffer(data, dtype=f"V{ref.storage.item_size}")[ref.offset :]
    strides = tuple(step * ref.storage.item_size for step in ref.strides)
    return np.lib.stride_tricks.as_strided(elements, ref.shape, strides, writeable=False).tobytes()


def write_header(entries: Mapping[str, tuple[str, tuple[int, ...]]], said: Mapping[str, Any], out: IO[bytes]) -> None:
    """Writes the header of a file whose tensors follow in this order.

    Args:
        entries: kind and shape of each tensor.
        said: what the file says of its encoder, by where it says so; written down if there is anything.
        out: the file.
    """
    header: dict[str, Any] = {}
    if any(said.values()):
        header["__metadata__"] = {KEY: json.dumps({name: part for name, part in said.items() if part})}
    position = 0
    for name, (kind, shape) in entries.items():
        end = position + math.prod(shape) * SIZES[kind]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    out.write(struct.pack("<Q", len(text)) + text)


def write_tensors(tensors: Mapping[str, TensorRef], source: Source, said: Mapping[str, Any], out: IO[bytes]) -> None:
    """Writes the tensors one by one, so that memory holds one storage at a time, each read once if they follow."""
    write_header({name: (ref.storage.dtype, ref.shape) for name, ref in tensors.items()}, said, out)
    last, data = None, b""
    for ref in tensors.values():
        if 0 in ref.shape:
            continue
        if ref.storage != last:
            data = b""  # let go of the last one before reading the next
            last, data = ref.storage, source.read(ref.storage)
        out.write(contiguous(data, ref))


class Window(NamedTuple):
    """Where the bytes of a tensor lie."""

    file: Path
    kind: str
    shape: tuple[int, ...]
    start: int
    length: int


def read_windows(path: Path) -> dict[str, Window]:
    """Where the tensors of a safetensors file lie, each within the file and of the size that its shape says."""
    header, base = _header(path)
    size = path.stat().st_size
    found = {}
    for name, entry in header.items():
        kind, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        if kind not in SIZES:
            raise Refused("checkpoint-unreadable", f"tensors of the kind {str(kind)[:20]!a} are not read")
        if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
            raise Refused("checkpoint-unreadable", "a tensor's shape or place are no natural numbers")
        if end - begin != math.prod(shape) * SIZES[kind] or base + end > size:
            raise Refused("checkpoint-unsafe", "a tensor is not as large as the file says")
        found[name] = Window(path, kind, shape, base + begin, end - begin)
    return found


def write_windows(windows: Mapping[str, Window], said: Mapping[str, Any], out: IO[bytes]) -> None:
    """Writes tensors of one or several safetensors files into one."""
    write_header({name: (window.kind, window.shape) for name, window in windows.items()}, said, out)
    for window in windows.values():
        with window.file.open("rb") as file:
            file.seek(window.start)
            left = window.length
            while left:
                block = file.read(min(BLOCK, left))
                if not block:
                    raise Refused("checkpoint-unreadable", "the file ends in the middle of a tensor")
                out.write(block)
                left -= len(block)


def check_safetensors(path: Path) -> list[str]:
    """Checks a safetensors file's header against its length; returns the names of its tensors."""
    header, base = _header(path)
    ends = [entry["data_offsets"][1] for entry in header.values()]
    if max(ends, default=0) != path.stat().st_size - base:
        raise Refused("checkpoint-unreadable", "the safetensors file is truncated or has bytes at its end")
    return list(header)


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """A file's header without its metadata, and where the tensors begin."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise Refused("checkpoint-unreadable", "the safetensors file ends before its header")
        (length,) = struct.unpack("<Q", start)
        if length > min(MAX_HEADER, size - 8):
            raise Refused("checkpoint-unreadable", "the safetensors header is longer than the file")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    check_names(list(header))
    return header, 8 + length
