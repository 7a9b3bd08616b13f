import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a statement brings in, in a process of its own."""
    code = f"{statement}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    return set(run.stdout.split())


@pytest.mark.parametrize(
    "module", ["sslmem", "sslmem.spec", "sslmem.client.http", "sslmem.cli.main", "sslmem.client.notebook"]
)
def test_client_side_loads_neither_torch_nor_numpy(module: str) -> None:
    assert not loaded_by(f"import {module}") & {"torch", "torchvision", "timm", "numpy"}


@pytest.mark.parametrize("module", ["api.main", "service.embedded.supervisor", "worker.sweeper", "worker.app"])
def test_service_and_worker_parent_load_no_torch(module: str) -> None:
    loaded = loaded_by(f"import {module}")
    assert module.partition(".")[0] in loaded
    assert not loaded & {"torch", "torchvision", "timm"}
