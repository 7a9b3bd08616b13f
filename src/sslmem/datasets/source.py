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
        UnreadableDataset: there is nothing there, or it is neither.
        UnsafeArchive: the archive has links, paths outside itself, duplicate or encrypted members, or too many.
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
    """Image files below a folder; links to folders are not followed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        samples = []
        for folder, _, names in os.walk(root):
            for name in names:
                path = PurePosixPath((Path(folder) / name).relative_to(root).as_posix())
                if _is_image(path):
                    samples.append(SampleEntry(str(path), (root / path).stat().st_size))
        self.samples = _sorted(samples, f"the folder {root}")

    def read(self, path: str) -> bytes:
        """Returns the encoded bytes of a sample.

        Raises:
            UndecodableImage: the file cannot be read.
        """
        try:
            return (self.root / path).read_bytes()
        except OSError as error:
            raise UndecodableImage(f"the file {path} cannot be read: {error.strerror}") from error

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
            self.samples = _sorted(self._members(), f"the archive {path.name}")
        except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
            raise UnreadableDataset(f"the zip archive {path.name} is damaged: {error}") from error

    def _members(self) -> list[SampleEntry]:
        infos = self.archive.infolist()
        if len(infos) > MAX_MEMBERS:
            raise UnsafeArchive(f"the archive has {len(infos)} members; at most {MAX_MEMBERS} are read")
        samples, seen = [], set()
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
            if str(path) in seen:
                raise UnsafeArchive(f"the member {info.filename!r} occurs twice")
            seen.add(str(path))
            samples.append(SampleEntry(info.filename, info.file_size))
        return samples

    def read(self, path: str) -> bytes:
        """Returns the encoded bytes of a sample.

        Raises:
            UndecodableImage: the member is damaged.
        """
        try:
            # The declared size was checked above; zipfile stops there and compares the checksum.
            return self.archive.read(path)
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, OSError, ValueError) as error:
            raise UndecodableImage(f"the member {path} is damaged: {error}") from error

    def close(self) -> None:
        """Closes the archive."""
        self.archive.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
