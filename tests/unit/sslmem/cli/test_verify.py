"""``sslmem verify``: 0 it holds, 1 it does not, 2 it cannot be told."""

import hashlib
from pathlib import Path

import pytest

from sslmem.cli import main
from sslmem.gate.statement import make_statement
from tests.unit.cases import FAILING, TODAY, a_case, a_report


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A target, with the report and the statement of its gate."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f.pth").write_bytes(b"weights")
    report = a_report(a_case(files={"target:f.pth": "sha256:" + hashlib.sha256(b"weights").hexdigest()}))
    (tmp_path / "report.json").write_text(report.to_json())
    (tmp_path / "statement.json").write_text(make_statement(report))
    return tmp_path


def verify(monkeypatch: pytest.MonkeyPatch) -> int:
    arguments = ["sslmem", "verify", "statement.json", "--report", "report.json", "--target", "f.pth"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as end:
        main.main()
    return int(end.value.code or 0)


def test_statement_that_holds(files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert files.is_dir()
    assert verify(monkeypatch) == 0
    out, err = capsys.readouterr()
    assert out == f"the statement holds\nthe verdict of {TODAY}: Passed: the rule holds.\n"
    assert err.startswith("not checked: who signed it (--key), whose policy it is (--policy), whether the evidence")


def test_other_weights(files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "f.pth").write_bytes(b"other weights")
    assert verify(monkeypatch) == 1
    assert "does not hold: the statement is not about f.pth" in capsys.readouterr().err


def test_other_report(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (files / "report.json").write_text(a_report(a_case(FAILING)).to_json())
    assert verify(monkeypatch) == 1


@pytest.mark.parametrize("name", ["report.json", "statement.json", "f.pth"])
def test_missing_file(files: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (files / name).unlink()
    assert verify(monkeypatch) == 2


def test_changed_report(files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    path = files / "report.json"
    path.write_text(path.read_text().replace("0.52", "0.42"))
    assert verify(monkeypatch) == 2
    assert "was changed since it was written" in capsys.readouterr().err
