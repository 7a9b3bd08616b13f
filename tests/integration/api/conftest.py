"""The application on the real servers, without a network between."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from api.main import create_app
from service.settings import Settings


@pytest.fixture
def anonymous(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings)) as client:
        yield client


@pytest.fixture
def client(anonymous: TestClient, token: str) -> TestClient:
    anonymous.headers["Authorization"] = f"Bearer {token}"
    return anonymous
