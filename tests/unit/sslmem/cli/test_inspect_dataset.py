"""``sslmem datasets inspect``."""

import sys
from pathlib import Path

import numpy as np
import pytest

from sslmem.cli import main as cli
from tests.unit.builders import encoded, scene


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["sslmem", "datasets", "inspect", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0)


def test_says_what_a_dataset_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"cat/a.png": encoded(scene(9, 9, 1)), "dog/b.png": encoded(scene(9, 9, 2)), "dog/c.png": b"no image"}
    for name, data in (files | {"dog/d.png": files["cat/a.png"], "x.txt": b"x"}).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    assert run(monkeypatch, str(tmp_path)) == 0
    assert capsys.readouterr().out.splitlines() == [
        "format   images in a folder",
        "samples  4",
        "names    cat/a.png to dog/d.png",
        "others   1 files that are no images and hold none",
        "labels   dog 3, cat 1",
        "equal    2 samples are the same file as another one",
        "skipped  1 of 4 samples cannot be scored",
        "  dog/c.png: image-undecodable: the bytes are no image of a known format",
    ]


def test_quick_look_lists_without_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "a.npz", x_train=np.zeros((3, 8, 8), np.uint8), x_test=np.zeros((2, 8, 8), np.uint8))
    assert run(monkeypatch, str(tmp_path / "a.npz"), "--quick") == 0
    assert capsys.readouterr().out.splitlines() == [
        "format   NumPy arrays",
        "samples  5 (test 2, train 3)",
        "names    test/00000 to train/00002",
    ]


def test_file_that_is_not_understood_is_one_line_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").write_bytes(b"nothing of the kind")
    assert run(monkeypatch, str(tmp_path / "a")) == 2
    error = capsys.readouterr().err
    assert "Parquet files with a column of images; a is none of them [dataset-unreadable]" in error
    assert error.count("\n") == 1
