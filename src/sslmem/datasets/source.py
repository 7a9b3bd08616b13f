"""Datasets where they lie: a folder or a zip archive of images, read in place."""

import os
import stat
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol, Self

from sslmem.errors import EmptyDataset, UndecodableImage, UnreadableDataset, UnsafeArchive

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
MAX_MEMBERS = 5_000_000
MAX_IMAGE_BYTES = 256 * 2**20


@dataclass(frozen=True)
class SampleEntry:
    """An image of a dataset: its path within it, with forward slashes, and its encoded size."""

    path: str
    num_bytes: int


class Dataset(Protocol):
    """Images with a path each; ``read`` may be called from several threads."""

    @property
    def samples(self) -> Sequence[SampleEntry]:
        """The samples, in the order of their paths."""

    def read(self, path: str) -> bytes:
        """Returns the encoded bytes of a sample; raises UndecodableImage if it cannot be read."""

    def close(self) -> None:
        """Releases the files."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


def open_dataset(path: Path) -> Dataset:
    """Opens a folder or a zip archive of images.

    Raises:
        UnreadableDataset: there is nothing there, it is neither, or a name in it is not UTF-8.
        UnsafeArchive: the archive has links, paths outside itself, duplicate or encrypted members, members packed
            otherwise than by deflation, or too many.
        EmptyDataset: it holds no image files.
    """
    if path.is_dir():
        return FolderDataset(path)
    if not path.exists():
        raise UnreadableDataset(f"expected a folder or zip archive of images; there is nothing at {path}")
    if not zipfile.is_zipfile(path):
        raise UnreadableDataset(f"expected a folder or zip archive of images; {path.name} is neither")
    return ZipDataset(path)


def _is_image(path: PurePosixPath) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return not hidden and path.suffix.lower() in SUFFIXES


def _sorted(samples: list[SampleEntry], where: str) -> list[SampleEntry]:
    if not samples:
        raise EmptyDataset(f"{where} holds no images; expected files ending in {', '.join(sorted(SUFFIXES))}")
    return sorted(samples, key=lambda sample: sample.path)


class FolderDataset:
    """Image files below a folder; links to folders are not followed, pipes and devices are no images."""

    def __init__(self, root: Path) -> None:
        self.root = root
        samples = []
        for folder, _, names in os.walk(root):
            for name in names:
                path = PurePosixPath((Path(folder) / name).relative_to(root).as_posix())
                if _is_image(path) and (entry := self._entry(path)) is not None:
                    samples.append(entry)
        self.samples = _sorted(samples, f"the folder {root}")

    def _entry(self, path: PurePosixPath) -> SampleEntry | None:
        try:
            str(path).encode()
        except UnicodeEncodeError as error:
            raise UnreadableDataset(f"the name of the file {str(path)!a} is not UTF-8; expected one that is") from error
        try:
            status = (self.root / path).stat()
        except OSError:  # a dangling link, say: a sample all the same, and reading it says why it has no pixels
            return SampleEntry(str(path), 0)
        return SampleEntry(str(path), status.st_size) if stat.S_ISREG(status.st_mode) else None

    def read(self, path: str) -> bytes:
        """Returns the encoded bytes of a sample.

        Raises:
            UndecodableImage: the file cannot be read.
        """
        try:
            with (self.root / path).open("rb") as file:
                data = file.read(MAX_IMAGE_BYTES + 1)
        except OSError as error:
            raise UndecodableImage(f"the file {path} cannot be read: {error.strerror}") from error
        if len(data) > MAX_IMAGE_BYTES:
            raise UndecodableImage(f"the file {path} is too large; at most {MAX_IMAGE_BYTES} bytes are read")
        return data

    def close(self) -> None:
        """Nothing is held open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class ZipDataset:
    """Image members of a zip archive; nothing is ever unpacked to disk."""

    def __init__(self, path: Path) -> None:
        try:
            self.archive = zipfile.ZipFile(path)
        except UnicodeDecodeError as error:
            raise UnreadableDataset(f"a name in the zip archive {path.name} is not UTF-8; expected that") from error
        except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
            raise UnreadableDataset(f"the zip archive {path.name} is damaged: {error}") from error
        self._members = self._usable_members()
        samples = [SampleEntry(name, info.file_size) for name, info in self._members.items()]
        self.samples = _sorted(samples, f"the archive {path.name}")

    def _usable_members(self) -> dict[str, zipfile.ZipInfo]:
        infos = self.archive.infolist()
        if len(infos) > MAX_MEMBERS:
            raise UnsafeArchive(f"the archive has {len(infos)} members; at most {MAX_MEMBERS} are read")
        members: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            path = PurePosixPath(info.filename)
            if path.is_absolute() or ".." in path.parts or "\\" in info.filename:
                raise UnsafeArchive(f"the member {info.filename!r} points outside the archive")
            if stat.S_ISLNK(info.external_attr >> 16):
                raise UnsafeArchive(f"the member {info.filename!r} is a link; links are not followed")
            if info.is_dir() or not _is_image(path):
                continue
            if info.flag_bits & 1:
                raise UnsafeArchive(f"the member {info.filename!r} is encrypted")
            if info.file_size > MAX_IMAGE_BYTES:
                raise UnsafeArchive(f"{info.filename!r} has {info.file_size} bytes; at most {MAX_IMAGE_BYTES} are read")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others unpack without bound
                raise UnsafeArchive(
                    f"{info.filename!r} is packed in a way that is not read; expected stored or deflated"
                )
            if members.setdefault(str(path), info) is not info:
                raise UnsafeArchive(f"the member {info.filename!r} occurs twice")
        return members

    def read(self, path: str) -> bytes:
        """Returns the encoded bytes of a sample.

        Raises:
            UndecodableImage: the member is damaged, or there is none.
        """
        info = self._members.get(path)
        if info is None:
            raise UndecodableImage(f"there is no member {path}")
        try:
            with self.archive.open(info) as member:
                # No more than the declared size, which was checked above, is unpacked before the checksum is compared.
                data = member.read(info.file_size)
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, OSError, ValueError) as error:
            raise UndecodableImage(f"the member {path} is damaged: {error}") from error
        if len(data) != info.file_size:
            raise UndecodableImage(f"the member {path} is damaged: {len(data)} of {info.file_size} bytes are there")
        return data

    def close(self) -> None:
        """Closes the archive."""
        self.archive.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
