"""Plain data out of a pickle, by hand: nothing is imported or called, and large byte strings stay where they lie.

Enough for the batches of CIFAR-10 and CIFAR-100 (Krizhevsky 2009): dictionaries, lists, numbers, text, and arrays of
bytes as NumPy pickles them. Opcodes are those of :mod:`pickletools`.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from sslmem.datasets.window import Window
from sslmem.errors import UnreadableDataset

MAX_TEXT, LARGE = 2**16, 1024
MAX_OPCODES = 5_000_000
BLOCK = 2**16


class Blob(NamedTuple):
    """A long byte string: where in the file it lies."""

    start: int
    size: int


@dataclass
class PickledArray:
    """An array as it was pickled; ``state`` is (version, shape, dtype, by column, bytes)."""

    state: tuple[Any, ...] = ()


class _Mark:
    """Where items of a tuple, list or dictionary begin on the stack."""


MARK = _Mark()
ARRAY, DTYPE = "array", "dtype"
GLOBALS = {
    ("numpy.core.multiarray", "_reconstruct"): ARRAY,
    ("numpy._core.multiarray", "_reconstruct"): ARRAY,
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): DTYPE,
}


class PlainPickle:
    """A machine that knows only the opcodes of plain data.

    Args:
        window: the file.

    Raises:
        UnreadableDataset: it is damaged, or more than plain data.
    """

    def __init__(self, window: Window) -> None:
        self._window, self._position = window, 0
        self._buffer, self._buffer_start = b"", 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def load(self) -> Any:  # noqa: ANN401
        """Returns what the pickle holds."""
        try:
            for _ in range(MAX_OPCODES):
                opcode = self._take(1)
                if opcode == b".":
                    return self._stack.pop()
                ACTIONS[opcode](self)
        except (KeyError, IndexError, TypeError, ValueError, struct.error) as error:
            raise UnreadableDataset("a pickle is damaged, or holds more than plain data") from error
        raise UnreadableDataset("a pickle holds far more than a batch of images")

    def _take(self, size: int) -> bytes:
        if size > MAX_TEXT:
            raise ValueError("a text of this length is none")
        start = self._position - self._buffer_start
        if start < 0 or start + size > len(self._buffer):
            self._buffer, self._buffer_start, start = (
                self._window.pread(BLOCK + size, self._position),
                self._position,
                0,
            )
        data = self._buffer[start : start + size]
        if len(data) < size:
            raise ValueError("the file ends in the middle")
        self._position += size
        return data

    def version(self) -> None:
        """Accepts protocols 2 to 5."""
        if self.number("<B") > 5:
            raise ValueError("a protocol that is not known")

    def frame(self) -> None:
        """Passes over the length of a frame, which says nothing."""
        self.number("<Q")

    def number(self, form: str) -> int:
        """Reads a number."""
        (value,) = struct.unpack(form, self._take(struct.calcsize(form)))
        return int(value)

    def line(self) -> str:
        """Reads text up to the end of the line."""
        text = b""
        while (byte := self._take(1)) != b"\n":
            text += byte
            if len(text) > 200:
                raise ValueError("a name of this length is none")
        return text.decode()

    def push(self, value: Any) -> None:  # noqa: ANN401
        """Puts a value on the stack."""
        self._stack.append(value)

    def string(self, size: int, *, text: bool = False) -> None:
        """Reads a byte string or text; a long byte string is passed over."""
        if size > LARGE and not text:
            if self._position + size > self._window.size:
                raise ValueError("a string beyond the file's end")
            self.push(Blob(self._position, size))
            self._position += size
        else:
            self.push(self._take(size).decode() if text else self._take(size))

    def items(self) -> list[Any]:
        """Takes what lies above the last mark."""
        place = len(self._stack) - 1
        while self._stack[place] is not MARK:
            place -= 1
            if place < 0:
                raise ValueError("there is no mark")
        found = self._stack[place + 1 :]
        del self._stack[place:]
        return found

    def last(self, count: int) -> list[Any]:
        """Takes the last items."""
        if len(self._stack) < count:
            raise ValueError("too little on the stack")
        found = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        return found

    def extend(self, items: list[Any]) -> None:
        """Adds to the list below."""
        target = self._stack[-1]
        if type(target) is not list:
            raise ValueError("there is no list")
        target.extend(items)

    def update(self, items: list[Any]) -> None:
        """Adds to the dictionary below."""
        target = self._stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise ValueError("there is no dictionary")
        target.update(zip(items[::2], items[1::2], strict=True))

    def named(self) -> None:
        """Pushes what stands for one of NumPy's four names."""
        module, name = self.line(), self.line()
        self.push(GLOBALS[module, name])

    def reduce(self) -> None:
        """Makes an empty array, or a dtype by its name."""
        kind, arguments = self.last(2)
        if kind == ARRAY:
            self.push(PickledArray())
        elif kind == DTYPE:
            self.push((DTYPE, arguments[0]))
        else:
            raise ValueError("a call that is not known")

    def build(self) -> None:
        """Gives an array its state; that of a dtype is its byte order, which bytes do not have."""
        (state,) = self.last(1)
        if isinstance(self._stack[-1], PickledArray):
            self._stack[-1].state = state
        elif not (isinstance(self._stack[-1], tuple) and self._stack[-1][0] == DTYPE):
            raise ValueError("an object that is not known")

    def memorize(self, key: int) -> None:
        """Remembers the last item."""
        self._memo[key] = self._stack[-1]

    def recall(self, key: int) -> None:
        """Pushes a remembered item."""
        self.push(self._memo[key])


ACTIONS: dict[bytes, Callable[[PlainPickle], None]] = {
    b"\x80": lambda p: p.version(),
    b"\x95": lambda p: p.frame(),
    b"(": lambda p: p.push(MARK),
    b"}": lambda p: p.push({}),
    b"]": lambda p: p.push([]),
    b")": lambda p: p.push(()),
    b"N": lambda p: p.push(None),
    b"\x88": lambda p: p.push(True),
    b"\x89": lambda p: p.push(False),
    b"K": lambda p: p.push(p.number("<B")),
    b"M": lambda p: p.push(p.number("<H")),
    b"J": lambda p: p.push(p.number("<i")),
    b"U": lambda p: p.string(p.number("<B")),
    b"C": lambda p: p.string(p.number("<B")),
    b"T": lambda p: p.string(p.number("<I")),
    b"B": lambda p: p.string(p.number("<I")),
    b"\x8e": lambda p: p.string(p.number("<Q")),
    b"X": lambda p: p.string(p.number("<I"), text=True),
    b"\x8c": lambda p: p.string(p.number("<B"), text=True),
    b"q": lambda p: p.memorize(p.number("<B")),
    b"r": lambda p: p.memorize(p.number("<I")),
    b"\x94": lambda p: p.memorize(len(p._memo)),  # noqa: SLF001
    b"h": lambda p: p.recall(p.number("<B")),
    b"j": lambda p: p.recall(p.number("<I")),
    b"t": lambda p: p.push(tuple(p.items())),
    b"\x85": lambda p: p.push(tuple(p.last(1))),
    b"\x86": lambda p: p.push(tuple(p.last(2))),
    b"\x87": lambda p: p.push(tuple(p.last(3))),
    b"a": lambda p: p.extend(p.last(1)),
    b"e": lambda p: p.extend(p.items()),
    b"s": lambda p: p.update(p.last(2)),
    b"u": lambda p: p.update(p.items()),
    b"c": lambda p: p.named(),
    b"\x93": lambda p: p.push(GLOBALS[tuple(p.last(2))]),
    b"R": lambda p: p.reduce(),
    b"b": lambda p: p.build(),
}
