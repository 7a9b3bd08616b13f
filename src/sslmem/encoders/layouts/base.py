"""What a layout makes of entries: those of a module of torchvision or timm, under its names."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from sslmem.encoders.settings import Chooser
from sslmem.errors import StateDictMismatch

Entries = Mapping[str, Tensor]
Rules = tuple[tuple[str, str], ...]
MAX_WIDTH, MAX_DEPTH, MAX_INPUT_SIZE = 8192, 256, 2048


@dataclass(frozen=True)
class Found:
    """An encoder read off entries.

    Attributes:
        entries: under the names of the module.
        sources: of each, the names in the file that it was made of.
        build: makes the module for an input size; None where a named architecture is inferred from the entries.
        architecture: what it is called; None likewise.
        input_size: that the weights are for; None where they do not show it.
        unused: names in the file that the encoder does not use, and why not.
        notes: what was inferred, as sentences.
    """

    entries: dict[str, Tensor]
    sources: dict[str, tuple[str, ...]]
    build: Callable[[int], nn.Module] | None = None
    architecture: str | None = None
    input_size: int | None = None
    unused: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


Read = Callable[[Entries, Chooser], Found]


class Renamed:
    """Entries under other names, each with the names in the file that it was made of.

    Args:
        entries: of the file.
        rules: patterns and what they are replaced by, in turn.
        unused: patterns of entries that the encoder does not use, and why not.

    Raises:
        StateDictMismatch: two entries would get one name.
    """

    def __init__(self, entries: Entries, rules: Rules = (), unused: Rules = ()) -> None:
        self.entries: dict[str, Tensor] = {}
        self.sources: dict[str, tuple[str, ...]] = {}
        self.unused: dict[str, str] = {}
        for name, tensor in entries.items():
            if why := next((why for pattern, why in unused if re.search(pattern, name)), None):
                self.unused[name] = why
                continue
            new = name
            for pattern, replacement in rules:
                new = re.sub(pattern, replacement, new)
            if new in self.entries:
                raise StateDictMismatch(f"the entries {self.sources[new][0]} and {name} are both {new}")
            self.entries[new], self.sources[new] = tensor, (name,)

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    def __getitem__(self, name: str) -> Tensor:
        """The entry, which must be there.

        Raises:
            StateDictMismatch: it is not.
        """
        try:
            return self.entries[name]
        except KeyError as error:
            raise StateDictMismatch(f"expected an entry {name} as this kind of encoder has; there is none") from error

    def replace(self, name: str, tensor: Tensor) -> None:
        """Puts another tensor in the place of an entry that it was made of."""
        self.entries[name] = tensor

    def join(self, parts: Iterable[str], name: str, make: Callable[[list[Tensor]], Tensor]) -> None:
        """Makes one entry out of several, if all are there."""
        names = list(parts)
        if all(part in self.entries for part in names):
            tensor = make([self.entries[part] for part in names])
            self.sources[name] = tuple(source for part in names for source in self.sources[part])
            for part in names:
                del self.entries[part]
                if part != name:
                    del self.sources[part]
            self.entries[name] = tensor

    def split(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Makes several entries out of one."""
        del self.entries[name]
        source = self.sources.pop(name)
        for new, tensor in tensors.items():
            self.entries[new], self.sources[new] = tensor, source

    def count(self, pattern: str) -> int:
        """How many blocks there are, numbered from 0 by the first group of a pattern.

        Raises:
            StateDictMismatch: they are not complete, or too many.
        """
        numbers = {int(found[1]) for name in self.entries if (found := re.match(pattern, name))}
        depth = max(numbers, default=-1) + 1
        if not 0 < depth <= MAX_DEPTH or len(numbers) != depth:
            raise StateDictMismatch(f"expected an encoder whose blocks are complete; found {len(numbers)} of {depth}")
        return depth


def square(number: int) -> int:
    """The root of a square; 0 if it is none."""
    root = int(max(number, 0) ** 0.5)
    return root if root * root == number else 0


def check_width(width: int) -> None:
    """Refuses an encoder of a width that none has.

    Raises:
        StateDictMismatch: it is such a width.
    """
    if not 0 < width <= MAX_WIDTH:
        raise StateDictMismatch(f"expected an encoder of at most {MAX_WIDTH} channels; found {width}")
