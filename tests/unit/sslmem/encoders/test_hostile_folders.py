"""Archives of folders that would leave them, exhaust the machine or lie: each is refused, and leaves nothing behind."""

import gzip
import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

from sslmem.encoders import bundle, reader
from sslmem.encoders.convert import convert_checkpoint
from sslmem.errors import CheckpointError, UnreadableCheckpoint, UnsafeCheckpoint
from tests.unit.sslmem.encoders import pickles as p

WEIGHTS = save({"w": torch.arange(4.0)})
INDEX = "model.safetensors.index.json"
Write = Callable[[Path, Mapping[str, bytes]], Path]


def zip_of(path: Path, members: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def tar_of(path: Path, members: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


both = pytest.mark.parametrize("write", [zip_of, tar_of])


def refused(path: Path, kind: type[CheckpointError] = CheckpointError) -> str:
    with pytest.raises(kind) as caught:
        convert_checkpoint(path, path.with_name("out"))
    assert caught.value.detail.isprintable()
    left = [file.name for file in path.parent.iterdir() if file != path]
    assert left == []
    return caught.value.detail


@both
def test_archive_of_a_folder_is_read_and_leaves_nothing_else_behind(tmp_path: Path, write: Write) -> None:
    members = {"a/model.safetensors": WEIGHTS, "a/config.json": b"{}", "a/README.md": b"x", "__MACOSX/a/b.bin": b"x"}
    contents = convert_checkpoint(write(tmp_path / "c", members), tmp_path / "out")
    assert (contents.container, contents.entries) == ("folder", 1)
    assert load_file(tmp_path / "out")["w"].tolist() == [0, 1, 2, 3]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["c", "out"]


@both
@pytest.mark.parametrize("name", ["../model.safetensors", "/tmp/model.safetensors", "a/../../model.safetensors"])
def test_no_member_is_written_where_its_name_says(tmp_path: Path, write: Write, name: str) -> None:
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    convert_checkpoint(write(folder / "c", {name: WEIGHTS}), folder / "out")
    files = sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file())
    assert files == ["deep/er/c", "deep/er/out"]
    assert not Path("/tmp/model.safetensors").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_member_of_a_tar_that_is_no_regular_file_is_refused(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("model.safetensors")
    info.type, info.linkname = kind, "/etc/passwd"
    with tarfile.open(tmp_path / "c", "w") as archive:
        archive.addfile(info)
    assert "is a link or no file" in refused(tmp_path / "c", UnsafeCheckpoint)


def test_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("model.safetensors")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "c", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    assert "is a link or no file" in refused(tmp_path / "c", UnsafeCheckpoint)


@both
def test_archive_that_unfolds_without_end_is_refused(tmp_path: Path, write: Write) -> None:
    path = write(tmp_path / "c", {"model.safetensors": WEIGHTS, "config.json": bytes(64 * 2**20)})
    assert path.stat().st_size < 2**18
    assert "would unfold to far more than it has" in refused(path, UnsafeCheckpoint)


def test_sparse_member_of_a_tar_is_refused(tmp_path: Path) -> None:
    """A terabyte of zeros in a few bytes."""
    info = tarfile.TarInfo("model.safetensors")
    info.size = 0
    info.pax_headers = {
        "GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": f"{2**40},0", "GNU.sparse.size": str(2**40),
    }  # fmt: skip
    with tarfile.open(tmp_path / "c", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info)
    assert "is a link or no file" in refused(tmp_path / "c", UnsafeCheckpoint)


def test_stream_of_gzip_that_is_no_tar_is_refused_in_bounded_time(tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(gzip.compress(bytes(256 * 2**20), mtime=0))
    refused(tmp_path / "c")


@both
def test_archive_of_too_many_members_is_refused(tmp_path: Path, write: Write) -> None:
    path = write(tmp_path / "c", {f"{i}.txt": b"" for i in range(bundle.MAX_MEMBERS + 1)} | {"m.safetensors": WEIGHTS})
    assert "an archive of more than" in refused(path, UnsafeCheckpoint)


@both
@pytest.mark.parametrize("write_inner", [zip_of, tar_of])
def test_archives_within_archives_are_not_opened(tmp_path: Path, write: Write, write_inner: Write) -> None:
    inner = write_inner(tmp_path / "inner", {"model.safetensors": WEIGHTS}).read_bytes()
    (tmp_path / "inner").unlink()
    for name in ("model.zip", "model.safetensors", "pytorch_model.bin"):
        refused(write(tmp_path / "c", {name: inner, "config.json": b"{}"}), UnreadableCheckpoint)


@both
def test_weights_in_several_folders_are_not_chosen_between(tmp_path: Path, write: Write) -> None:
    path = write(tmp_path / "c", {"a/model.safetensors": WEIGHTS, "b/model.safetensors": WEIGHTS})
    assert "expected an archive with weights in one folder; found a, b" in refused(path)


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "config.json", "none.safetensors", "x\n.safetensors"]
)
def test_index_names_files_of_its_folder_alone(tmp_path: Path, name: str) -> None:
    index = json.dumps({"weight_map": {"w": name}}).encode()
    members = {INDEX: index, "config.json": b"{}", "model.safetensors": WEIGHTS}
    assert "of model.safetensors.index.json is not there" in refused(zip_of(tmp_path / "c", members))


@pytest.mark.parametrize("index", [b"[]", b"{}", b'{"weight_map": 3}', b'{"weight_map": {"w": [1]}}', b"[" * 10**6])
def test_index_of_another_form_is_refused(tmp_path: Path, index: bytes) -> None:
    refused(zip_of(tmp_path / "c", {INDEX: index, "model.safetensors": WEIGHTS}), UnreadableCheckpoint)


def test_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    index = json.dumps({"weight_map": {"w": "a.safetensors", "v": "b.safetensors"}}).encode()
    path = zip_of(tmp_path / "c", {INDEX: index, "a.safetensors": WEIGHTS, "b.safetensors": WEIGHTS})
    assert "is in b.safetensors and another file" in refused(path)


def shard(**changes: Any) -> bytes:  # noqa: ANN401
    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], **changes}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(16)


@pytest.mark.parametrize(
    "changes",
    [
        {"data_offsets": [0, 2**40]},
        {"data_offsets": [16, 0]},
        {"data_offsets": [-16, 0]},
        {"data_offsets": [8, 24]},
        {"shape": [2**40]},
        {"shape": [-4]},
        {"shape": [2.0, 2]},
        {"shape": [True, 4]},
        {"dtype": "F8_E4M3"},
        {"dtype": "C64"},
        {"dtype": {}},
    ],
)
def test_shard_that_lies_about_its_tensors_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert reader.answer(zip_of(tmp_path / "c", {"model.safetensors": shard()}), tmp_path / "o")["entries"] == 1
    answer = reader.answer(zip_of(tmp_path / "c", {"model.safetensors": shard(**changes)}), tmp_path / "out")
    assert answer["code"] in ("checkpoint-unreadable", "checkpoint-unsafe")


def test_torch_file_in_a_folder_is_read_inertly(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    call = p.call(p.named("os", "system"), p.text(f"touch {canary}"))
    body = p.EMPTY_DICT + p.text("w") + p.tensor() + p.SETITEM + p.text("x") + call + p.SETITEM
    inner = p.zip_file(tmp_path / "inner", p.program(body)).read_bytes()
    contents = convert_checkpoint(zip_of(tmp_path / "c", {"pytorch_model.bin": inner}), tmp_path / "out")
    assert contents.entries == 1
    assert not canary.exists()


@both
def test_every_truncated_archive_is_refused(tmp_path: Path, write: Write) -> None:
    whole = write(
        tmp_path / "c", {"a/model.safetensors": WEIGHTS, "a/config.json": b'{"model_type": "vit"}'}
    ).read_bytes()
    for length in range(0, len(whole) - 1, 3):
        (tmp_path / "c").write_bytes(whole[:length])
        answer = reader.answer(tmp_path / "c", tmp_path / "out")
        if "code" not in answer:  # the end of a stream of gzip may be cut off without loss
            assert load_file(tmp_path / "out")["w"].tolist() == [0, 1, 2, 3]
