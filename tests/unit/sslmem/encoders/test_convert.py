"""Conversion of untrusted checkpoints to plain safetensors: what is read and what the refusals say."""

import argparse
import errno
import gzip
import json
import struct
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sslmem.encoders.convert import CheckpointContents, convert_checkpoint
from sslmem.errors import CheckpointError, UnreadableCheckpoint
from tests.unit.builders import save_torch

STATE = {
    "a.weight": torch.arange(6, dtype=torch.float32).view(2, 3),
    "b": torch.tensor([1, -2], dtype=torch.int64),
    "c": torch.tensor(0.25, dtype=torch.float64),
    "d": torch.tensor([[True], [False]]),
    "e": torch.tensor([1.5, float("inf"), float("nan")], dtype=torch.bfloat16),
    "f": torch.tensor([0.5, -0.5], dtype=torch.float16),
    "g": torch.tensor([-3], dtype=torch.int8),
    "h": torch.tensor([3], dtype=torch.uint8),
    "i": torch.tensor([-30000], dtype=torch.int16),
    "j": torch.tensor([2**30], dtype=torch.int32),
    "empty": torch.zeros(0, 3),
}


def convert(source: Path, *, name: str | None = None) -> tuple[CheckpointContents, dict[str, Tensor]]:
    destination = source.with_name("converted.safetensors")
    contents = convert_checkpoint(source, destination, name=name)
    return contents, load_file(destination)


def refusal(source: Path, kind: type[CheckpointError] = UnreadableCheckpoint) -> str:
    destination = source.with_name("converted.safetensors")
    with pytest.raises(kind) as caught:
        convert_checkpoint(source, destination)
    assert not destination.exists()
    assert "\n" not in caught.value.detail
    return caught.value.detail


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0, equal_nan=True)


# What is read


@pytest.mark.parametrize(("legacy", "container"), [(False, "torch zip"), (True, "torch legacy")])
def test_tensors_of_every_kind_come_out_as_they_are(tmp_path: Path, container: str, *, legacy: bool) -> None:
    contents, tensors = convert(save_torch(STATE, tmp_path / "c", legacy=legacy))
    assert contents == CheckpointContents(container=container, places=[""], entries=len(STATE), left_out=[], facts={})
    assert_equal(tensors, STATE)


def test_safetensors_file_is_copied(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "c", metadata={"made": "today"})
    contents, tensors = convert(tmp_path / "c")
    assert contents.container == "safetensors"
    assert contents.entries == len(STATE)
    assert_equal(tensors, STATE)


@pytest.mark.parametrize("legacy", [False, True])
def test_state_dict_may_lie_under_its_key(tmp_path: Path, *, legacy: bool) -> None:
    content = {"state_dict": STATE, "epoch": 3, "a.weight": torch.ones(1)}
    contents, tensors = convert(save_torch(content, tmp_path / "c", legacy=legacy))
    assert contents.places == ["state_dict"]
    assert_equal(tensors, STATE)


def test_state_dict_of_a_module_reads_with_its_metadata(tmp_path: Path) -> None:
    state = nn.Linear(2, 3).state_dict()
    assert_equal(convert(save_torch(state, tmp_path / "c"))[1], dict(state))


def test_entries_that_are_no_tensors_are_named_and_left_out(tmp_path: Path) -> None:
    content: dict[object, object] = {"epoch": 7, "note\n": "x", "sub": {}, "z": np.float64(3), 5: STATE["c"]}
    content.update(STATE)
    contents, tensors = convert(save_torch(content, tmp_path / "c"))
    assert contents.left_out == ["5", "epoch", "note?", "sub", "z"]
    assert_equal(tensors, STATE)


@pytest.mark.parametrize("legacy", [False, True])
def test_windows_on_one_storage_come_out_each_for_itself(tmp_path: Path, *, legacy: bool) -> None:
    base = torch.arange(24, dtype=torch.float32)
    windows = {
        "whole": base.view(4, 6),
        "part": base[5:9],
        "strided": base.view(4, 6)[1:3, ::2],
        "transposed": base.view(4, 6).T,
        "expanded": base[3:4].expand(5),
        "scalar": base[7],
    }
    assert_equal(convert(save_torch(windows, tmp_path / "c", legacy=legacy))[1], windows)


def test_many_windows_on_a_large_storage_are_read_in_one_go(tmp_path: Path) -> None:
    """A flattened network: one storage per entry would be read as often as there are entries."""
    flat = torch.zeros(4_000_000)
    windows = {str(i): flat[i * 4000 : (i + 1) * 4000] for i in range(1000)}
    path = save_torch(windows, tmp_path / "c")
    started = time.monotonic()
    assert len(convert(path)[1]) == 1000
    assert time.monotonic() - started < 8  # 1000 reads of 16 MB would take longer


def test_converted_file_is_laid_out_as_safetensors_demand(tmp_path: Path) -> None:
    convert(save_torch(STATE, tmp_path / "c"))
    content = (tmp_path / "converted.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    assert length % 8 == 0
    assert max(entry["data_offsets"][1] for entry in header.values()) == len(content) - 8 - length
    with safe_open(tmp_path / "converted.safetensors", "pt") as file:
        assert sorted(file.keys()) == sorted(STATE)


# What is refused, and how


def test_missing_file_is_refused(tmp_path: Path) -> None:
    assert "there is none at" in refusal(tmp_path / "none.pt")


def test_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert "expected one file of weights, such as model.safetensors" in refusal(tmp_path / "folder")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80",
        b"PK",
        b"PK\x03\x04",
        b"hello world, hello world",
        b"<!doctype html><title>Sign in</title>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        b"\x89PNG\r\n\x1a\n" + bytes(40),
        gzip.compress(bytes(100), mtime=0),
        bytes(1000),
        b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }          \n\x00\x00\x00\x00",
    ],
)
def test_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    assert refusal(path).startswith("model.pt: ")


def test_zip_archive_of_other_things_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "c", "w") as archive:
        archive.writestr("a.png", b"x")
    assert "a zip archive with 0 entries data.pkl; expected one" in refusal(tmp_path / "c")


def test_message_calls_the_file_as_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "0123abcd").write_bytes(b"")
    with pytest.raises(UnreadableCheckpoint, match=r"^my encoder: "):
        convert_checkpoint(tmp_path / "0123abcd", tmp_path / "out", name="my encoder")


@pytest.mark.parametrize("legacy", [False, True])
def test_pickled_module_yields_its_tensors(tmp_path: Path, *, legacy: bool) -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    module.register_buffer("table", torch.ones(3), persistent=False)
    contents, tensors = convert(save_torch(module, tmp_path / "c", legacy=legacy))
    assert contents.places == [""]
    assert_equal(tensors, dict(module.state_dict()))


@pytest.mark.filterwarnings("ignore")
def test_torchscript_yields_its_parameters(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval()
    torch.jit.save(torch.jit.trace(module, torch.ones(1, 2)), tmp_path / "c")
    contents, tensors = convert(tmp_path / "c")
    assert contents.container == "torchscript"
    assert_equal(tensors, dict(module.state_dict()))


def test_several_state_dicts_come_out_each_under_its_key(tmp_path: Path) -> None:
    content = {
        "teacher": {"w": STATE["c"]},
        "nested": {"deeper": {"w": STATE["b"]}},
        "epoch": 1,
        "opt": {"w": STATE["d"]},
    }
    contents, tensors = convert(save_torch(content, tmp_path / "c"))
    assert contents.places == ["nested/deeper", "teacher"]
    assert contents.left_out == ["epoch", "nested", "opt"]
    assert_equal(tensors, {"teacher/w": STATE["c"], "nested/deeper/w": STATE["b"]})


def test_what_the_file_says_of_its_training_is_shown_and_not_believed(tmp_path: Path) -> None:
    args = argparse.Namespace(arch="vit_small", patch_size=16, device=torch.device("cpu"))
    content = {"state_dict": STATE, "epoch": 3, "arch": "resnet\n50", "args": args}
    contents, _ = convert(save_torch(content, tmp_path / "c"))
    assert contents.facts == {"epoch": "3", "arch": "resnet?50", "args.arch": "vit_small", "args.patch_size": "16"}


@pytest.mark.parametrize("content", [[1, 2], 3, "x", None, (torch.ones(1),), torch.ones(1)])
def test_object_that_is_no_mapping_is_refused(tmp_path: Path, content: object) -> None:
    assert "expected a state dict" in refusal(save_torch(content, tmp_path / "c"))


def test_mapping_without_tensors_is_refused_with_its_keys(tmp_path: Path) -> None:
    content = {"teacher": {"arch": "x"}, "epoch": 1}
    assert "found a mapping with the keys epoch, teacher" in refusal(save_torch(content, tmp_path / "c"))


def test_tensors_of_a_kind_that_is_not_read_are_refused_by_kind(tmp_path: Path) -> None:
    content = {"w": torch.ones(2, dtype=torch.complex64)}
    assert "tensors of the kind ComplexFloatStorage are not read" in refusal(save_torch(content, tmp_path / "c"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux' device that is always full")
def test_full_disk_is_not_taken_for_a_damaged_file(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(50_000)}, tmp_path / "encoder.pth")
    full = tmp_path / "plain.safetensors"
    full.symlink_to("/dev/full")
    with pytest.raises(OSError, match="no room is left") as caught:
        convert_checkpoint(tmp_path / "encoder.pth", full)
    assert caught.value.errno == errno.ENOSPC
    assert not full.is_symlink()
