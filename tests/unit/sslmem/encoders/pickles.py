"""An assembler for pickle programs, and the archives that torch would find them in."""

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

from sslmem.encoders.inert import LEGACY_MAGIC

STORAGES = {"0": bytes(16)}

PROTOCOL = b"\x80\x02"
STOP = b"."
EMPTY_DICT, SETITEM, MARK, TUPLE, EMPTY_TUPLE, TUPLE1 = b"}", b"s", b"(", b"t", b")", b"\x85"
REDUCE, BUILD, NEWOBJ, NEWOBJ_EX, OBJ, POP, NONE = b"R", b"b", b"\x81", b"\x92", b"o", b"0", b"N"


def named(module: str, name: str) -> bytes:
    """Pushes what ``module.name`` is."""
    return b"c" + f"{module}\n{name}\n".encode()


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return b"X" + struct.pack("<I", len(data)) + data


def binary(value: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(value)) + value


def number(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def tuple_of(*items: bytes) -> bytes:
    return MARK + b"".join(items) + TUPLE


def dict_of(items: Mapping[str, bytes]) -> bytes:
    return EMPTY_DICT + b"".join(text(key) + value + SETITEM for key, value in items.items())


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + tuple_of(*arguments) + REDUCE


def program(body: bytes) -> bytes:
    return PROTOCOL + body + STOP


def storage(key: str = "0", count: int = 4, kind: str = "FloatStorage", module: str = "torch") -> bytes:
    """Pushes a storage by its persistent id."""
    return tuple_of(text("storage"), named(module, kind), text(key), text("cpu"), number(count)) + b"Q"


def tensor(
    shape: tuple[int, ...] = (4,), strides: tuple[int, ...] = (1,), offset: int = 0, of: bytes | None = None
) -> bytes:
    """Pushes a tensor as torch.save writes one."""
    return call(
        named("torch._utils", "_rebuild_tensor_v2"),
        of if of is not None else storage(),
        number(offset),
        tuple_of(*map(number, shape)),
        tuple_of(*map(number, strides)),
        b"\x89",
        call(named("collections", "OrderedDict")),
    )


def zip_file(
    path: Path,
    pickle: bytes,
    storages: Mapping[str, bytes] | None = None,
    *,
    compression: int = zipfile.ZIP_STORED,
    others: Mapping[str, bytes] | None = None,
) -> Path:
    """What torch.save writes since 1.6."""
    members = {"archive/data.pkl": pickle}
    members |= {f"archive/data/{key}": data for key, data in (STORAGES if storages is None else storages).items()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in {**members, **(others or {})}.items():
            archive.writestr(name, data)
    return path


def legacy_file(
    path: Path,
    pickle: bytes,
    storages: Mapping[str, bytes] | None = None,
    *,
    replaced: Mapping[int, bytes] | None = None,
) -> Path:
    """What torch.save wrote before 1.6: five pickles and the storages. Those in ``replaced`` are others."""
    storages = STORAGES if storages is None else storages
    pickles = [
        program(number(LEGACY_MAGIC)),
        program(number(1001)),
        program(dict_of({"little_endian": b"\x88"})),
        pickle,
        program(b"]" + MARK + b"".join(map(text, storages)) + b"e"),
    ]
    for place, other in (replaced or {}).items():
        pickles[place] = other
    raw = b"".join(struct.pack("<q", len(data) // 4) + data for data in storages.values())
    path.write_bytes(b"".join(pickles) + raw)
    return path
