"""The embedded service as people start it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import materials
from tests.support.materials import Material
from tests.support.processes import Service

Start = Callable[..., Service]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts services, by default in one folder of the test's, and leaves none behind."""
    services: list[Service] = []

    def start(home: Path | None = None, **changes: str) -> Service:
        services.append(Service(home or tmp_path / "home", **changes))
        return services[-1]

    yield start
    for service in services:
        service.ensure_stopped()


@pytest.fixture(scope="session")
def many_images(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """Enough for an audit of ten chunks."""
    return materials.make_images(tmp_path_factory.mktemp("many"), per_role=40)
