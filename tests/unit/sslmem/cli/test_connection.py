"""Where the service is and who asks."""

import json
from pathlib import Path

import pytest

from sslmem.cli.connection import DEFAULT_URL, connect, folder_size, home
from sslmem.errors import RequestRefused


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The home of a service that has left nothing yet."""
    monkeypatch.setenv("SSLMEM_HOME", str(tmp_path))
    return tmp_path


def url_of(url: str | None) -> str:
    with connect(url, "token") as client:
        return client.url


def test_home_is_what_the_environment_says_or_the_users_data_folder(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    assert home() == folder
    monkeypatch.delenv("SSLMEM_HOME")
    assert home().name == "sslmem"


def test_service_is_the_one_named_else_the_local_one_else_the_default(folder: Path) -> None:
    assert url_of(None) == DEFAULT_URL
    (folder / "service.json").write_text(json.dumps({"url": "http://127.0.0.1:9"}))
    assert url_of(None) == "http://127.0.0.1:9"
    assert url_of("http://example.org") == "http://example.org"


@pytest.mark.parametrize("content", ["", "[", "{}", "[]"])
def test_damaged_note_of_the_local_service_is_passed_over(folder: Path, content: str) -> None:
    (folder / "service.json").write_text(content)
    assert url_of(None) == DEFAULT_URL


def test_token_is_that_of_the_local_service(folder: Path) -> None:
    with pytest.raises(RequestRefused, match="expected an API token in --token, SSLMEM_TOKEN or"):
        connect(None, None)
    (folder / "token").write_text("secret\n")
    with connect(None, None) as client:
        assert client.url == DEFAULT_URL


def test_size_of_a_folder_is_that_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/x").write_bytes(bytes(3))
    (tmp_path / "a/y").write_bytes(bytes(4))
    assert folder_size(tmp_path / "a") == 7
    assert folder_size(tmp_path / "a/y") == 4
