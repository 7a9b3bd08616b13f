"""Converts an untrusted checkpoint to plain safetensors in a subprocess that can do no harm."""

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from sslmem.encoders import reader
from sslmem.errors import CheckpointError, UnreadableCheckpoint, UnsafeCheckpoint

WALL_SECONDS = 600


class CheckpointContents(BaseModel):
    """What a checkpoint file held.

    Attributes:
        container: kind of file.
        places: keys under which state dicts were, as paths; an empty one is the whole file.
        entries: number of tensors in them.
        left_out: paths of what is in the file besides.
        facts: numbers and words that the file says of its training, as it has them; nobody vouches for them.
    """

    model_config = ConfigDict(frozen=True)

    container: Literal["safetensors", "torch zip", "torch legacy", "torchscript", "folder"]
    places: list[str]
    entries: int
    left_out: list[str]
    facts: dict[str, str]


def convert_checkpoint(source: Path, destination: Path, *, name: str | None = None) -> CheckpointContents:
    """Writes the tensors of a checkpoint's state dict to a safetensors file; nothing in it is ever executed.

    Args:
        source: a safetensors file, a torch file with state dicts or a module, bare or under keys, or a folder of
            Hugging Face's form or an archive of one.
        destination: the safetensors file to write.
        name: what messages call the file; None is its own name.

    Raises:
        UnreadableCheckpoint: it is something else, or damaged.
        UnsafeCheckpoint: reading it exceeds the limits of memory, time or size.
        OSError: there is no room for the new file, which says nothing about the checkpoint.
    """
    if not source.exists():
        raise UnreadableCheckpoint(f"expected a checkpoint file or folder; there is none at {source}")
    script, called = str(Path(reader.__file__)), name or source.resolve().name
    try:
        # -I: isolated from environment, user packages and the working directory.
        run = subprocess.run(  # noqa: S603  our own script, arguments are paths
            [sys.executable, "-I", script, str(source), str(destination)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=WALL_SECONDS,
            check=False,
            env={"OPENBLAS_NUM_THREADS": "1", "LANG": "C.UTF-8"},
            start_new_session=True,
        )
    except subprocess.TimeoutExpired as error:
        destination.unlink(missing_ok=True)
        raise UnsafeCheckpoint(f"reading {called} took more than {WALL_SECONDS} seconds") from error
    finally:
        shutil.rmtree(reader.parts_of(destination), ignore_errors=True)
    answer = _answer(run, source)
    if "code" in answer:
        destination.unlink(missing_ok=True)
        if answer["code"] == reader.NO_ROOM:
            raise OSError(errno.ENOSPC, answer["detail"], str(destination))
        raise _error(answer["code"])(f"{called}: {answer['detail']}")
    contents = CheckpointContents.model_validate(answer)
    if contents.container == "safetensors":
        shutil.copyfile(source, destination)
    return contents


def _answer(run: subprocess.CompletedProcess[bytes], source: Path) -> dict[str, str]:
    try:
        answer = json.loads(run.stdout[: 64 * 2**20])
    except ValueError:
        why = f"signal {-run.returncode}" if run.returncode < 0 else f"status {run.returncode}"
        return {
            "code": "checkpoint-unsafe",
            "detail": f"its reader was stopped by the limits set for it ({why})",
        }
    if not isinstance(answer, dict):
        raise UnreadableCheckpoint(f"{source.name} is damaged")
    return answer


def _error(code: str) -> type[CheckpointError]:
    return UnsafeCheckpoint if code == UnsafeCheckpoint.code else UnreadableCheckpoint
