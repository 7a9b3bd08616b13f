"""Reads an untrusted checkpoint without executing anything in it, and writes its tensors as safetensors.

Runs as a script in a subprocess of its own (see ``sslmem.encoders.convert``), limits its memory, time and files
before it opens the checkpoint, and needs the standard library and numpy alone.
"""

import ctypes
import errno
import json
import math
import resource
import shutil
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the interpreter is isolated, and knows the package by this file's place alone
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sslmem.encoders.bundle import Bundle, is_bundle
from sslmem.encoders.entries import check_names, find_entries, find_facts, find_normalisation, one_line
from sslmem.encoders.inert import Refused
from sslmem.encoders.plain import check_safetensors, read_windows, write_tensors, write_windows
from sslmem.encoders.torch_files import LegacySource, ZipSource, is_torch_zip

GIB = 2**30
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
NO_ROOM = "no-room"  # no refusal: it says nothing about the file


def read_torch(path: Path, destination: Path, said: dict[str, Any]) -> dict[str, Any]:
    """Converts a torch file and says what it found."""
    with path.open("rb") as file:
        source: ZipSource | LegacySource
        if is_torch_zip(path):
            source = ZipSource(path)
            container = source.container
        else:
            source, container = LegacySource(file), "torch legacy"
        root = source.root()
        places, tensors, others = find_entries(root)
        check_names(list(tensors))
        total = sum(math.prod(ref.shape) * ref.storage.item_size for ref in tensors.values())
        if total > 4 * path.stat().st_size + 2**20:
            raise Refused("checkpoint-unsafe", f"the tensors would unfold to {total} bytes, far more than the file has")
        facts = find_facts(root)
        said = {"facts": facts, "normalisation": find_normalisation(root), **said}
        with destination.open("wb") as out:
            write_tensors(tensors, source, said, out)
    return {"container": container, "places": places, "entries": len(tensors), "left_out": others, "facts": facts}


def read_bundle(path: Path, destination: Path) -> dict[str, Any]:
    """Converts a folder as Hugging Face's libraries write it, or an archive of one."""
    scratch = parts_of(destination)
    scratch.mkdir()
    try:
        bundle = Bundle.open(path, scratch)
        if bundle.torch_file is not None:
            answer = read_torch(bundle.torch_file, destination, bundle.said)
            return {**answer, "container": "folder", "left_out": sorted([*answer["left_out"], *bundle.left_out])}
        windows = bundle.windows(read_windows)
        with destination.open("wb") as out:
            write_windows(windows, bundle.said, out)
        answer = {"container": "folder", "places": [""], "entries": len(windows), "facts": {}}
        return {**answer, "left_out": sorted(bundle.left_out)}
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def parts_of(destination: Path) -> Path:
    """Where the files of an archive lie while they are read."""
    return destination.with_name(destination.name + ".parts")


def convert(path: Path, destination: Path) -> dict[str, Any]:
    """Converts a checkpoint of any kind; a safetensors file is checked, and copied by the caller."""
    if path.is_dir():
        return read_bundle(path, destination)
    with path.open("rb") as file:
        head = file.read(512)
    if len(head) >= 9 and head[8:9] == b"{" and not head.startswith(b"PK"):
        names = check_safetensors(path)
        return {"container": "safetensors", "places": [""], "entries": len(names), "left_out": [], "facts": {}}
    if is_bundle(path, head):
        return read_bundle(path, destination)
    if not head.startswith((b"PK", b"\x80")):
        raise Refused(
            "checkpoint-unreadable",
            "expected a safetensors or torch file, or a folder of Hugging Face's form or an archive of one; "
            f"it begins with {head[:9]!r}",
        )
    return read_torch(path, destination, {})


def limit(size: int) -> None:
    """Bounds this process, given the size of the checkpoint: address space, time, what it writes, open files."""
    resource.setrlimit(resource.RLIMIT_AS, (2 * GIB + 3 * size,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (60 + size // (20 * 2**20),) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 * size + 128 * 2**20,) * 2)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def cut_network() -> bool:
    """Moves this process into a network of its own, without interfaces; whether the system allows that.

    Linux alone has such networks, and some containers forbid them. The reader opens no connection in any case.
    """
    try:
        unshare = ctypes.CDLL(None, use_errno=True).unshare
    except (OSError, AttributeError):
        return False
    return bool(unshare(CLONE_NEWNET) == 0 or unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0)


def answer(source: Path, destination: Path) -> dict[str, Any]:
    """Converts a checkpoint and says what was found, or the code and sentence of a refusal."""
    try:
        return convert(source, destination)
    except Refused as refusal:
        code, detail = refusal.code, refusal.detail
    except MemoryError:
        code, detail = "checkpoint-unsafe", "reading the file needs more memory than it may take"
    except Exception as error:  # noqa: BLE001  a hostile file can make the reader fail in any way
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return {"code": NO_ROOM, "detail": "no room is left for the converted file"}
        code, detail = "checkpoint-unreadable", f"the file is damaged ({type(error).__name__}: {error})"
    return {"code": code, "detail": one_line(detail)}


def size_of(source: Path) -> int:
    """Bytes of a checkpoint, or of the files of a folder of one."""
    if source.is_dir():
        return sum(file.stat().st_size for file in source.iterdir() if file.is_file())
    return source.stat().st_size


def main() -> None:
    """Prints one JSON object, the answer."""
    source, destination = Path(sys.argv[1]), Path(sys.argv[2])
    cut_network()
    limit(size_of(source))
    json.dump(answer(source, destination), sys.stdout)


if __name__ == "__main__":
    main()
