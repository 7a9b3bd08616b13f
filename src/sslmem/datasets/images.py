"""Image files: in a folder, in an archive, or in the tar shards of a WebDataset."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Self

from sslmem.datasets.containers import MAX_IMAGE_BYTES, Container, Member, Place
from sslmem.datasets.index import Found, Index
from sslmem.datasets.tars import TarArchive
from sslmem.datasets.zips import ZipArchive, check_packing
from sslmem.errors import EmptyDataset, UndecodableImage, UnsafeArchive
from sslmem.roles import ROLES

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
MAX_CANDIDATES = 10_000
MAX_LABEL_BYTES = 200
# Folders of these names say which part of the data it is, not what the images show.
NO_CLASSES = frozenset({"train", "training", "test", "val", "valid", "validation", *ROLES})


def is_hidden(path: str) -> bool:
    """Whether a file is none of the user's, but of the system's."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))


class Listing:
    """Goes through the members of containers once, and tells images, labels and other files apart.

    Attributes:
        others: the first files that are neither, which may be data files.
        num_others: how many there are.
        has_labels: whether there are files with labels, as in a WebDataset.
    """

    def __init__(self, containers: Sequence[tuple[str, Container]]) -> None:
        self.others: list[Member] = []
        self.num_others, self.has_labels = 0, False
        self._labels: list[tuple[int, str, str]] = []
        self.index = Index(self._found(containers), self._labels)

    def _found(self, containers: Iterable[tuple[str, Container]]) -> Iterator[Found]:
        for number, (prefix, container) in enumerate(containers):
            sharded = isinstance(container, TarArchive)
            for member in container.members():
                path = member.name
                if is_hidden(path):
                    continue
                suffix = path[path.rfind(".") :].lower()
                if suffix in SUFFIXES:
                    _check(member, container)
                    key = _key(path) if sharded else None
                    yield Found(prefix + path, _folder_label(path), key, number, member.place)
                elif sharded and suffix == ".cls" and member.place.num_bytes <= MAX_LABEL_BYTES:
                    self.has_labels = True
                    text = container.read(member.place).decode("utf-8", "replace").replace("\0", "\ufffd").strip()
                    self._labels.append((number, _key(path), text))
                else:
                    self.num_others += 1
                    if len(self.others) < MAX_CANDIDATES:
                        self.others.append(member)


def _check(member: Member, container: Container) -> None:
    place = member.place
    if place.num_bytes > MAX_IMAGE_BYTES:
        raise UnsafeArchive(f"{place.path!r} has {place.num_bytes} bytes; at most {MAX_IMAGE_BYTES} are read")
    if isinstance(container, ZipArchive):
        check_packing(place)


def _key(path: str) -> str:
    """What the files of one WebDataset sample share: the path up to the first dot of the file's name."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{name.partition('.')[0]}"


def _folder_label(path: str) -> str | None:
    folder = path.rpartition("/")[0].rpartition("/")[2]
    return folder if folder and folder.lower() not in NO_CLASSES else None


class ImageDataset:
    """Images that are files of one or several containers."""

    splits: Mapping[str, int] = {}

    def __init__(self, kind: str, containers: Sequence[Container], listing: Listing) -> None:
        if not len(listing.index):
            raise EmptyDataset(f"the {kind} holds no images; expected files ending in {', '.join(sorted(SUFFIXES))}")
        self.format, self._containers = kind, containers
        self.samples, self.num_others = listing.index, listing.num_others
        self._closing = ExitStack()

    def position(self, path: str) -> int | None:
        """Where a sample stands in the order of names."""
        return self.samples.position(path)

    def below(self, folder: str) -> range:
        """The positions of the samples in a folder."""
        return self.samples.below(folder)

    def read(self, path: str) -> bytes:
        """Returns the encoded bytes of a sample.

        Raises:
            UndecodableImage: it is damaged, or there is none.
        """
        found: tuple[int, Place] | None = self.samples.place(path)
        if found is None:
            raise UndecodableImage(f"there is no sample {path}")
        container, place = found
        return self._containers[container].read(place)

    def close(self) -> None:
        """Closes the files."""
        self.samples.close()
        for container in self._containers:
            container.close()
        self._closing.close()

    def when_closed(self, close: Callable[[], object]) -> None:
        """Has something called once the dataset is closed."""
        self._closing.callback(close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
