"""Reads an untrusted checkpoint without executing anything in it, and writes its tensors as safetensors.

Runs as a script in a subprocess of its own (see ``sslmem.encoders.convert``), limits its memory, time and files
before it opens the checkpoint, and needs the standard library and numpy alone. A torch file is a pickle program;
here every global that the program asks for resolves to a recorder in this file, so that the program can build
containers and nothing else. What a recorder returns cannot be changed afterwards, so what was checked stays true.
"""

import ctypes
import errno
import json
import math
import pickle
import resource
import struct
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple, Protocol

import numpy as np

# torch storage class -> (safetensors name, bytes per element)
STORAGES = {
    "DoubleStorage": ("F64", 8),
    "FloatStorage": ("F32", 4),
    "HalfStorage": ("F16", 2),
    "BFloat16Storage": ("BF16", 2),
    "LongStorage": ("I64", 8),
    "IntStorage": ("I32", 4),
    "ShortStorage": ("I16", 2),
    "CharStorage": ("I8", 1),
    "ByteStorage": ("U8", 1),
    "BoolStorage": ("BOOL", 1),
}
MAX_HEADER = 100 * 2**20
MAX_NAME = 500  # characters
GIB = 2**30
MAX_DEPTH = 6  # of mappings in mappings
MAX_PARTS = 64
MAX_LEFT_OUT = 100_000
MAX_MODULES = 100_000
MAX_MODULE_DEPTH = 100
MAX_FACTS = 64
# Keys of a training checkpoint under which optimizers and the like keep tensors that belong to no encoder.
NO_ENCODERS = frozenset({
    "optimizer", "optimizers", "optimizer_state_dict", "optimizer_states", "opt", "optim", "optimizer_probes", "probes",
    "scheduler", "lr_scheduler", "lr_schedulers", "scaler", "fp16_scaler", "grad_scaler", "amp", "callbacks", "loops",
    "args", "hyper_parameters", "dino_loss", "ibot_loss", "queue", "rng_state",
})  # fmt: skip
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
NO_ROOM = "no-room"  # no refusal: it says nothing about the file


class Refused(Exception):
    """What is wrong with the file, as (code, sentence)."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code, self.detail = code, detail


class Storage(NamedTuple):
    """A block of elements named by the pickle program; its bytes lie elsewhere in the file."""

    dtype: str
    item_size: int
    key: str
    num_elements: int


class TensorRef(NamedTuple):
    """A strided window on a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Inert:
    """Stands for any object of a class that is not known: keeps what it was made of, does nothing."""

    __slots__ = ("arguments", "state")

    def __init__(self, *args: object, **_kwargs: object) -> None:
        self.arguments, self.state = args, {}  # type: tuple[object, ...], object

    def __call__(self, *_args: object, **_kwargs: object) -> "Inert":
        """Gives another object that does nothing."""
        return Inert()

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __setitem__(self, key: object, value: object) -> None: ...

    def append(self, item: object) -> None:
        """Ignores an item of an unknown list."""

    def extend(self, items: object) -> None:
        """Ignores items of an unknown list."""

    def add(self, item: object) -> None:
        """Ignores an item of an unknown set."""


class StorageType(NamedTuple):
    """Stands for a class such as ``torch.FloatStorage``."""

    name: str


def _naturals(value: object) -> tuple[int, ...]:
    if not isinstance(value, (tuple, list)) or not all(type(v) is int and v >= 0 for v in value):
        raise Refused("checkpoint-unreadable", "a tensor's shape or strides are no natural numbers")
    return tuple(value)


def rebuild_tensor(storage: object, offset: object, shape: object, strides: object, *_: object) -> TensorRef:
    """Records what ``torch._utils._rebuild_tensor_v2`` would build."""
    if not isinstance(storage, Storage) or type(offset) is not int or offset < 0:
        raise Refused("checkpoint-unreadable", "a tensor without a storage")
    sizes, steps = _naturals(shape), _naturals(strides)
    last = offset + sum((n - 1) * s for n, s in zip(sizes, steps, strict=True))
    if 0 not in sizes and last >= storage.num_elements:
        raise Refused("checkpoint-unsafe", "a tensor reaches beyond its storage")
    return TensorRef(storage, offset, sizes, steps)


def rebuild_parameter(data: object, *_: object) -> object:
    """A parameter is its tensor."""
    return data


class InertUnpickler(pickle.Unpickler):
    """Resolves globals to recorders; imports nothing, calls nothing but what stands in this file."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401
        """Returns the recorder for a global."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name == "_rebuild_tensor_v2":
            return rebuild_tensor
        if module == "torch._utils" and name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
            return rebuild_parameter
        if module in ("torch", "torch.storage") and name.endswith("Storage"):
            return StorageType(name)
        if (module, name) == ("torch", "Size"):
            return tuple
        return Inert

    def persistent_load(self, pid: Any) -> Any:  # noqa: ANN401
        """Returns the storage that a persistent id names: ("storage", type, key, device, number of elements)."""
        if isinstance(pid, tuple) and pid[:1] == ("module",):  # the class of a pickled module, with its source
            return Inert
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise Refused("checkpoint-unreadable", "an unknown kind of persistent object")
        _, kind, key, _, count = pid[:5]
        if any(part is not None for part in pid[5:]):
            raise Refused("checkpoint-unreadable", "a storage that is a view of another one, as torch 0.1 wrote them")
        if not isinstance(kind, StorageType) or kind.name not in STORAGES:
            name = kind.name if isinstance(kind, StorageType) else "unknown"
            raise Refused("checkpoint-unreadable", f"tensors of the kind {name} are not read")
        if not isinstance(key, str) or type(count) is not int or count < 0:
            raise Refused("checkpoint-unreadable", "a storage without a name or size")
        storage = Storage(*STORAGES[kind.name], key, count)
        if self.storages.setdefault(key, storage) != storage:
            raise Refused("checkpoint-unsafe", f"storage {key} has two kinds or sizes")
        return storage


class Source(Protocol):
    """Where the bytes of storages come from."""

    def read(self, storage: Storage) -> bytes:
        """Returns exactly the bytes of a storage."""


class ZipSource:
    """The archive that ``torch.save`` writes since 1.6: ``*/data.pkl`` and ``*/data/KEY``."""

    def __init__(self, path: Path) -> None:
        self.archive = zipfile.ZipFile(path)
        names = [name for name in self.archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
        if len(names) != 1:
            found = f"a zip archive with {len(names)} entries data.pkl"
            raise Refused("checkpoint-unreadable", f"{found}; expected one, as torch.save writes it")
        self.prefix = names[0][: -len("data.pkl")]
        # TorchScript compresses its code, which is not read.
        ours = (names[0], f"{self.prefix}data/", f"{self.prefix}byteorder")
        if any(i.compress_type != zipfile.ZIP_STORED and i.filename.startswith(ours) for i in self.archive.infolist()):
            raise Refused("checkpoint-unsafe", "a compressed zip archive; torch.save does not compress")
        names = self.archive.namelist()
        self.container = "torchscript" if f"{self.prefix}constants.pkl" in names else "torch zip"
        byteorder = f"{self.prefix}byteorder"
        if byteorder in names and self.archive.read(byteorder).strip() != b"little":
            raise Refused("checkpoint-unreadable", "tensors in big-endian byte order; expected little-endian")

    def root(self) -> object:
        """Runs the pickle program inertly."""
        with self.archive.open(f"{self.prefix}data.pkl") as file:
            return InertUnpickler(file).load()

    def read(self, storage: Storage) -> bytes:
        """Returns exactly the bytes of a storage."""
        info = self.archive.getinfo(f"{self.prefix}data/{storage.key}")
        size = storage.num_elements * storage.item_size
        if info.file_size != size or len(data := self.archive.read(info)) != size:
            raise Refused("checkpoint-unsafe", f"storage {storage.key} is not as large as the file says")
        return data


class LegacySource:
    """The older single stream: magic, protocol, system, object, storage keys, then raw storages."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        magic = InertUnpickler(file).load()
        if magic != LEGACY_MAGIC:
            raise Refused("checkpoint-unreadable", "a pickle that torch.save did not write")
        for _ in ("protocol", "system"):
            InertUnpickler(file).load()
        unpickler = InertUnpickler(file)
        self.object = unpickler.load()
        keys = InertUnpickler(file).load()
        self.places: dict[str, int] = {}
        self._locate(keys if isinstance(keys, list) else [], unpickler.storages)

    def root(self) -> object:
        """What the pickle program built."""
        return self.object

    def _locate(self, keys: list[Any], storages: dict[str, Storage]) -> None:
        """Finds where each storage begins; they follow each other, each after its element count."""
        for key in keys:
            if key not in storages:
                raise Refused("checkpoint-unreadable", f"storage {key!r} is of no known tensor")
            (count,) = struct.unpack("<q", self.file.read(8))
            if count != storages[key].num_elements:
                raise Refused("checkpoint-unsafe", f"storage {key} is not as large as the file says")
            self.places[key] = self.file.tell()
            self.file.seek(count * storages[key].item_size, 1)

    def read(self, storage: Storage) -> bytes:
        """Returns exactly the bytes of a storage."""
        self.file.seek(self.places[storage.key])
        data = self.file.read(storage.num_elements * storage.item_size)
        if len(data) != storage.num_elements * storage.item_size:
            raise Refused("checkpoint-unreadable", "the file ends in the middle of a tensor")
        return data


def find_entries(root: object) -> tuple[list[str], dict[str, TensorRef], list[str]]:
    """Finds all state dicts: mappings from names to tensors, at most some keys deep, and pickled modules.

    Returns:
        The keys under which they were (an empty one for the whole file), their tensors, and what was left out.
        With several of them an entry is called ``KEY/NAME``.
    """
    parts: dict[str, dict[str, TensorRef]] = {}
    left_out: list[str] = []
    if isinstance(root, Inert):
        parts[""] = module_entries(root)
    elif isinstance(root, dict):
        _collect(root, "", parts, left_out, 0)
    else:
        raise Refused(
            "checkpoint-unreadable",
            f"expected a state dict or a module; found an object of the type {type(root).__name__}",
        )
    parts = {place: entries for place, entries in parts.items() if entries}
    if not parts:
        keys = sorted(one_line(str(key))[:60] for key in list(root)[:12]) if isinstance(root, dict) else []
        found = f"a mapping with the keys {', '.join(keys)}" if keys else "an object without any"
        raise Refused("checkpoint-unreadable", f"expected a state dict, bare or under a key; found {found}")
    if len(parts) == 1:
        ((place, entries),) = parts.items()
        return [place], entries, sorted(left_out)
    named = {f"{place}/{name}": ref for place, entries in parts.items() for name, ref in entries.items()}
    return sorted(parts), named, sorted(left_out)


def _collect(
    mapping: dict[Any, Any], place: str, parts: dict[str, dict[str, TensorRef]], left_out: list[str], depth: int
) -> None:
    if len(left_out) > MAX_LEFT_OUT:
        raise Refused("checkpoint-unsafe", f"more than {MAX_LEFT_OUT} things beside the tensors")
    tensors: dict[str, TensorRef] = {}
    below = len(parts)
    for key, value in mapping.items():
        path = f"{place}/{key}" if place else str(key)
        if isinstance(key, str) and isinstance(value, TensorRef):
            tensors[key] = value
        elif isinstance(key, str) and key not in NO_ENCODERS and depth < MAX_DEPTH and len(parts) < MAX_PARTS:
            if isinstance(value, dict):
                _collect(value, path, parts, left_out, depth + 1)
            elif isinstance(value, Inert) and (entries := module_entries(value)):
                parts[path] = entries
            else:
                left_out.append(one_line(path))
        else:
            left_out.append(one_line(path))
    if tensors and len(parts) == below:
        parts[place] = tensors
    else:  # tensors beside state dicts are counters and queues of the training
        left_out += [one_line(f"{place}/{key}" if place else key) for key in tensors]
        if place:
            left_out.append(one_line(place))


def module_entries(root: Inert) -> dict[str, TensorRef]:
    """The state dict of a pickled module, or of one that TorchScript wrote, whose attributes are its entries."""
    entries: dict[str, TensorRef] = {}
    waiting = [("", root, 0)]
    seen = 0
    while waiting:
        prefix, module, depth = waiting.pop()
        seen += 1
        if seen > MAX_MODULES or depth > MAX_MODULE_DEPTH:
            raise Refused("checkpoint-unsafe", f"a module of more than {MAX_MODULES} parts, or one that holds itself")
        state = module.state
        if not isinstance(state, dict):
            continue
        if isinstance(state.get("_modules"), dict):
            temporary = _names(state.get("_non_persistent_buffers_set"))
            buffers = {k: v for k, v in _mapping(state.get("_buffers")).items() if k not in temporary}
            own = {**_mapping(state.get("_parameters")), **buffers, **state["_modules"]}
        else:
            own = state
        for name, value in own.items():
            if isinstance(name, str) and isinstance(value, TensorRef):
                entries[prefix + name] = value
            elif isinstance(name, str) and isinstance(value, Inert):
                waiting.append((f"{prefix}{name}.", value, depth + 1))
    return entries


def _mapping(value: object) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _names(value: object) -> set[str]:
    """The members of a pickled set of names."""
    found = value.arguments[0] if isinstance(value, Inert) and value.arguments else value
    return {name for name in found if isinstance(name, str)} if isinstance(found, (list, set, tuple)) else set()


def find_facts(root: object) -> dict[str, str]:
    """What the file says of itself besides its tensors: numbers and words at its top and in its arguments."""
    facts: dict[str, str] = {}
    for key, value in _mapping(root).items():
        inner = value.state if isinstance(value, Inert) else value
        within = _mapping(inner) if key in ("args", "hyper_parameters", "config", "meta") else {}
        for name, found in ((key, value), *((f"{key}.{name}", found) for name, found in within.items())):
            if isinstance(name, str) and type(found) in (str, int, float, bool) and len(facts) < MAX_FACTS:
                if type(found) is int and found.bit_length() > 64:
                    continue
                facts[one_line(name)[:60]] = one_line(str(found))[:100]
    return facts


def one_line(text: str) -> str:
    """What a message or a name can show of a text from an untrusted file."""
    return "".join(c if c.isprintable() else "?" for c in text[:MAX_NAME])


def check_names(names: list[str]) -> None:
    """Refuses names that would not go through messages, JSON and the database unharmed."""
    for name in names:
        if one_line(name) != name:
            raise Refused("checkpoint-unreadable", f"the name of the entry {name[:80]!a} is too long or does not print")


def contiguous(data: bytes, ref: TensorRef) -> bytes:
    """Returns the elements of a tensor in row-major order."""
    elements = np.frombuffer(data, dtype=f"V{ref.storage.item_size}")[ref.offset :]
    strides = tuple(step * ref.storage.item_size for step in ref.strides)
    return np.lib.stride_tricks.as_strided(elements, ref.shape, strides, writeable=False).tobytes()


def write_safetensors(tensors: dict[str, TensorRef], source: Source, out: IO[bytes]) -> None:
    """Writes the tensors one by one, so that memory holds one storage at a time, each read once if they follow."""
    header: dict[str, Any] = {}
    position = 0
    for name, ref in tensors.items():
        end = position + math.prod(ref.shape) * ref.storage.item_size
        header[name] = {"dtype": ref.storage.dtype, "shape": ref.shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    out.write(struct.pack("<Q", len(text)) + text)
    last, data = None, b""
    for ref in tensors.values():
        if 0 in ref.shape:
            continue
        if ref.storage != last:
            data = b""  # let go of the last one before reading the next
            last, data = ref.storage, source.read(ref.storage)
        out.write(contiguous(data, ref))


def check_safetensors(path: Path) -> list[str]:
    """Checks a safetensors file's header against its length; returns the names of its tensors."""
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > min(MAX_HEADER, size - 8):
            raise Refused("checkpoint-unreadable", "the safetensors header is longer than the file")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    ends = [entry["data_offsets"][1] for entry in header.values()]
    if max(ends, default=0) != size - 8 - length:
        raise Refused("checkpoint-unreadable", "the safetensors file is truncated or has bytes at its end")
    check_names(list(header))
    return list(header)


def read_torch(path: Path, destination: Path) -> dict[str, Any]:
    """Converts a torch file and says what it found."""
    with path.open("rb") as file:
        source: ZipSource | LegacySource
        if zipfile.is_zipfile(path):
            source = ZipSource(path)
            container = source.container
        else:
            source, container = LegacySource(file), "torch legacy"
        root = source.root()
        places, tensors, others = find_entries(root)
        check_names(list(tensors))
        total = sum(math.prod(ref.shape) * ref.storage.item_size for ref in tensors.values())
        if total > 4 * path.stat().st_size + 2**20:
            raise Refused("checkpoint-unsafe", f"the tensors would unfold to {total} bytes, far more than the file has")
        with destination.open("wb") as out:
            write_safetensors(tensors, source, out)
    return {
        "container": container,
        "places": places,
        "entries": len(tensors),
        "left_out": others,
        "facts": find_facts(root),
    }


def convert(path: Path, destination: Path) -> dict[str, Any]:
    """Converts a checkpoint of either kind; a safetensors file is checked and linked or copied by the caller."""
    with path.open("rb") as file:
        head = file.read(9)
    if len(head) == 9 and head[8:9] == b"{" and not head.startswith(b"PK"):
        names = check_safetensors(path)
        return {"container": "safetensors", "places": [""], "entries": len(names), "left_out": [], "facts": {}}
    if not head.startswith((b"PK", b"\x80")):
        raise Refused("checkpoint-unreadable", f"expected a safetensors or torch file; it begins with {head!r}")
    return read_torch(path, destination)


def limit(size: int) -> None:
    """Bounds this process, given the size of the checkpoint: address space, time, what it writes, open files."""
    resource.setrlimit(resource.RLIMIT_AS, (2 * GIB + 3 * size,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (60 + size // (20 * 2**20),) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 * size + 128 * 2**20,) * 2)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def cut_network() -> bool:
    """Moves this process into a network of its own, without interfaces; whether the system allows that.

    Linux alone has such networks, and some containers forbid them. The reader opens no connection in any case.
    """
    try:
        unshare = ctypes.CDLL(None, use_errno=True).unshare
    except (OSError, AttributeError):
        return False
    return bool(unshare(CLONE_NEWNET) == 0 or unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0)


def answer(source: Path, destination: Path) -> dict[str, Any]:
    """Converts a checkpoint and says what was found, or the code and sentence of a refusal."""
    try:
        return convert(source, destination)
    except Refused as refusal:
        code, detail = refusal.code, refusal.detail
    except MemoryError:
        code, detail = "checkpoint-unsafe", "reading the file needs more memory than it may take"
    except Exception as error:  # noqa: BLE001  a hostile file can make the reader fail in any way
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return {"code": NO_ROOM, "detail": "no room is left for the converted file"}
        code, detail = "checkpoint-unreadable", f"the file is damaged ({type(error).__name__}: {error})"
    return {"code": code, "detail": one_line(detail)}


def main() -> None:
    """Prints one JSON object, the answer."""
    source, destination = Path(sys.argv[1]), Path(sys.argv[2])
    cut_network()
    limit(source.stat().st_size)
    json.dump(answer(source, destination), sys.stdout)


if __name__ == "__main__":
    main()
