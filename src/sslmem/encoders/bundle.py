"""A folder as Hugging Face's libraries write it, or a zip or tar archive of one: weights, and settings beside them.

Only the files that are known by name are taken out of an archive, each a regular one, all from one of its folders, in
bounded number and size. Nothing is unpacked under a name that the archive chose.
"""

import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from sslmem.encoders.entries import one_line
from sslmem.encoders.inert import Refused
from sslmem.encoders.plain import BLOCK, Window

INDEX = "model.safetensors.index.json"
SETTINGS = ("config.json", "preprocessor_config.json", "open_clip_config.json")
USUAL = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin", "open_clip_pytorch_model.bin")
TORCH_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
MAX_MEMBERS, MAX_SHARDS = 10_000, 256
MAX_SETTINGS, MAX_INDEX = 2**20, 16 * 2**20
GZIP, ZIP = b"\x1f\x8b", b"PK"


def is_bundle(path: Path, head: bytes) -> bool:
    """Whether a file is an archive of a folder, rather than the one that ``torch.save`` writes."""
    if head[257:262] == b"ustar" or head.startswith(GZIP):
        return True
    if not head.startswith(ZIP) or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = [PurePosixPath(name).name for name in archive.namelist()]
    return "data.pkl" not in names and any(_kind(name) for name in names)


def _kind(name: str) -> str | None:
    if name in (*SETTINGS, INDEX):
        return "settings"
    return "weights" if name.endswith((".safetensors", *TORCH_SUFFIXES)) else None


@dataclass
class Bundle:
    """The files of a folder.

    Attributes:
        files: by name.
        said: what the settings files say, by name.
        torch_file: the weights, if they are no safetensors.
        shards: the weights, if they are.
        left_out: names of what is not read.
    """

    files: dict[str, Path]
    said: dict[str, Any] = field(default_factory=dict)
    torch_file: Path | None = None
    shards: dict[str, Path] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path, scratch: Path) -> "Bundle":
        """Reads a folder, or takes what is known out of an archive into an empty folder.

        Raises:
            Refused: it holds no weights, or several that could be meant, or goes beyond its bounds.
        """
        files = _of_folder(path) if path.is_dir() else _unpack(path, scratch)
        bundle = cls(files)
        for name in SETTINGS:
            if name in files:
                bundle.said[name] = _json(files[name], MAX_SETTINGS)
        bundle._choose()
        used = {*bundle.said, *bundle.shards, INDEX, *([bundle.torch_file.name] if bundle.torch_file else ())}
        bundle.left_out = [one_line(name) for name in files if name not in used]
        return bundle

    def _choose(self) -> None:
        if INDEX in self.files:
            self.shards = self._indexed()
            return
        weights = [name for name in self.files if _kind(name) == "weights"]
        tensors = [name for name in weights if name.endswith(".safetensors")]
        chosen = next((name for name in USUAL if name in weights), None)
        for part in (tensors, weights):
            if chosen is None and len(part) == 1:
                chosen = part[0]
        if chosen is None:
            found = ", ".join(map(one_line, sorted(weights)[:5])) or "none"
            raise Refused("checkpoint-unreadable", f"expected one file of weights, such as {USUAL[0]}; found {found}")
        if chosen.endswith(".safetensors"):
            self.shards = {chosen: self.files[chosen]}
        else:
            self.torch_file = self.files[chosen]

    def _indexed(self) -> dict[str, Path]:
        places = _json(self.files[INDEX], MAX_INDEX).get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
            raise Refused("checkpoint-unreadable", f"{INDEX} has no map from tensors to files")
        names = sorted(set(places.values()))
        if len(names) > MAX_SHARDS:
            raise Refused("checkpoint-unsafe", f"more than {MAX_SHARDS} files of weights")
        if missing := [name for name in names if name not in self.files or not name.endswith(".safetensors")]:
            raise Refused("checkpoint-unreadable", f"the file {one_line(missing[0])[:80]!a} of {INDEX} is not there")
        return {name: self.files[name] for name in names}

    def windows(self, read: Callable[[Path], dict[str, Window]]) -> dict[str, Window]:
        """Where all tensors lie; those of an index, no more and no less.

        Raises:
            Refused: a tensor is there twice, or not where the index says.
        """
        found: dict[str, Window] = {}
        for name, path in self.shards.items():
            for tensor, window in read(path).items():
                if tensor in found:
                    raise Refused("checkpoint-unreadable", f"the tensor {tensor[:80]!a} is in {name} and another file")
                found[tensor] = window
        if INDEX in self.files:
            places = _json(self.files[INDEX], MAX_INDEX)["weight_map"]
            wrong = [t for t, name in places.items() if t not in found or found[t].file != self.files[name]]
            if wrong or len(places) != len(found):
                raise Refused("checkpoint-unreadable", f"{INDEX} and the files of weights are of different tensors")
        return found


def _json(path: Path, limit: int) -> dict[str, Any]:
    if path.stat().st_size > limit:
        raise Refused("checkpoint-unsafe", f"{path.name} is longer than {limit} bytes")
    found = json.loads(path.read_bytes())
    if not isinstance(found, dict):
        raise Refused("checkpoint-unreadable", f"{path.name} holds no JSON object")
    return found


def _of_folder(folder: Path) -> dict[str, Path]:
    return {file.name: file for file in sorted(folder.iterdir()) if file.is_file() and _kind(file.name)}


Member = tuple[str, bool, Callable[[], IO[bytes]]]  # name, whether it is a regular file, and how to read it


def _unpack(path: Path, scratch: Path) -> dict[str, Path]:
    """Takes the files that are known out of the one folder of an archive that holds weights."""
    wanted: dict[str, dict[str, int]] = {}
    for number, (name, regular, _) in enumerate(_members(path)):
        if number >= MAX_MEMBERS:
            raise Refused("checkpoint-unsafe", f"an archive of more than {MAX_MEMBERS} members")
        place = PurePosixPath(name)
        if _kind(place.name) is None or "__MACOSX" in place.parts:
            continue
        if not regular:
            raise Refused("checkpoint-unsafe", f"{one_line(name)[:80]!a} in the archive is a link or no file")
        wanted.setdefault(str(place.parent), {})[place.name] = number
    holding = [place for place, names in wanted.items() if any(_kind(name) == "weights" for name in names)]
    if len(holding) != 1:
        found = ", ".join(one_line(place)[:60] for place in sorted(holding)[:5]) or "none"
        raise Refused("checkpoint-unreadable", f"expected an archive with weights in one folder; found {found}")
    numbers = {number: name for name, number in wanted[holding[0]].items()}
    left = 4 * path.stat().st_size + 2**20
    files: dict[str, Path] = {}
    for number, (_, _, read) in enumerate(_members(path)):
        if number in numbers:
            target = scratch / str(len(files))
            left -= _copy(read, target, left)
            files[numbers[number]] = target.rename(scratch / _plain(numbers[number], len(files)))
    return files


def _plain(name: str, number: int) -> str:
    """A name that is safe on any disk and keeps its meaning for messages."""
    return name if name.isascii() and len(name) < 200 and name not in (".", "..") else f"{number}.safetensors"


def _copy(read: Callable[[], IO[bytes]], target: Path, most: int) -> int:
    written = 0
    with read() as source, target.open("wb") as out:
        while block := source.read(BLOCK):
            written += len(block)
            if written > most:
                raise Refused("checkpoint-unsafe", "the archive would unfold to far more than it has")
            out.write(block)
    return written


def _members(path: Path) -> Iterator[Member]:
    with path.open("rb") as file:
        head = file.read(2)
    if head == ZIP:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                unix = info.external_attr >> 28
                regular = not info.is_dir() and unix in (0, 8)
                yield info.filename, regular, lambda info=info: archive.open(info)  # type: ignore[misc]
        return
    with tarfile.open(path, "r:gz" if head == GZIP else "r:") as tar:
        for member in tar:
            yield member.name, member.isreg() and not member.issparse(), lambda m=member: _of_tar(tar, m)  # type: ignore[misc]


def _of_tar(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = tar.extractfile(member)
    if file is None:
        raise Refused("checkpoint-unreadable", "a member of the archive is no file")
    return file
