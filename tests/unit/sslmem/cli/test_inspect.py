"""What ``sslmem inspect`` says of a checkpoint, and its statuses."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sslmem.cli import main
from sslmem.gate.statement import file_digest
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
        "audited: teacher, vit_tiny_patch8, 42 entries (0 renamed), pooled of width 192", "also there: student",
        "left out: 42 of another encoder: student, 4 of the projection head", "num_heads 3 (default)",
        "input_size 32 (weights)", "mean 0.485,0.456,0.406 (default)", f"file {file_digest(file)}, weights sha256:",
        "to be told, if it is otherwise: --option num_heads=...",
    ):  # fmt: skip
        assert expected in text


def test_same_as_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: Path) -> None:
    assert run(monkeypatch, file, "--branch", "student", "--option", "num_heads=6", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["usable"] is True
    assert found["load_report"]["branch"] == "student"
    assert found["load_report"]["other_branches"] == ["teacher"]
    assert "6 heads" in found["load_report"]["inferred"][0]


def test_folder_is_described_with_what_it_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({f"encoder.{k}": v for k, v in state(vit()).items()}, folder / "model.safetensors")
    config = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    assert run(monkeypatch, folder, "--option", "num_heads=6") == 0
    said = capsys.readouterr().out
    for expected in (
        "model: folder, 42 tensors",
        "mean 0.1,0.2,0.3 (file)",
        "num_heads 6 (told)",
        "file none, a folder",
    ):
        assert expected in said
    assert "--mean" not in said


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
