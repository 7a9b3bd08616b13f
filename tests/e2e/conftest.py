"""The embedded service as people start it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import materials
from tests.support.auditing import Uploaded, upload
from tests.support.materials import EncoderFile, Material
from tests.support.processes import Service


class House:
    """A folder in which a service runs: the one that does, or, after a test that stopped it, a new one."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.services: list[Service] = []

    def running(self) -> Service:
        if not self.services or self.services[-1].process.poll() is not None:
            self.services.append(Service(self.home))
        return self.services[-1]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    house = House(tmp_path_factory.mktemp("house") / "home")
    yield house
    for service in house.services:
        service.ensure_stopped()


@pytest.fixture
def service(house: House) -> Service:
    return house.running()


@pytest.fixture(scope="session")
def many_images(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """Enough for an audit of six chunks."""
    return materials.make_images(tmp_path_factory.mktemp("many"), per_role=24)


@pytest.fixture(scope="module")
def uploaded(house: House, many_images: Material, target_file: EncoderFile, reference_file: EncoderFile) -> Uploaded:
    with house.running().client() as client:
        return upload(client, many_images, target_file, reference_file)
