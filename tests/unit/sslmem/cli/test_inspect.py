"""What ``sslmem inspect`` says of a checkpoint, and its statuses."""

import json
from pathlib import Path

import pytest
import torch

from sslmem.cli import main
from tests.unit.builders import save_torch
from tests.unit.sslmem.encoders.test_producers import dino, state, vit

LINES = 10


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["sslmem", "inspect", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main.main()
    return int(caught.value.code or 0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return save_torch(dino().content, tmp_path / "dino.pth")


def test_file_is_described_in_a_few_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: Path
) -> None:
    assert run(monkeypatch, file) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) <= LINES
    text = "\n".join(said)
    for expected in (
        "dino.pth: torch zip", "epoch 3", "args.arch x", "producer: DINO (certain)",
        "audited: teacher, vit_tiny_patch8",
        "also there: student", "num_heads 3, which weights do not show", "pooled of width 192, input 32 px",
    ):  # fmt: skip
        assert expected in text


def test_same_as_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: Path) -> None:
    assert run(monkeypatch, file, "--branch", "student", "--option", "num_heads=6", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["usable"] is True
    assert found["load_report"]["branch"] == "student"
    assert found["load_report"]["other_branches"] == ["teacher"]
    assert "6 heads" in found["load_report"]["inferred"][0]


def test_choice_that_is_left_to_the_user_is_status_2_and_says_which(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = save_torch({**state(vit(0), "one."), **state(vit(1), "two.")}, tmp_path / "c.pth")
    assert run(monkeypatch, path) == 2
    said = capsys.readouterr().out
    assert "c.pth: torch zip" in said
    assert "--branch one or two [checkpoint-ambiguous]" in said


def test_file_of_another_kind_is_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "c").write_bytes(b"hello world")
    assert run(monkeypatch, tmp_path / "c", "--json") == 2
    found = json.loads(capsys.readouterr().out)
    assert (found["usable"], found["code"], found["confidence"]) == (False, "checkpoint-unreadable", "none")


def test_architecture_that_must_be_told_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = save_torch({"conv_stem.weight": torch.ones(3, 3, 3, 3)}, tmp_path / "c")
    assert run(monkeypatch, path) == 2
    assert "expected its name" in capsys.readouterr().out
