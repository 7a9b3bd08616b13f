"""``make demo``, with little training: the way from data to report is the real one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def demo(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SSLMEM_HOME": str(home), "COLUMNS": "120", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "demo", "--epochs", "2", "--images", "240", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def first(home: Path) -> subprocess.CompletedProcess[str]:
    return demo(home)


def test_demo_shows_every_role_the_finding_and_ten_images(first: subprocess.CompletedProcess[str]) -> None:
    assert first.returncode == 0, first.stderr
    sizes = dict(re.findall(r"│ (\w+) +│ +(\d+) │", first.stdout))
    assert sizes == {"shared": "20", "candidate": "60", "independent": "60", "external": "100"}
    assert re.search(r"│ candidate +│ [+-]0\.\d{4}  \([+-]0\.\d{4} to [+-]0\.\d{4}\) │ 0\.\d{3}", first.stdout)
    assert len(re.findall(r"│ \d/\d{4}\.png │ candidate", first.stdout)) == 10
    assert re.search(r"(Memorization found|No memorization found): .*AUC 0\.\d{3}", first.stdout.replace("\n", " "))


def test_demo_writes_a_report_that_needs_nothing_else(first: subprocess.CompletedProcess[str], home: Path) -> None:
    assert first.returncode == 0, first.stderr
    assert f"report: {home}/demo/report.html" in first.stdout
    report = (home / "demo" / "report.html").read_text(encoding="utf-8")
    assert report.count("<svg") >= 4
    assert report.count("data:image/png;base64,") == 20
    assert not re.search(r"(src|href)=.?https?:", report)


def test_demo_stops_the_service_it_started(first: subprocess.CompletedProcess[str], home: Path) -> None:
    assert first.returncode == 0, first.stderr
    assert not (home / "service.json").exists()


def test_second_demo_keeps_what_was_trained(first: subprocess.CompletedProcess[str], home: Path) -> None:
    assert first.returncode == 0, first.stderr
    again = demo(home)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("trained before") == 2
    assert "training the" not in again.stdout


def test_demo_without_a_folder_to_write_to_says_so_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    run = demo(tmp_path / "file" / "home")
    assert run.returncode == 2
    assert run.stderr.startswith("demo: ")
    assert len(run.stderr.strip().splitlines()) == 1
