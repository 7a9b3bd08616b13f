"""The client against the application behind a real socket."""

from collections.abc import Iterator

import pytest

from service.settings import Settings
from sslmem.client.http import Client
from tests.support.live import served


@pytest.fixture
def url(settings: Settings) -> Iterator[str]:
    with served(settings) as url:
        yield url


@pytest.fixture
def client(url: str, token: str) -> Iterator[Client]:
    with Client(url, token) as client:
        yield client
