"""Architectures that an operator registers, by the example in the documentation."""

import re
import sys
from pathlib import Path

import pytest
import torch

from sslmem.encoders import architectures, registered
from sslmem.encoders.load import load_checkpoint
from sslmem.errors import UnknownArchitecture
from tests.unit.builders import randomize, save_torch

PAGE = Path(__file__).parents[4] / "docs" / "encoders.md"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package of the documentation, installed as pip does it."""
    text = PAGE.read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(# our_encoders.py\n.*?)```", text, re.DOTALL)
    (entries,) = re.findall(r"\[project\.entry-points\.\"sslmem\.architectures\"\]\n(.*?)```", text, re.DOTALL)
    (tmp_path / "our_encoders.py").write_text(code)
    info = tmp_path / "our_encoders-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: our-encoders\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{registered.GROUP}]\n" + entries.replace('"', ""))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "our_encoders", raising=False)
    return tmp_path


def test_registered_architecture_is_built_and_loaded_by_its_name(package: Path) -> None:
    assert registered.names() == ["tiny_net"]
    module, size, _ = architectures.build("tiny_net", {}, None)
    randomize(module)
    path = save_torch({f"encoder.{k}": v for k, v in module.state_dict().items()}, package / "c.pth")
    encoder = load_checkpoint(path, architecture="registered/tiny_net")
    views = torch.rand(2, 3, size, size)
    mean, std = torch.tensor(encoder.mean)[:, None, None], torch.tensor(encoder.std)[:, None, None]
    with torch.inference_mode():
        torch.testing.assert_close(encoder.represent(views), module.eval()((views - mean) / std))
    assert encoder.report.prefix == "encoder."
    assert any("registered on this machine, by our_encoders:tiny_net" in note for note in encoder.report.inferred)


def test_registered_name_does_not_stand_in_for_one_of_the_registries(package: Path) -> None:
    points = package / "our_encoders-1.0.dist-info" / "entry_points.txt"
    points.write_text(points.read_text().replace("tiny_net =", "resnet18 ="))
    module, _, _ = architectures.build("resnet18", {}, None)
    assert type(module).__name__ == "ResNet"
    module, _, _ = architectures.build("registered/resnet18", {}, None)
    assert type(module).__name__ != "ResNet"


def test_name_that_is_registered_twice_is_refused(package: Path) -> None:
    other = package / "other-1.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (other / "entry_points.txt").write_text(f"[{registered.GROUP}]\ntiny_net = our_encoders:tiny_net\n")
    with pytest.raises(UnknownArchitecture, match="registered 2 times"):
        architectures.build("tiny_net", {}, None)


@pytest.mark.usefixtures("package")
def test_file_next_to_a_checkpoint_registers_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownArchitecture):
        load_checkpoint(save_torch({"w": torch.ones(2)}, tmp_path / "c.pth"), architecture="our_encoders:tiny_net")
