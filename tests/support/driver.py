"""Works the queue off in the test's own process, with the real runner."""

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from models.dataset import Dataset
from models.encoder import Encoder
from service import intake
from service.context import Context
from service.queue import CHECK_DATASET, CHECK_ENCODER, FINALISE_AUDIT, SCORE_CHUNK
from service.settings import Settings
from service.workers import beat
from tests.support.materials import EncoderFile, Material
from tests.support.queue import take
from worker.board import Board
from worker.keeper import Keeper
from worker.run import Runner


def tasks(runner: Runner) -> dict[str, Callable[[uuid.UUID], None]]:
    """What the runner does by the name of the task."""
    return {
        CHECK_ENCODER: runner.check_encoder,
        CHECK_DATASET: runner.check_dataset,
        SCORE_CHUNK: runner.score_chunk,
        FINALISE_AUDIT: runner.finalise_audit,
    }


def drain(runner: Runner, settings: Settings) -> int:
    """Does everything that is announced, and what that announces; returns how many messages there were."""
    count = 0
    while (message := take(settings, 0.01)) is not None:
        task, row_id = message
        tasks(runner)[task](uuid.UUID(row_id))
        count += 1
    return count


@contextmanager
def working(settings: Settings) -> Iterator[None]:
    """A worker in a thread, with a sign of life."""
    board = Board()
    runner, stop = Runner(settings, "test:1", board), threading.Event()
    with runner.context.sessions.begin() as session:
        beat(session, "test:1", "cpu")

    def work() -> None:
        while not stop.is_set():
            drain(runner, settings)

    thread = threading.Thread(target=work)
    with kept(runner.context, board):
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
    runner.context.close()


@contextmanager
def kept(context: Context, board: Board) -> Iterator[None]:
    """Renews the leases of a runner in this process, as a worker's parent does, but kills nobody."""
    stop = threading.Event()
    keeper = Keeper(context.sessions, board, context.settings, kill=lambda _: None)
    thread = threading.Thread(target=keeper.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def upload_encoder(context: Context, file: EncoderFile, name: str, **changes: object) -> Encoder:
    """Registers a checkpoint, not checked yet."""
    with file.path.open("rb") as source, context.store.incoming(2**40) as artifact:
        artifact.write(source.read())
        digest = artifact.keep()
    values = {
        "name": name,
        "artifact_digest": digest,
        "architecture": file.architecture,
        "input_size": file.input_size,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        **changes,
    }
    with context.sessions.begin() as session:
        return intake.register(session, context.queue, context.store, Encoder, values)[0]


def upload_dataset(context: Context, archive: bytes, name: str = "images") -> Dataset:
    """Registers an archive, not checked yet."""
    with context.store.incoming(2**40) as artifact:
        artifact.write(archive)
        digest = artifact.keep()
    values = {"name": name, "artifact_digest": digest}
    with context.sessions.begin() as session:
        return intake.register(session, context.queue, context.store, Dataset, values)[0]


def upload_material(context: Context, material: Material) -> Dataset:
    """Registers the archive of images, not checked yet."""
    return upload_dataset(context, material.archive.read_bytes())
