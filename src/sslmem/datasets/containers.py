"""What folders and archives have in common: members with a name and a place, listed once and read in any order."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from sslmem.datasets.window import FREE_BYTES, MAX_RATIO, Window
from sslmem.errors import UnsafeArchive

MAX_MEMBERS = 5_000_000
MAX_IMAGE_BYTES = 256 * 2**20
MAX_NAME_BYTES = 4096


class Place(NamedTuple):
    """Where a member lies in its container, and how it is packed there; a folder needs no more than its path."""

    path: str
    start: int = 0
    num_packed: int = 0
    num_bytes: int = 0
    method: int = 0
    crc: int = 0


@dataclass(frozen=True)
class Member:
    """A file of a container: its normalised path, with forward slashes, and its place."""

    name: str
    place: Place


class Container(Protocol):
    """A folder or archive. Members are listed once; the other methods may be called from several threads."""

    kind: str

    def members(self) -> Iterator[Member]:
        """Lists the files in the order in which they lie there; raises UnsafeArchive and UnreadableDataset."""

    def read(self, place: Place) -> bytes:
        """Returns a whole member; raises UndecodableImage if that cannot be done."""

    def open(self, place: Place) -> Window:
        """A large member as a file of its own, unpacked to a temporary file if it must be."""

    def head(self, place: Place, size: int) -> bytes:
        """Returns the first bytes of a member."""

    def close(self) -> None:
        """Releases the files."""


class Bounds:
    """Counts what an archive says it holds, and refuses it where that is too much.

    Entries that overlap, with which a few kilobytes unfold to petabytes, add up to more than the archive has.
    """

    def __init__(self, archive_bytes: int) -> None:
        self._archive_bytes = archive_bytes
        self._num_members = self._num_packed = self._num_unpacked = 0

    def add(self, num_packed: int, num_unpacked: int) -> None:
        """Counts a member.

        Raises:
            UnsafeArchive: there are too many, they overlap, or they unfold too far.
        """
        self._num_members += 1
        self._num_packed += num_packed
        self._num_unpacked += num_unpacked
        if self._num_members > MAX_MEMBERS:
            raise UnsafeArchive(f"the archive has more members than are read; expected at most {MAX_MEMBERS}")
        if self._num_packed > self._archive_bytes:
            raise UnsafeArchive("the archive's members overlap: together they are larger than the archive")
        if self._num_unpacked > max(FREE_BYTES, MAX_RATIO * self._archive_bytes):
            raise UnsafeArchive(
                f"the archive's members unfold to more than {MAX_RATIO} times the archive; expected pictures"
            )


def safe_name(name: str) -> str:
    """The path of a member, normalised.

    Raises:
        UnsafeArchive: it leaves the archive, or is no path that a file could have.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]  # pathlib would keep each for a while
    if name.startswith("/") or ".." in parts or "\\" in name:
        raise UnsafeArchive(f"the member {name[:MAX_NAME_BYTES]!r} points outside the archive")
    if "\0" in name or len(name) > MAX_NAME_BYTES:
        raise UnsafeArchive(f"the member {name[:80]!r} has a name that no file can have")
    return "/".join(parts)
