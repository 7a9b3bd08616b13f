"""Recognises what a dataset is by its content, and opens it where it lies; docs/datasets.md has the formats."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sslmem.datasets.arrays import NPY, DataFile, array_dataset, is_idx, read_array
from sslmem.datasets.cifar import binary_dataset, binary_kind, is_pickle, pickled_dataset
from sslmem.datasets.containers import MAX_IMAGE_BYTES, Container, Member
from sslmem.datasets.folder import Folder
from sslmem.datasets.images import MAX_CANDIDATES, ImageDataset, Listing
from sslmem.datasets.numbered import NumberedDataset
from sslmem.datasets.parquet import MAGIC, image_columns, parquet_dataset
from sslmem.datasets.protocol import Dataset, SampleEntry
from sslmem.datasets.tars import RECORD, TarArchive, is_tar
from sslmem.datasets.window import Window, head_of, is_packed, unpacked
from sslmem.datasets.zips import ZipArchive
from sslmem.errors import AmbiguousDataset, UnreadableDataset

__all__ = ["MAX_IMAGE_BYTES", "UNDERSTOOD", "Dataset", "SampleEntry", "open_dataset"]

ZIP = (b"PK\x03\x04", b"PK\x05\x06")
NPZ = "npz archives"
MAX_FILES = 500  # that hold samples, each held open

Builder = Callable[[str, Sequence[DataFile], int], NumberedDataset]


@dataclass(frozen=True)
class Format:
    """A format of files that hold many samples.

    Attributes:
        name: what to call such files.
        begins: whether a file may be one, by its first bytes.
        is_one: whether it is, by all of it.
        build: makes a dataset of several; None for tar shards.
    """

    name: str
    begins: Callable[[bytes], bool]
    is_one: Callable[[Window], bool]
    build: Builder | None


def _is_array(window: Window) -> bool:
    """Tables of two dimensions are neither images nor labels."""
    try:
        shape = read_array(DataFile("", window)).shape
        return len(shape) != 2 or shape[1] == 1
    except UnreadableDataset:
        return True  # read again, it says what is wrong


def _any(_: object) -> bool:
    return True


# The last has no mark of its own, and is looked for where nothing else fits.
FORMATS = (
    Format("tar shards", is_tar, _any, None),
    Format("NumPy arrays", lambda head: head.startswith(NPY), _is_array, array_dataset),
    Format(NPZ, lambda head: head.startswith(ZIP) and b".npy" in head, _any, array_dataset),
    Format("IDX files", is_idx, _any, array_dataset),
    Format(
        "Parquet files",
        lambda head: head.startswith(MAGIC),
        lambda window: bool(image_columns(window)),
        parquet_dataset,
    ),
    Format("pickled CIFAR batches", is_pickle, _any, pickled_dataset),
    Format("binary CIFAR batches", _any, lambda window: binary_kind(window) is not None, binary_dataset),
)
UNDERSTOOD = (
    "a folder, zip or tar archive of images, a WebDataset, NumPy arrays (.npy, .npz), IDX files, "
    "CIFAR batches, or Parquet files with a column of images"
)


def open_dataset(path: Path) -> Dataset:
    """Opens a dataset.

    Raises:
        UnreadableDataset: there is nothing there, it is not understood, it is damaged, or a name in it is not UTF-8.
        AmbiguousDataset: it may be understood in several ways.
        UnsafeArchive: an archive has links, paths outside itself, duplicate, overlapping or encrypted members, or goes
            beyond the bounds of docs/datasets.md.
        EmptyDataset: it holds no images.
    """
    if path.is_dir():
        return _of_container(Folder(path), "folder")
    if not path.exists():
        raise UnreadableDataset(f"expected {UNDERSTOOD}; there is nothing at {path}")
    window = Window.of_path(path)
    try:
        content = unpacked(window, path.name)
        if content is not window:
            window.close_file()
            window = content
        return _of_file(window, path.name)
    except BaseException:
        window.close_file()
        raise


def _of_file(window: Window, name: str) -> Dataset:
    head = window.pread(RECORD, 0)
    if head.startswith(ZIP):
        return _of_container(ZipArchive(window, name), "zip archive")
    if is_tar(head):
        return _of_container(TarArchive(window, name), "tar archive")
    for one in FORMATS:
        if one.build is not None and one.begins(head) and one.is_one(window):
            dataset = one.build(one.name, [DataFile("", window)], 0)
            dataset.when_closed(window.close_file)
            return dataset
    raise UnreadableDataset(f"expected {UNDERSTOOD}; {name} is none of them")


def _of_container(container: Container, name: str) -> Dataset:
    """Images, where there are any; else files that hold many."""
    try:
        listing = Listing([("", container)])
        found = _data_files(container, listing)
        if len(listing.index):
            if found:
                kinds = " and ".join(["image files", *(one.name for one in found)])
                raise AmbiguousDataset(f"the {name} holds {kinds}; expected one of them: which are the samples?")
            kind = "WebDataset" if listing.has_labels else f"images in a {name}"
            return ImageDataset(kind, [container], listing)
        if len(found) > 1:
            kinds = " and ".join(one.name for one in found)
            raise AmbiguousDataset(f"the {name} holds {kinds}; expected one of them: which are the samples?")
        if not found:
            return ImageDataset(name, [container], listing)  # says that there are none
        ((one, members),) = found.items()
        listing.index.close()
        return _of_data_files(one, members, container, listing.num_others - len(members))
    except BaseException:
        container.close()
        raise


def _data_files(container: Container, listing: Listing) -> dict[Format, list[Member]]:
    """Files that hold many samples, by format."""
    found: dict[Format, list[Member]] = {}
    if listing.num_others > MAX_CANDIDATES:  # captions and the like, one for each image
        return found
    for member in listing.others:
        if (one := _recognised(container, member)) is not None:
            found.setdefault(one, []).append(member)
    if sum(map(len, found.values())) > MAX_FILES:
        raise UnreadableDataset(f"expected at most {MAX_FILES} files that hold samples; there are more")
    return found


def _recognised(container: Container, member: Member) -> Format | None:
    head = container.head(member.place, RECORD)
    if is_packed(head):
        return _recognised_within(container, member)
    for one in FORMATS:
        # A folder's place has no size; an empty file has no first byte.
        if head and one.begins(head) and (one.is_one is _any or _fits(one, container, member)):
            return one
    return None


def _fits(one: Format, container: Container, member: Member) -> bool:
    window = container.open(member.place)
    try:
        return one.is_one(window)
    finally:
        window.close_file()


def _recognised_within(container: Container, member: Member) -> Format | None:
    """What a packed file holds: its first bytes must tell, since unpacking it all takes long."""
    window = container.open(member.place)
    try:
        head = head_of(window, RECORD, member.name)
    except UnreadableDataset:
        return None
    finally:
        window.close_file()
    return next((one for one in FORMATS if one.begins is not _any and one.begins(head)), None)


def _of_data_files(one: Format, members: Iterable[Member], container: Container, num_others: int) -> Dataset:
    with ExitStack() as opened:
        files = []
        for member in sorted(members, key=lambda member: member.name):
            window = container.open(member.place)
            opened.callback(window.close_file)
            content = unpacked(window, member.name)
            opened.callback(content.close_file)
            files.append(DataFile(_stem(member.name), content))
        if one.name == NPZ:
            files = [inner for file in files for inner in _of_npz(file, opened, alone=len(files) == 1)]
        dataset = _of_shards(files) if one.build is None else one.build(one.name, files, num_others)
        dataset.when_closed(container.close)
        dataset.when_closed(opened.pop_all().close)
        return dataset


def _stem(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.with_suffix("") if path.suffix in (".gz", ".bz2", ".xz") else path)


def _of_npz(file: DataFile, opened: ExitStack, *, alone: bool) -> Iterator[DataFile]:
    """The arrays in an npz archive, below its name if there are several archives."""
    archive = ZipArchive(file.window, file.name)
    prefix = "" if alone else f"{PurePosixPath(file.name).with_suffix('')}/"
    for member in archive.members():
        window = archive.open(member.place)
        opened.callback(window.close_file)
        yield DataFile(prefix + member.name, window)


def _of_shards(files: Sequence[DataFile]) -> ImageDataset:
    shards = [TarArchive(file.window, file.name) for file in files]
    prefixes = [f"{file.name.removesuffix('.tar')}/" for file in files]
    return ImageDataset("WebDataset", shards, Listing(list(zip(prefixes, shards, strict=True))))
