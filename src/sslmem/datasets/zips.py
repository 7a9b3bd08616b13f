"""Zip archives, read in place.

The directory is read as a stream: the standard library keeps all of it, 0.6 GB for a million members. Format: APPNOTE
6.3.10, sections 4.3.7 (local headers), 4.3.12 (directory), 4.3.14 to 4.3.16 (its end), 4.5.3 (zip64).
"""

import stat
import struct
import zlib
from collections.abc import Iterator

from sslmem.datasets.containers import MAX_IMAGE_BYTES, Bounds, Member, Place, safe_name
from sslmem.datasets.window import BLOCK, Window, spool
from sslmem.errors import UndecodableImage, UnreadableDataset, UnsafeArchive

END = struct.Struct("<4s4H2LH")
END64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR = struct.Struct("<4sLQL")
ENTRY = struct.Struct("<4s6H3L5H2L")
LOCAL = struct.Struct("<4s5H3L2H")
MAX_COMMENT = 0xFFFF
ENCRYPTED, UTF8 = 1, 1 << 11
STORED, DEFLATED = 0, 8
ZIP64_FIELD = 1


class ZipArchive:
    """A zip archive; nothing is unpacked to disk but large deflated members that are opened."""

    kind = "zip archive"

    def __init__(self, window: Window, name: str) -> None:
        self._window, self._name = window, name
        self._directory, self._num_entries = self._find_directory()

    def _damaged(self, what: str) -> UnreadableDataset:
        return UnreadableDataset(f"the zip archive {self._name} is damaged: {what}")

    def _find_directory(self) -> tuple[Window, int]:
        window = self._window
        tail_size = min(window.size, END.size + MAX_COMMENT)
        tail = window.pread(tail_size, window.size - tail_size)
        place = tail.rfind(b"PK\x05\x06")
        if place < 0 or len(tail) - place < END.size:
            raise self._damaged("it has no end; was it cut off?")
        _, _, _, _, count, size, start, _ = END.unpack_from(tail, place)
        end = window.size - tail_size + place
        locator = window.pread(LOCATOR.size, end - LOCATOR.size) if end >= LOCATOR.size else b""
        if locator.startswith(b"PK\x06\x07"):
            end = LOCATOR.unpack(locator)[2]
            record = window.pread(END64.size, end)
            if len(record) < END64.size or not record.startswith(b"PK\x06\x06"):
                raise self._damaged("its end is not where it says")
            *_, count, size, start = END64.unpack(record)
        if start + size != end:
            raise self._damaged("its directory is not where it says")
        return window.part(start, size), count

    def members(self) -> Iterator[Member]:
        """Lists the files.

        Raises:
            UnsafeArchive: it has links, paths outside itself, encrypted or overlapping members, members packed
                otherwise than by deflation, or too many.
            UnreadableDataset: it is damaged, or a name is not UTF-8.
        """
        bounds, count = Bounds(self._window.size), 0
        with self._directory.buffered() as directory:
            while header := directory.read(ENTRY.size):
                if len(header) < ENTRY.size or not header.startswith(b"PK\x01\x02"):
                    raise self._damaged("an entry of its directory is none")
                fields = ENTRY.unpack(header)
                raw, extra = directory.read(fields[10]), directory.read(fields[11])
                directory.read(fields[12])
                count += 1
                member = self._member(fields, raw, extra)
                bounds.add(member.place.num_packed + LOCAL.size, member.place.num_bytes)
                if not raw.endswith(b"/"):
                    yield member
        if count != self._num_entries:
            raise self._damaged(f"it should have {self._num_entries} members, and has {count}")

    def _member(self, fields: tuple[int, ...], raw: bytes, extra: bytes) -> Member:
        flags, method, crc = fields[3], fields[4], fields[7]
        try:
            name = raw.decode("utf-8" if flags & UTF8 else "cp437")
        except UnicodeDecodeError as error:
            raise UnreadableDataset(f"a name in the zip archive {self._name} is not UTF-8; expected that") from error
        path = safe_name(name)
        if stat.S_ISLNK(fields[15] >> 16):
            raise UnsafeArchive(f"the member {name!r} is a link; links are not followed")
        num_packed, num_bytes, start = self._sizes(fields, extra)
        if flags & ENCRYPTED:
            method = -1
        return Member(path, Place(name, start, num_packed, num_bytes, method, crc))

    def _sizes(self, fields: tuple[int, ...], extra: bytes) -> tuple[int, int, int]:
        """Packed size, size and start: of 64 bits where 32 are not enough."""
        num_packed, num_bytes, start = fields[8], fields[9], fields[16]
        wide: dict[int, bytes] = {}
        while len(extra) >= 4:
            kind, size = struct.unpack_from("<HH", extra)
            wide.setdefault(kind, extra[4 : 4 + size])
            extra = extra[4 + size :]
        field = wide.get(ZIP64_FIELD, b"")
        found = []
        for value in (num_bytes, num_packed, start):
            if value != 0xFFFFFFFF:
                found.append(value)
                continue
            if len(field) < 8:
                raise self._damaged("a size of 64 bits is missing")
            found.append(int.from_bytes(field[:8], "little"))
            field = field[8:]
        num_bytes, num_packed, start = found
        return num_packed, num_bytes, start

    def _data(self, place: Place) -> Window:
        """The packed bytes of a member, after its local header."""
        header = self._window.pread(LOCAL.size, place.start)
        if len(header) < LOCAL.size or not header.startswith(b"PK\x03\x04"):
            raise UndecodableImage(f"the member {place.path} is damaged: it is not where the directory says")
        fields = LOCAL.unpack(header)
        start = place.start + LOCAL.size + fields[9] + fields[10]
        if start + place.num_packed > self._window.size:
            raise UndecodableImage(f"the member {place.path} is damaged: it goes beyond the archive's end")
        return self._window.part(start, place.num_packed)

    def read(self, place: Place) -> bytes:
        """Returns the content of a member.

        Raises:
            UndecodableImage: it is damaged.
        """
        data = self._data(place)
        if place.num_packed > MAX_IMAGE_BYTES + BLOCK:
            raise UndecodableImage(f"the member {place.path} is too large; at most {MAX_IMAGE_BYTES} bytes are read")
        content = data.pread(place.num_packed, 0)
        if place.method == DEFLATED:
            try:
                # No more than the declared size, which was checked, is unpacked before the checksum is compared.
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, place.num_bytes + 1)
            except zlib.error as error:
                raise UndecodableImage(f"the member {place.path} is damaged: {error}") from error
        if len(content) != place.num_bytes:
            found = f"at least {place.num_bytes + 1}" if len(content) > place.num_bytes else f"{len(content)}"
            raise UndecodableImage(f"the member {place.path} is damaged: {found} bytes for {place.num_bytes}")
        if zlib.crc32(content) != place.crc:
            raise UndecodableImage(f"the member {place.path} is damaged: Bad CRC-32")
        return content

    def open(self, place: Place) -> Window:
        """A member as a file of its own; a deflated one is unpacked to a temporary file.

        Raises:
            UnreadableDataset: it is damaged.
            UnsafeArchive: it is encrypted, packed otherwise than by deflation, or unfolds too far.
        """
        check_packing(place)
        try:
            data = self._data(place)
        except UndecodableImage as error:
            raise UnreadableDataset(error.detail) from error
        if place.method == STORED:
            if place.num_packed != place.num_bytes:
                raise self._damaged(f"the member {place.path} has two sizes")
            return data
        return spool(_inflated(data, place), place.num_packed, f"the member {place.path}")

    def head(self, place: Place, size: int) -> bytes:
        """Returns the first bytes of a member, none of one that cannot be read."""
        try:
            data = self._data(place).pread(size + BLOCK if place.method == DEFLATED else size, 0)
            if place.method == DEFLATED:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size)
        except (UndecodableImage, zlib.error):
            return b""
        return data if place.method in (STORED, DEFLATED) else b""

    def close(self) -> None:
        """Closes the archive."""
        self._window.close_file()


def check_packing(place: Place) -> None:
    """Accepts members that can be read in bounded memory.

    Raises:
        UnsafeArchive: it is encrypted, or packed otherwise than by deflation.
    """
    if place.method < 0:
        raise UnsafeArchive(f"the member {place.path!r} is encrypted")
    if place.method not in (STORED, DEFLATED):  # others unpack without bound
        raise UnsafeArchive(f"{place.path!r} is packed in a way that is not read; expected stored or deflated")


def _inflated(data: Window, place: Place) -> Iterator[bytes]:
    inflate, offset, size, crc = zlib.decompressobj(-zlib.MAX_WBITS), 0, 0, 0
    try:
        while not inflate.eof:
            packed = inflate.unconsumed_tail
            if not packed:
                packed = data.pread(BLOCK, offset)
                offset += len(packed)
            block = inflate.decompress(packed, BLOCK)
            if not packed and not block:
                break
            size, crc = size + len(block), zlib.crc32(block, crc)
            if size > place.num_bytes:
                break
            yield block
    except zlib.error as error:
        raise UnreadableDataset(f"the member {place.path} is damaged: {error}") from error
    if (size, crc) != (place.num_bytes, place.crc):
        raise UnreadableDataset(f"the member {place.path} is damaged: its size or checksum is not what it says")
