"""The light half of the package imports without what scoring needs."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "torchvision", "timm", "numpy", "scipy", "PIL", "pyarrow"}


def loaded_by(*modules: str) -> set[str]:
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


@pytest.mark.parametrize(
    "modules",
    [
        ("sslmem", "sslmem.spec", "sslmem.recipe", "sslmem.roles", "sslmem.errors"),
        ("sslmem.client.http",),
        ("sslmem.cli.main",),
    ],
)
def test_light_half_loads_nothing_heavy(modules: tuple[str, ...]) -> None:
    loaded = loaded_by(*modules)
    assert set(modules) <= loaded
    assert loaded & HEAVY == set()


def test_reports_are_written_without_torch() -> None:
    loaded = loaded_by("sslmem.report.summary", "sslmem.report.rows", "sslmem.report.html", "sslmem.datasets.source")
    assert "numpy" in loaded
    assert loaded & {"torch", "torchvision", "timm"} == set()
