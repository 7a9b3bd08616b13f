"""The command as a whole."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sslmem import __version__
from sslmem.cli import main as cli
from sslmem.errors import RequestRefused


def test_version_is_printed() -> None:
    outcome = CliRunner().invoke(cli.app, ["version"])
    assert (outcome.exit_code, outcome.stdout) == (0, f"{__version__}\n")


@pytest.mark.parametrize(
    "command", [[], ["score"], ["encoders"], ["datasets"], ["audits"], ["encoders", "push"], ["audits", "request"]]
)
def test_help_names_the_command(command: list[str]) -> None:
    outcome = CliRunner().invoke(cli.app, [*command, "--help"])
    assert outcome.exit_code == 0
    assert "Usage:" in outcome.stdout


def test_help_of_score_lists_every_option() -> None:
    outcome = CliRunner().invoke(cli.app, ["score", "--help"], env={"COLUMNS": "200"})
    shown = set(re.findall(r"--[a-z][a-z-]*", outcome.stdout))
    assert shown >= {
        *("--target", "--reference", "--data", "--out", "--roles", "--architecture", "--input-size", "--mean", "--std"),
        *("--views", "--pairing", "--distance", "--normalize", "--no-normalize", "--recipe", "--seed", "--device"),
        *("--batch-size", "--json", "--report"),
    }


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    monkeypatch.setattr(sys, "argv", ["sslmem", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def test_command_that_is_none_is_status_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "nonsense") == 2
    assert "No such command 'nonsense'" in capsys.readouterr().err


def test_service_that_does_not_answer_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "encoders", "list", "--url", "http://127.0.0.1:1", "--token", "t") == 2
    error = capsys.readouterr().err
    assert error.startswith("sslmem: no answer from http://127.0.0.1:1")
    assert error.endswith("[service-unreachable]\n")
    assert error.count("\n") == 1


def test_missing_token_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("SSLMEM_HOME", str(tmp_path))
    assert run(monkeypatch, "audits", "list") == 2
    error = capsys.readouterr().err
    assert f"expected an API token in --token, SSLMEM_TOKEN or {tmp_path / 'token'}" in error
    assert error.endswith(f"[{RequestRefused.code}]\n")


def test_missing_extra_is_named_with_how_to_install_it(tmp_path: Path) -> None:
    """As after ``pip install sslmem`` alone. In a process of its own: modules that others use stay as they are."""
    (tmp_path / "data").mkdir()
    code = "import sys; sys.modules['torch'] = None; from sslmem.cli.main import main; main()"
    arguments = ("--target", "a", "--reference", "b", "--data", "data", "--out", str(tmp_path / "out.parquet"))
    ended = subprocess.run([sys.executable, "-c", code, "score", *arguments], capture_output=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.decode() == "sslmem: this needs torch: pip install 'sslmem[score]'\n"
