import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_wheel_holds_the_library_alone(wheel: zipfile.ZipFile) -> None:
    top = {name.split("/")[0] for name in wheel.namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {"sslmem"}


def test_wheel_holds_the_report_template_the_default_policy_and_the_type_marker(wheel: zipfile.ZipFile) -> None:
    needed = {"sslmem/report/templates/report.html", "sslmem/report/templates/gate.html", "sslmem/py.typed"}
    assert {*needed, "sslmem/policies/default.yaml"} <= set(wheel.namelist())


def test_wheel_needs_torch_only_for_its_extra(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    required = [line for line in wheel.read(name).decode().splitlines() if line.startswith("Requires-Dist: ")]
    torch = [line for line in required if line.split()[1].startswith(("torch", "timm", "numpy"))]
    assert torch
    assert all("extra == 'score'" in line for line in torch)
