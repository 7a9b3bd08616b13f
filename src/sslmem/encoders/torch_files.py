"""The two files that torch.save writes: where the pickle program lies in them, and the bytes of its storages."""

import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from sslmem.encoders.inert import LEGACY_MAGIC, InertUnpickler, Refused, Storage


class Source(Protocol):
    """Where the bytes of storages come from."""

    def read(self, storage: Storage) -> bytes:
        """Returns exactly the bytes of a storage."""


def is_torch_zip(path: Path) -> bool:
    """Whether a file is an archive with a pickle program in it, or one with nothing that is known better."""
    return zipfile.is_zipfile(path)


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
