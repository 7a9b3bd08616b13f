"""``python -m service`` and what may be in its way, in the test's own process."""

import fcntl
import json
import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service import __main__ as commands
from service.context import Context
from service.embedded.process import free_port
from service.tokens import check_token
from tests.conftest import Servers

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Run]:
    """Runs the command with arguments and settings; gives its status and what it wrote."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    caught = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def run(*arguments: str, **variables: str) -> tuple[int, str, str]:
        given = {"home": str(tmp_path / "home"), "port": str(free_port()), **variables}
        for name, value in given.items():
            monkeypatch.setenv(f"SSLMEM_{name.upper()}", value)
        monkeypatch.setattr("sys.argv", ["service", *arguments])
        status: object = 0
        try:
            commands.main()
        except SystemExit as end:
            status = end.code
        assert isinstance(status, int)
        out, err = capsys.readouterr()
        return status, out, err

    yield run
    root.handlers[:], root.level = handlers, level
    for number, handler in caught.items():
        signal.signal(number, handler)


def line_of(ended: tuple[int, str, str]) -> str:
    """The one line of a refusal."""
    status, out, err = ended
    assert (status, out) == (2, ""), err
    assert err.count("\n") == 1, err
    return err.removeprefix("sslmem: ").rstrip("\n")


def test_folder_below_a_file_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line = line_of(run("up", home=str(tmp_path / "file" / "home")))
    assert line.startswith(
        f"expected a folder that can be written to at {tmp_path / 'file' / 'home'} (Not a directory)"
    )


def test_running_service_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "service.json").write_text(json.dumps({"url": "http://127.0.0.1:1", "pid": 2}))
    with (tmp_path / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        line = line_of(run("up", home=str(tmp_path)))
    assert line == f"the service is already running in {tmp_path}, at http://127.0.0.1:1 (process 2)"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("port", "eighty", "port"),
        ("port", "0", "port"),
        ("lease_seconds", "-1", "lease_seconds"),
        ("database_url", "nonsense", "expected a URL such as postgresql://"),
        ("database_url", "mysql://localhost/x", "expected a postgresql:// URL"),
        ("broker_url", "nonsense", "Redis URL must specify"),
    ],
)
def test_setting_that_makes_no_sense_is_named(run: Run, servers: Servers, name: str, value: str, words: str) -> None:
    given = {"database_url": servers.postgres.url, "broker_url": servers.redis.url, name: value}
    assert words in line_of(run("up", **given))


@pytest.mark.parametrize("port", ["0", "65536"])
def test_port_that_is_none_is_named(run: Run, port: str) -> None:
    assert "port" in line_of(run("up", "--port", port))


def test_database_that_does_not_answer_is_named(run: Run) -> None:
    url = f"postgresql://sslmem:secret@127.0.0.1:{free_port()}/sslmem"
    for arguments in (("migrate",), ("token", "me"), ("up",)):
        line = line_of(run(*arguments, database_url=url, broker_url="redis://127.0.0.1:1/0"))
        assert "answers at SSLMEM_" in line
        assert "secret" not in line


def test_broker_that_does_not_answer_is_named(run: Run, servers: Servers) -> None:
    redis = f"redis://:secret@127.0.0.1:{free_port()}/0"
    line = line_of(run("up", database_url=servers.postgres.url, broker_url=redis))
    assert line == "expected a Redis server that answers at SSLMEM_BROKER_URL; there is none"


def test_command_that_needs_a_database_says_so(run: Run) -> None:
    assert "SSLMEM_DATABASE_URL" in line_of(run("migrate"))


def test_token_for_a_database_that_was_not_migrated_says_what_to_do(run: Run, empty_database_url: str) -> None:
    assert "python -m service migrate" in line_of(run("token", "me", database_url=empty_database_url))


def test_token_is_created_and_printed(run: Run, context: Context, database_url: str) -> None:
    status, out, err = run("token", "me", database_url=database_url)
    assert (status, err) == (0, "")
    with context.sessions.begin() as session:
        check_token(session, f"Bearer {out.strip()}")


def test_migrating_is_repeatable(run: Run, empty_database_url: str) -> None:
    for _ in range(2):
        assert run("migrate", database_url=empty_database_url) == (0, "", "")
    assert run("token", "me", database_url=empty_database_url)[0] == 0


def test_misuse_is_explained(run: Run) -> None:
    status, _, err = run("down")
    assert status == 2
    assert "usage: python -m service" in err
