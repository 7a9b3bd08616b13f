import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from service.settings import settings_page
from sslmem.cli.main import app
from sslmem.encoders.architectures import small_stem_resnet

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands(text: str) -> list[list[str]]:
    """The ``sslmem`` commands in a document's code blocks, continued lines joined."""
    joined = text.replace("\\\n", " ")
    lines = re.findall(r"^\s*(sslmem [^#\n]+)", joined, flags=re.MULTILINE)
    return [shlex.split(line)[1:] for line in lines]


@pytest.mark.parametrize("arguments", commands(README), ids=" ".join)
def test_readme_commands_have_the_options_they_use(arguments: list[str]) -> None:
    path = list(itertools.takewhile(str.isalpha, arguments[:2]))
    help_text = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}).output
    used = {argument for argument in arguments if argument.startswith("--")}
    assert {option for option in used if not re.search(rf"{option}\b", help_text)} == set()


def test_readme_names_at_least_the_commands_of_score_and_audits() -> None:
    assert {"score", "encoders", "datasets", "audits"} <= {arguments[0] for arguments in commands(README)}


def test_readme_notebook_runs_as_it_stands(tmp_path: Path) -> None:
    for name in ("f.pth", "g.pth"):
        torch.save(small_stem_resnet("resnet18")[0].state_dict(), tmp_path / name)
    (tmp_path / "images").mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    code = code.replace("images.zip", "images")
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("0.png ")


def test_settings_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == settings_page(), "run make docs"


def test_documents_link_to_files_that_exist() -> None:
    broken = [
        f"{document.relative_to(ROOT)} -> {target}"
        for document in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
        for target in re.findall(r"\]\(([^)#]+)", document.read_text(encoding="utf-8"))
        if not target.startswith(("http:", "https:")) and not (document.parent / target).exists()
    ]
    assert broken == []


def test_each_decision_record_is_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = (folder / "README.md").read_text(encoding="utf-8")
    records = [path.name for path in folder.glob("0*.md")]
    assert records
    assert [name for name in records if name not in listed] == []


def test_make_alone_prints_what_there_is() -> None:
    run = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("demo", "run", "test", "check"):
        assert f"make {target} " in run.stdout
