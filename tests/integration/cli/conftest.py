"""The commands in the test's own process, against the application behind a real socket."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from service.settings import Settings
from sslmem.cli import main
from tests.support.live import served


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line of an error."""
        assert self.status == 2, self
        assert self.err.count("\n") == 1, self
        assert self.err.startswith("sslmem: "), self
        return self.err

    @property
    def id(self) -> str:
        """The id that a successful command prints."""
        assert self.status == 0, self
        return self.out.split()[0]


Run = Callable[..., Ended]


@pytest.fixture
def url(settings: Settings) -> Iterator[str]:
    with served(settings) as url:
        yield url


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs ``sslmem`` with arguments, wherever the service is."""

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr("sys.argv", ["sslmem", *map(str, arguments)])
        capsys.readouterr()
        status: object = 0
        try:
            main.main()
        except SystemExit as end:
            status = end.code or 0
        out, err = capsys.readouterr()
        assert isinstance(status, int)
        return Ended(status, out, err)

    return run


@pytest.fixture
def sslmem(alone: Run, url: str, token: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs ``sslmem`` with arguments against the service."""
    monkeypatch.setenv("SSLMEM_URL", url)
    monkeypatch.setenv("SSLMEM_TOKEN", token)
    return alone
