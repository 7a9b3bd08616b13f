"""The runner in the test's own process, on the real servers."""

import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from models.audit import Audit
from service import audits
from service.context import Context
from service.settings import Settings
from sslmem.datasets.image import sample_key
from tests.support import driver, rows
from tests.support.materials import EncoderFile, Material
from worker.board import Board
from worker.run import Runner

Drain = Callable[[], int]


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    """So small an encoder is quicker without others to wait for."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Short leases."""
    return settings.model_copy(update={"lease_seconds": 1.2})


@pytest.fixture(autouse=True)
def _hardly_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """After failures."""
    monkeypatch.setattr("worker.run.MAX_PAUSE_SECONDS", 0.01)


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
def runner(settings: Settings, board: Board) -> Iterator[Runner]:
    """With a parent's watch over it, in a thread."""
    runner = Runner(settings, "worker:1", board)
    with driver.kept(runner.context, board):
        yield runner
    runner.context.close()


@pytest.fixture
def drain(runner: Runner, settings: Settings) -> Drain:
    return lambda: driver.drain(runner, settings)


@dataclass(frozen=True)
class Setting:
    """An audit that can be requested any number of times."""

    context: Context
    values: dict[str, Any]

    def request(self, chunk_seconds: float = 3600, **changes: Any) -> Audit:  # noqa: ANN401
        settings = rows.with_settings(self.context, chunk_seconds=chunk_seconds)
        with self.context.sessions.begin() as session:
            values = {**self.values, "force": True, **changes}
            return audits.request_audit(session, self.context.queue, settings, **values)[0]


@pytest.fixture
def setting(context: Context, material: Material, target_file: EncoderFile, reference_file: EncoderFile) -> Setting:
    """Two encoders and the images, as their checks leave them."""
    with zipfile.ZipFile(material.archive) as archive:
        keys = {path: sample_key(archive.read(path)) for path in sorted(material.paths)}
    with context.sessions.begin() as session:
        target, reference = (
            rows.add_encoder(
                session,
                file.path.name,
                weights_artifact_digest=context.store.put_file(file.path),
                architecture=file.architecture,
                input_size=file.input_size,
            )
            for file in (target_file, reference_file)
        )
        archive_digest = context.store.put_file(material.archive)
        dataset = rows.add_dataset(session, list(keys), artifact_digest=archive_digest, keys=keys)
        return Setting(
            context,
            {
                "name": "audit",
                "target_ids": [target.id],
                "reference_ids": [reference.id],
                "dataset_id": dataset.id,
                "role_set_id": rows.add_roles(session, dataset, list(keys)).id,
                "spec": {"views": 4, "seed": 5},
            },
        )
