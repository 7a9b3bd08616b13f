"""Byte ranges of files, read in place by any number of threads; what is packed goes to a temporary file first."""

import bz2
import gzip
import io
import lzma
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from sslmem.errors import UnreadableDataset, UnsafeArchive

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BLOCK = 2**20
MAX_RATIO = 200  # of what is unpacked to what was packed; pictures of one colour deflate 1000 to 1, whole sets do not
FREE_BYTES = 2**30  # so much may be unpacked whatever the ratio
MAX_UNPACKED = 2**40
XZ_MEMORY = 256 * 2**20


class Window(io.RawIOBase):
    """A range of an open file as a file of its own. It has a position for readers that need one; `pread` has none.

    Closing a window of a whole file closes the file; closing a part of one does nothing.
    """

    def __init__(self, file: IO[bytes], start: int, size: int, *, owner: bool = False) -> None:
        self._file, self.start, self.size, self._owner = file, start, size, owner
        self._position = 0

    @classmethod
    def of_path(cls, path: Path) -> "Window":
        """A whole file."""
        file = path.open("rb")
        return cls(file, 0, os.fstat(file.fileno()).st_size, owner=True)

    def pread(self, size: int, offset: int) -> bytes:
        """At most ``size`` bytes from ``offset`` on, fewer at the end."""
        size = max(0, min(size, self.size - offset))
        data = os.pread(self._file.fileno(), size, self.start + offset)
        while len(data) < size:  # one call reads 2 GiB at most
            more = os.pread(self._file.fileno(), size - len(data), self.start + offset + len(data))
            if not more:
                break
            data += more
        return data

    def part(self, start: int, size: int) -> "Window":
        """A range of this range."""
        return Window(self._file, self.start + start, size)

    def buffered(self) -> io.BufferedReader:
        """Reads forward in large blocks."""
        return io.BufferedReader(Window(self._file, self.start, self.size), BLOCK)

    def close_file(self) -> None:
        """Closes the file, if this window is all of it; `close` is for readers that are done with a range."""
        if self._owner:
            self._file.close()

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves to where the next read begins."""
        self._position = max(0, (0, self._position, self.size)[whence] + offset)
        return self._position

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Fills a buffer from the position on."""
        view = memoryview(buffer).cast("B")
        data = self.pread(len(view), self._position)
        view[: len(data)] = data
        self._position += len(data)
        return len(data)


def spool(blocks: Iterator[bytes], num_packed: int, name: str) -> Window:
    """Writes unpacked blocks to a temporary file, which is gone when it is closed.

    Raises:
        UnsafeArchive: they are far more than was packed.
    """
    limit = min(MAX_UNPACKED, max(FREE_BYTES, MAX_RATIO * num_packed))
    file = cast("IO[bytes]", tempfile.TemporaryFile(prefix="sslmem-"))  # noqa: SIM115  closed with the dataset
    size = 0
    try:
        for block in blocks:
            size += len(block)
            if size > limit:
                raise UnsafeArchive(f"{name} unpacks to more than {limit} bytes; {num_packed} were packed")
            file.write(block)
        file.flush()
    except BaseException:
        file.close()
        raise
    return Window(file, 0, size, owner=True)


def _xz_blocks(window: Window) -> Iterator[bytes]:
    decompressor = lzma.LZMADecompressor(memlimit=XZ_MEMORY)
    packed, offset = b"", 0
    while not decompressor.eof:
        if decompressor.needs_input:
            packed = window.pread(BLOCK, offset)
            offset += len(packed)
            if not packed:
                raise EOFError("the file ends in the middle")
        yield decompressor.decompress(packed, BLOCK)
        packed = b""


def _file_blocks(open_file: Callable[[Any], IO[bytes]]) -> Callable[[Window], Iterator[bytes]]:
    def blocks(window: Window) -> Iterator[bytes]:
        with open_file(window.buffered()) as file:
            while block := file.read(BLOCK):
                yield block

    return blocks


PACKED: dict[bytes, Callable[[Window], Iterator[bytes]]] = {
    b"\x1f\x8b": _file_blocks(lambda raw: cast("IO[bytes]", gzip.GzipFile(fileobj=raw))),
    b"BZh": _file_blocks(lambda raw: cast("IO[bytes]", bz2.BZ2File(raw))),
    b"\xfd7zXZ\x00": _xz_blocks,
}


def is_packed(head: bytes) -> bool:
    """Whether a file begins as one packed by gzip, bzip2 or xz does."""
    return head.startswith(tuple(PACKED))


def _unpacker(window: Window) -> Callable[[Window], Iterator[bytes]] | None:
    head = window.pread(8, 0)
    return next((blocks for magic, blocks in PACKED.items() if head.startswith(magic)), None)


def head_of(window: Window, size: int, name: str) -> bytes:
    """The first bytes of a file, unpacked if it is packed by gzip, bzip2 or xz."""
    blocks = _unpacker(window)
    if blocks is None:
        return window.pread(size, 0)
    return next((block for block in _whole(blocks(window), name) if block), b"")[:size]


def unpacked(window: Window, name: str) -> Window:
    """The window itself, or, of a file packed by gzip, bzip2 or xz, its content in a temporary file.

    Raises:
        UnreadableDataset: what is packed is damaged.
        UnsafeArchive: it unpacks to far more than was packed.
    """
    blocks = _unpacker(window)
    if blocks is None:
        return window
    content = spool(_whole(blocks(window), name), window.size, name)
    if _unpacker(content) is not None:
        content.close_file()
        raise UnsafeArchive(f"{name} is packed twice; expected once")
    return content


def _whole(blocks: Iterator[bytes], name: str) -> Iterator[bytes]:
    try:
        yield from blocks
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UnreadableDataset(f"{name} is packed, and damaged: {error}") from error
