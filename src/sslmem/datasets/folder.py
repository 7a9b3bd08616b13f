"""Folders: links to folders are not followed, pipes and devices are no files."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from sslmem.datasets.containers import MAX_IMAGE_BYTES, Member, Place
from sslmem.datasets.window import Window
from sslmem.errors import UndecodableImage, UnreadableDataset


class Folder:
    """The files below a folder."""

    kind = "folder"

    def __init__(self, root: Path) -> None:
        self._root = root

    def members(self) -> Iterator[Member]:
        """Lists the files, one folder after the other."""
        folders = [""]
        while folders:
            folder = folders.pop()
            with os.scandir(self._root / folder) as entries:
                for entry in entries:
                    path = f"{folder}{entry.name}"
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(f"{path}/")
                    elif self._is_file(entry):
                        yield Member(_utf8(path), Place(path))

    @staticmethod
    def _is_file(entry: "os.DirEntry[str]") -> bool:
        try:
            return stat.S_ISREG(entry.stat().st_mode)
        except OSError:  # a dangling link, say: a file all the same, and reading it says why it has no content
            return True

    def read(self, place: Place) -> bytes:
        """Returns the content of a file.

        Raises:
            UndecodableImage: it cannot be read, or is too large.
        """
        try:
            with (self._root / place.path).open("rb") as file:
                data = file.read(MAX_IMAGE_BYTES + 1)
        except OSError as error:
            raise UndecodableImage(f"the file {place.path} cannot be read: {error.strerror}") from error
        if len(data) > MAX_IMAGE_BYTES:
            raise UndecodableImage(f"the file {place.path} is too large; at most {MAX_IMAGE_BYTES} bytes are read")
        return data

    def open(self, place: Place) -> Window:
        """Opens a file.

        Raises:
            UnreadableDataset: it cannot be read.
        """
        try:
            return Window.of_path(self._root / place.path)
        except OSError as error:
            raise UnreadableDataset(f"the file {place.path} cannot be read: {error.strerror}") from error

    def head(self, place: Place, size: int) -> bytes:
        """Returns the first bytes of a file, none of one that cannot be read."""
        try:
            with (self._root / place.path).open("rb") as file:
                return file.read(size)
        except OSError:
            return b""

    def close(self) -> None:
        """Nothing is held open."""


def _utf8(path: str) -> str:
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise UnreadableDataset(f"the name of the file {path!a} is not UTF-8; expected one that is") from error
    return path
