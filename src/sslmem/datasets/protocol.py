"""What every dataset can do, whatever its format."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self


@dataclass(frozen=True)
class SampleEntry:
    """An image of a dataset.

    Attributes:
        path: its name: the path within the dataset, with forward slashes, or split and number, such as ``train/00017``.
        label: its class, where there is one.
    """

    path: str
    label: str | None = None


class Dataset(Protocol):
    """Images with a name each; ``read`` may be called from several threads."""

    @property
    def format(self) -> str:
        """What it is, in a few words."""

    @property
    def splits(self) -> Mapping[str, int]:
        """How many samples each split has; empty where samples are files with names of their own."""

    @property
    def num_others(self) -> int:
        """Files that are no samples and hold none."""

    @property
    def samples(self) -> Sequence[SampleEntry]:
        """The samples, in the order of their names; they need not be in memory."""

    def position(self, path: str) -> int | None:
        """Where a sample stands in that order; None if there is none of this name."""

    def below(self, folder: str) -> range:
        """The positions of the samples whose names begin with ``folder/``."""

    def read(self, path: str) -> bytes:
        """Returns the encoded bytes of a sample; raises UndecodableImage if it cannot be read."""

    def close(self) -> None:
        """Releases the files."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...
