"""An unpickler that executes nothing: every global that a program asks for resolves to a recorder in this file.

A torch file is a pickle program; here it can build containers and nothing else. What a recorder returns cannot be
changed afterwards, so what was checked stays true. Used by :mod:`sslmem.encoders.reader`, in its subprocess.
"""

import pickle
from collections import OrderedDict
from typing import IO, Any, NamedTuple

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
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


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
