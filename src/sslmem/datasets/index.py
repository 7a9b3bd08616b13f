"""Names and places of many samples, in the order of names: in memory while they are few, else in a temporary file."""

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, overload

from sslmem.datasets.containers import Place
from sslmem.datasets.protocol import SampleEntry
from sslmem.errors import UnsafeArchive

CACHE_KIB = 8192
PAGE = 1000
COLUMNS = (
    "name TEXT, label TEXT, container INT, path TEXT, start INT, num_packed INT, num_bytes INT, method INT, crc INT"
)


class Found(NamedTuple):
    """A sample as it was listed.

    Attributes:
        name: of the sample.
        label: as its folder says, if it does.
        key: what a file with its label is called, if there may be one.
        container: which one it is in, by number.
        place: where in it.
    """

    name: str
    label: str | None
    key: str | None
    container: int
    place: Place


class Index(Sequence[SampleEntry]):
    """Samples by name and by position.

    Args:
        found: the samples in any order.
        labels: filled while ``found`` is consumed: labels by container and key.

    Raises:
        UnsafeArchive: a name occurs twice.
    """

    def __init__(self, found: Iterable[Found], labels: "list[tuple[int, str, str]]") -> None:
        self._lock = threading.Lock()
        # An unnamed database lies in SQLite's cache, and in a file that nobody else sees once that is full.
        self._db = sqlite3.connect("", check_same_thread=False)
        self._db.executescript(
            f"PRAGMA cache_size = -{CACHE_KIB}; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
            f"CREATE TABLE found ({COLUMNS}, key TEXT);"
            "CREATE TABLE label (container INT, key TEXT, label TEXT, PRIMARY KEY (container, key)) WITHOUT ROWID;"
        )
        self._db.executemany("INSERT INTO found VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", self._rows(found, labels))
        self._store(labels)
        self._sort()

    def _rows(self, found: Iterable[Found], labels: "list[tuple[int, str, str]]") -> Iterator[tuple[object, ...]]:
        for one in found:
            yield one.name, one.label, one.container, *one.place, one.key
            if len(labels) >= PAGE:
                self._store(labels)

    def _store(self, labels: "list[tuple[int, str, str]]") -> None:
        self._db.executemany("INSERT OR IGNORE INTO label VALUES (?, ?, ?)", labels)
        labels.clear()

    def _sort(self) -> None:
        twice = "SELECT name FROM sample GROUP BY name HAVING count(*) > 1 LIMIT 1"
        self._db.executescript(
            f"CREATE TABLE sample (position INTEGER PRIMARY KEY, {COLUMNS});"  # noqa: S608  constants of ours
            "INSERT INTO sample SELECT row_number() OVER (ORDER BY name) - 1, name,"
            " coalesce(label.label, found.label), found.container, path, start, num_packed, num_bytes, method, crc"
            " FROM found LEFT JOIN label ON label.container = found.container AND label.key = found.key ORDER BY name;"
            "DROP TABLE found; DROP TABLE label; CREATE INDEX sample_name ON sample (name);"
        )
        if row := self._one(twice):
            raise UnsafeArchive(f"the member {row[0]!r} occurs twice")
        lowest = self._one("SELECT min(label), max(label), count(label), count(*) FROM sample")
        self._length = int(lowest[3])
        if lowest[0] is not None and lowest[0] == lowest[1] and lowest[2] == lowest[3]:
            self._db.execute("UPDATE sample SET label = NULL")  # one folder around everything is no class

    def _one(self, statement: str, *values: object) -> Any:  # noqa: ANN401  a row, or None
        with self._lock:
            return self._db.execute(statement, values).fetchone()

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, position: int) -> SampleEntry: ...
    @overload
    def __getitem__(self, position: slice) -> list[SampleEntry]: ...
    def __getitem__(self, position: int | slice) -> SampleEntry | list[SampleEntry]:
        if isinstance(position, slice):
            return [self[i] for i in range(*position.indices(self._length))]
        if not -self._length <= position < self._length:
            raise IndexError(position)
        row = self._one("SELECT name, label FROM sample WHERE position = ?", position % self._length)
        return SampleEntry(*row)

    def __iter__(self) -> Iterator[SampleEntry]:
        """Goes through all samples, some at a time, so that others can read in between."""
        for start in range(0, self._length, PAGE):
            with self._lock:
                rows = self._db.execute(
                    "SELECT name, label FROM sample WHERE position >= ? AND position < ? ORDER BY position",
                    (start, start + PAGE),
                ).fetchall()
            yield from (SampleEntry(*row) for row in rows)

    def position(self, name: str) -> int | None:
        """Where a sample stands in the order of names."""
        row = self._one("SELECT position FROM sample WHERE name = ?", name)
        return None if row is None else row[0]

    def below(self, folder: str) -> range:
        """The positions of the samples in a folder and its folders."""
        low, high = (
            self._one("SELECT count(*) FROM sample WHERE name < ?", f"{folder}{end}") for end in ("/", "0")
        )  # "0" follows "/"
        return range(low[0], high[0])

    def place(self, name: str) -> tuple[int, Place] | None:
        """The number of a sample's container, and its place there."""
        row = self._one(
            "SELECT container, path, start, num_packed, num_bytes, method, crc FROM sample WHERE name = ?", name
        )
        return None if row is None else (row[0], Place(*row[1:]))

    def close(self) -> None:
        """Drops everything."""
        with self._lock:
            self._db.close()
