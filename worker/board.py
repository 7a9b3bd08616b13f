"""What a worker's process is at, in memory that it shares with its parent: the process may die at any moment."""

import json
import mmap
import uuid
import zlib
from dataclasses import asdict, dataclass
from typing import Any

from models.audit import Audit, Chunk
from models.dataset import Dataset
from models.encoder import Encoder
from service.jobs import LeasedModel

SIZE = 4096
HEADER = 12  # length and checksum
TASK = "a task"
DESCRIPTIONS = {
    "Chunk": "a chunk of an audit",
    "Audit": "the summary of an audit",
    "Encoder": "the check of an encoder",
    "Dataset": "the check of a dataset",
}
MODELS: dict[str, LeasedModel] = {model.__name__: model for model in (Chunk, Audit, Encoder, Dataset)}


@dataclass(frozen=True)
class Work:
    """A row that a process has, or the task that it is at.

    Attributes:
        pid: of the process.
        kind: the name of the row's model, or :data:`TASK`.
        row_id: as hexadecimal digits; empty of a task.
        owner: of the lease, a new name for each claim; of a task, a new name for each.
        signs: how many signs of progress there were.
        num_done: samples done.
    """

    pid: int
    kind: str
    row_id: str
    owner: str
    signs: int = 0
    num_done: int | None = None

    @property
    def is_task(self) -> bool:
        """Whether the process is at a task, and has no row (yet)."""
        return self.kind == TASK

    @property
    def description(self) -> str:
        """For people."""
        return DESCRIPTIONS.get(self.kind, TASK)

    @property
    def model(self) -> LeasedModel:
        """Of the row."""
        return MODELS[self.kind]

    @property
    def id(self) -> uuid.UUID:
        """Of the row."""
        return uuid.UUID(self.row_id)


class Board:
    """Made before the fork. The child alone writes what it is at, the parent alone what it is to drop."""

    def __init__(self) -> None:
        self._work, self._dropped = mmap.mmap(-1, SIZE), mmap.mmap(-1, SIZE)
        self._process = mmap.mmap(-1, SIZE)

    def be_process(self, pid: int) -> None:
        """Says which process takes the tasks from now on."""
        _write(self._process, {"pid": pid, "begun": self.process()[1]})

    def begin(self) -> None:
        """Says that one more task has been begun."""
        pid, begun = self.process()
        _write(self._process, {"pid": pid, "begun": begun + 1})

    def process(self) -> tuple[int | None, int]:
        """The process that takes the tasks, if it has said so, and how many were begun by it and those before it."""
        found = _read(self._process) or {"pid": None, "begun": 0}
        return found["pid"], found["begun"]

    def show(self, work: Work | None) -> None:
        """Says what the process is at."""
        _write(self._work, None if work is None else asdict(work))

    def read(self) -> Work | None:
        """What the process is at, or was when it died; None if at nothing."""
        found = _read(self._work)
        return None if found is None else Work(**found)

    def drop(self, owner: str) -> None:
        """Tells the process that a row is no longer its own."""
        _write(self._dropped, owner)

    def is_dropped(self, owner: str) -> bool:
        """Whether a row is no longer the process's own."""
        return bool(_read(self._dropped) == owner)


def _write(memory: mmap.mmap, content: Any) -> None:  # noqa: ANN401  what JSON can say
    data = json.dumps(content).encode()
    header = len(data).to_bytes(HEADER // 2) + zlib.crc32(data).to_bytes(HEADER // 2)
    memory[: HEADER + len(data)] = header + data


def _read(memory: mmap.mmap) -> Any:  # noqa: ANN401
    """The content; None, as before the first one, if the writer is in the middle of it: the next look will do."""
    found = memory[:]
    size = int.from_bytes(found[: HEADER // 2])
    data = found[HEADER : HEADER + size]
    if not data or zlib.crc32(data) != int.from_bytes(found[HEADER // 2 : HEADER]):
        return None
    return json.loads(data)
