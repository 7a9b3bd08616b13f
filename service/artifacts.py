"""Uploaded files, addressed by the SHA-256 digest of their content, in a folder."""

import contextlib
import errno
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from service.errors import ArtifactNotFound, DigestMismatch, InvalidRequest, StorageFull, UploadTooLarge

ABANDONED_SECONDS = 24 * 3600
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class StoredFile:
    """A file of the store; ``modified_at`` is when its last byte was written, in seconds since 1970."""

    digest: str
    num_bytes: int
    modified_at: float


class IncomingArtifact:
    """A file that is arriving; it exists for others only once it is complete and kept.

    Attributes:
        num_bytes: that have arrived.
        digest: of the whole file, once :meth:`finish` was called.
    """

    def __init__(self, file: Path, root: Path, limit: int) -> None:
        self.path, self._root, self._limit = file, root, limit
        self._out = file.open("wb")
        self._hash = hashlib.sha256()
        self.num_bytes = 0
        self.digest = ""

    def write(self, data: bytes) -> None:
        """Appends bytes.

        Raises:
            UploadTooLarge: there are more than allowed.
            StorageFull: there is no room.
        """
        self.num_bytes += len(data)
        if self.num_bytes > self._limit:
            raise UploadTooLarge(f"expected at most {self._limit} bytes; more arrived")
        self._hash.update(data)
        try:
            self._out.write(data)
        except OSError as error:
            raise _full(error) from error

    def keep(self, expected: str | None = None) -> str:
        """Makes the complete file an artifact and returns its digest; see :meth:`finish` for the errors."""
        self.finish(expected)
        self.place()
        return self.digest

    def finish(self, expected: str | None = None) -> None:
        """Ends writing: the file is on the disk and its digest known, but it is not in the store yet.

        Raises:
            DigestMismatch: the digest is not the expected one.
            StorageFull: there is no room.
        """
        digest = f"sha256:{self._hash.hexdigest()}"
        if expected is not None and digest != expected:
            raise DigestMismatch(f"expected the digest {expected}; {self.num_bytes} bytes arrived with {digest}")
        try:
            self._out.flush()
            os.fsync(self._out.fileno())
        except OSError as error:
            raise _full(error) from error
        self._out.close()
        self.digest = digest

    def place(self) -> None:
        """Puts the finished file into the store."""
        place = _place(self._root, self.digest)
        place.parent.mkdir(parents=True, exist_ok=True)
        self.path.replace(place)
        _sync_folder(place.parent)

    def close(self) -> None:
        """Drops what was not kept."""
        with contextlib.suppress(OSError):
            self._out.close()
        self.path.unlink(missing_ok=True)


class ArtifactStore:
    """A folder of artifacts, shared by API and workers."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextlib.contextmanager
    def incoming(self, limit: int) -> Iterator[IncomingArtifact]:
        """Opens a file to write an artifact into; nothing is left of it unless it is kept."""
        folder = self.root / "incoming"
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder)
        os.close(handle)
        artifact = IncomingArtifact(Path(name), self.root, limit)
        try:
            yield artifact
        finally:
            artifact.close()

    def discard_abandoned(self, seconds: float = ABANDONED_SECONDS) -> None:
        """Removes what uploads left that were cut off by the end of their process, after so long without a byte."""
        for file in (self.root / "incoming").glob("*"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - file.stat().st_mtime > seconds:
                    file.unlink()

    def put_file(self, path: Path) -> str:
        """Copies a file into the store and returns its digest."""
        with self.incoming(path.stat().st_size) as artifact, path.open("rb") as file:
            while block := file.read(2**20):
                artifact.write(block)
            return artifact.keep()

    def path(self, digest: str) -> Path:
        """Where an artifact lies.

        Raises:
            ArtifactNotFound: it does not exist.
            InvalidRequest: the digest has not the form ``sha256:`` and 64 hexadecimal digits.
        """
        if not DIGEST.fullmatch(digest):
            raise InvalidRequest(f"expected a digest like sha256: and 64 hexadecimal digits; found {digest[:100]!r}")
        place = _place(self.root, digest)
        if not place.is_file():
            raise ArtifactNotFound(f"there is no file with the digest {digest}; upload it first")
        return place

    def remove(self, digest: str) -> None:
        """Removes an artifact; harmless if it is gone."""
        _place(self.root, digest).unlink(missing_ok=True)

    def files(self, after: str | None = None) -> Iterator[StoredFile]:
        """Yields all artifacts in the order of their digests, or those after one; what goes meanwhile is left out."""
        last = after or ""
        for folder in sorted(self.root.glob("[0-9a-f][0-9a-f]")):
            if f"sha256:{folder.name}" < last[: len("sha256:ab")]:
                continue
            for file in sorted(folder.iterdir()):
                digest = f"sha256:{file.name}"
                if digest > last and DIGEST.fullmatch(digest):
                    with contextlib.suppress(FileNotFoundError):
                        found = file.stat()
                        yield StoredFile(digest, found.st_size, found.st_mtime)

    def incoming_sizes(self) -> list[int]:
        """Bytes of each upload that has not ended."""
        sizes = []
        for file in (self.root / "incoming").glob("*"):
            with contextlib.suppress(FileNotFoundError):
                sizes.append(file.stat().st_size)
        return sizes


def _place(root: Path, digest: str) -> Path:
    name = digest.removeprefix("sha256:")
    return root / name[:2] / name


def _full(error: OSError) -> StorageFull | OSError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull()
    return error


def _sync_folder(folder: Path) -> None:
    """Makes the new name survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
