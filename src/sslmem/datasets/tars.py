"""Tar archives, read in place: one pass over the headers finds every member.

The standard library recurses over chained headers, reads extended headers of any size into memory, and takes 40
microseconds for a member. Formats: POSIX.1-2001 (ustar, pax) and GNU long names.
"""

from collections.abc import Iterator

from sslmem.datasets.containers import MAX_IMAGE_BYTES, MAX_NAME_BYTES, Bounds, Member, Place, safe_name
from sslmem.datasets.window import Window
from sslmem.errors import UndecodableImage, UnreadableDataset, UnsafeArchive

RECORD = 512
MAX_EXTENDED = 2**20
FILES, FOLDER, LINKS, DEVICES = b"\x000\x007", b"5", b"12", b"346"
PAX, PAX_GLOBAL, LONG_NAME, LONG_LINK, SPARSE = b"x", b"g", b"L", b"K", b"S"


def _checksum(header: bytes) -> bool:
    try:
        stated = int(header[148:156].strip(b"\0 ") or b"x", 8)
    except ValueError:
        return False
    return stated == sum(header) - sum(header[148:156]) + 8 * 32


def is_tar(head: bytes) -> bool:
    """Whether a file begins with the header of a tar member."""
    return len(head) >= RECORD and any(head[:100]) and _checksum(head[:RECORD])


def _number(field: bytes) -> int:
    """An octal number, or GNU's binary one, of which negative ones are none."""
    if field[0] & 0x80:
        if field[0] != 0x80:
            raise ValueError("a negative size")
        return int.from_bytes(field[1:], "big")
    number = int(field.strip(b"\0 ") or b"0", 8)
    if number < 0:
        raise ValueError("a negative size")
    return number


def _pax(data: bytes) -> dict[bytes, bytes]:
    """Records of a length, a space, a key, "=", a value and the end of the line."""
    found = {}
    while data:
        length, _, rest = data.partition(b" ")
        size = int(length)
        key, equals, value = rest[: size - len(length) - 1].partition(b"=")
        if not equals or not value.endswith(b"\n") or size > len(data):
            raise ValueError("an extended header that is none")
        found[key] = value[:-1]
        data = data[size:]
    return found


class TarArchive:
    """A plain tar archive."""

    kind = "tar archive"

    def __init__(self, window: Window, name: str) -> None:
        self._window, self._name = window, name

    def members(self) -> Iterator[Member]:
        """Lists the files.

        Raises:
            UnsafeArchive: it has links, devices, sparse files, paths outside itself, or too many members.
            UnreadableDataset: it is damaged, or a name is not UTF-8.
        """
        window, bounds = self._window, Bounds(self._window.size)
        offset, extended = 0, dict[bytes, bytes]()
        while offset < window.size:
            header = window.pread(RECORD, offset)
            if not any(header):  # the end; what follows is padding
                return
            if len(header) < RECORD or not _checksum(header):
                raise self._damaged("a header is none; was it cut off?")
            try:
                size = _number(b"%o" % int(extended[b"size"]) if b"size" in extended else header[124:136])
            except ValueError as error:
                raise self._damaged(f"a size is none ({error})") from error
            data, kind = offset + RECORD, header[156:157]
            offset = data + size + -size % RECORD
            if data + size > window.size:
                raise self._damaged("it ends in the middle of a member")
            bounds.add(size + RECORD, size)
            if kind in (PAX, LONG_NAME, LONG_LINK, PAX_GLOBAL):
                extended |= self._extended(kind, data, size)
                continue
            name = self._name_of(header, extended)
            member = self._member(name, kind, extended, data, size)
            extended = {}
            if member is not None:
                yield member
        raise self._damaged("it has no end; was it cut off?")

    def _damaged(self, what: str) -> UnreadableDataset:
        return UnreadableDataset(f"the tar archive {self._name} is damaged: {what}")

    def _extended(self, kind: bytes, start: int, size: int) -> dict[bytes, bytes]:
        if kind == PAX_GLOBAL:  # comments and times, as git writes them
            return {}
        if size > MAX_EXTENDED:
            raise UnsafeArchive(f"an extended header has {size} bytes; at most {MAX_EXTENDED} are read")
        data = self._window.pread(size, start)
        if kind == PAX:
            try:
                return _pax(data)
            except ValueError as error:
                raise self._damaged("an extended header is none") from error
        return {b"path": data.rstrip(b"\0")} if kind == LONG_NAME else {}

    def _name_of(self, header: bytes, extended: dict[bytes, bytes]) -> str:
        raw = extended.get(b"path")
        if raw is None:
            raw = header[:100].split(b"\0")[0]
            prefix = header[345:500].split(b"\0")[0]
            if header[257:263] == b"ustar\0" and prefix:  # GNU keeps times there
                raw = prefix + b"/" + raw
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise UnreadableDataset(f"a name in the tar archive {self._name} is not UTF-8; expected that") from error

    def _member(self, name: str, kind: bytes, extended: dict[bytes, bytes], data: int, size: int) -> Member | None:
        path = safe_name(name)
        shown = name[:MAX_NAME_BYTES]
        if kind in LINKS:
            raise UnsafeArchive(f"the member {shown!r} is a link; links are not followed")
        if kind in DEVICES:
            raise UnsafeArchive(f"the member {shown!r} is a device or pipe; expected files")
        if kind == SPARSE or any(key.startswith(b"GNU.sparse") for key in extended):
            raise UnsafeArchive(f"the member {shown!r} is sparse; expected whole files")
        if kind == FOLDER or (kind == b"\0" and name.endswith("/")):
            return None
        if kind not in FILES:
            raise UnsafeArchive(f"the member {shown!r} is of a kind that is not read; expected files")
        return Member(path, Place(name, data, size, size))

    def read(self, place: Place) -> bytes:
        """Returns the content of a member.

        Raises:
            UndecodableImage: it is too large.
        """
        if place.num_bytes > MAX_IMAGE_BYTES:
            raise UndecodableImage(f"the member {place.path} is too large; at most {MAX_IMAGE_BYTES} bytes are read")
        return self._window.pread(place.num_bytes, place.start)

    def open(self, place: Place) -> Window:
        """A member as a file of its own."""
        return self._window.part(place.start, place.num_bytes)

    def head(self, place: Place, size: int) -> bytes:
        """Returns the first bytes of a member."""
        return self._window.pread(min(size, place.num_bytes), place.start)

    def close(self) -> None:
        """Closes the archive."""
        self._window.close_file()
