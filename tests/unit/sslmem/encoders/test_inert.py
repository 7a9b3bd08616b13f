"""The inert reader, in this process: files that lie or are damaged, and what the refusals say."""

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sslmem.encoders import reader
from tests.unit.sslmem.encoders import pickles as p

UNREADABLE, UNSAFE = "checkpoint-unreadable", "checkpoint-unsafe"


def answer(source: Path) -> dict[str, Any]:
    return reader.answer(source, source.with_name("out"))


def refusal(source: Path, code: str = UNREADABLE) -> str:
    found = answer(source)
    assert found.get("code") == code, found
    detail = found["detail"]
    assert isinstance(detail, str)
    assert detail.isprintable()
    return detail


# Names


@pytest.mark.parametrize("name", ["a\nb", "a\x00b", "a\u2028b", "x" * 501])
@pytest.mark.parametrize("container", ["torch", "safetensors"])
def test_name_that_does_not_print_is_refused(tmp_path: Path, name: str, container: str) -> None:
    entries = {name: torch.ones(1)}
    if container == "torch":
        torch.save(entries, tmp_path / "c")
    else:
        save_file(entries, tmp_path / "c")
    assert "is too long or does not print" in refusal(tmp_path / "c")


def test_name_that_is_no_unicode_is_refused(tmp_path: Path) -> None:
    body = p.EMPTY_DICT + p.text(b"w\xed\xa0\x80") + p.tensor() + p.SETITEM
    assert "does not print" in refusal(p.zip_file(tmp_path / "c", p.program(body)))


# Damaged safetensors files


def safetensors_file(path: Path, header: object, data: bytes = b"", *, length: int | None = None) -> Path:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded) if length is None else length) + encoded + data)
    return path


GOOD = {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def test_smallest_safetensors_file_is_read(tmp_path: Path) -> None:
    path = safetensors_file(tmp_path / "c", GOOD, bytes(8))
    assert answer(path)["entries"] == 1
    assert load_file(path)["w"].tolist() == [0, 0]


@pytest.mark.parametrize("size", [0, 4, 7, 9, 16])
def test_safetensors_file_of_another_length_than_its_header_says_is_refused(tmp_path: Path, size: int) -> None:
    assert "truncated or has bytes at its end" in refusal(safetensors_file(tmp_path / "c", GOOD, bytes(size)))


@pytest.mark.parametrize("length", [100, 2**20, 2**40, 2**63, 2**64 - 1])
def test_safetensors_header_longer_than_the_file_is_refused(tmp_path: Path, length: int) -> None:
    path = safetensors_file(tmp_path / "c", GOOD, bytes(8), length=length)
    message = refusal(path)
    assert "header is longer than the file" in message or "it begins with" in message


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b"{]",
        b'{"w": ' + b"[" * 100_000,
        b'{"\xff": 1}',
        {"w": 1},
        {"w": None},
        {"w": {"dtype": "F32"}},
        {"w": {"dtype": "F32", "shape": [2], "data_offsets": []}},
        {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, "8"]}},
    ],
)
def test_safetensors_header_that_is_none_is_refused(tmp_path: Path, header: object) -> None:
    message = refusal(safetensors_file(tmp_path / "c", header, bytes(8)))
    assert "the file is damaged" in message or "the safetensors file is truncated" in message


# Lying torch files


@pytest.mark.parametrize("claimed", [3, 5, 0, 2**40])
def test_storage_of_another_size_than_the_program_says_is_refused(tmp_path: Path, claimed: int) -> None:
    of = p.storage(count=claimed)
    body = p.dict_of({"w": p.tensor((1,), of=of) if claimed else p.tensor((1,), of=p.storage(count=6))})
    for write in (p.zip_file, p.legacy_file):
        assert "is not as large as the file says" in refusal(write(tmp_path / "c", p.program(body)), UNSAFE)


def test_storage_whose_archive_entry_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    """The directory says 4000 bytes, of which the file holds 4."""
    body = p.dict_of({"w": p.tensor((1000,), of=p.storage(count=1000))})
    path = p.zip_file(tmp_path / "c", p.program(body), {"0": b"\x00\x00\x80?"})
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02", 0, content.rindex(b"archive/data/0"))
    content[entry + 24 : entry + 28] = struct.pack("<I", 4000)  # the uncompressed size in the directory
    path.write_bytes(content)
    assert "is not as large as the file says" in refusal(path, UNSAFE)


def test_storage_named_twice_with_two_sizes_is_refused(tmp_path: Path) -> None:
    body = p.dict_of({"a": p.tensor(), "b": p.tensor((1,), of=p.storage(count=1))})
    assert "storage 0 has two kinds or sizes" in refusal(p.zip_file(tmp_path / "c", p.program(body)), UNSAFE)


@pytest.mark.parametrize("key", ["1", "../secret", "/etc/passwd", ""])
def test_storage_that_the_file_lacks_is_refused(tmp_path: Path, key: str) -> None:
    body = p.dict_of({"w": p.tensor(of=p.storage(key=key))})
    assert "There is no item named" in refusal(p.zip_file(tmp_path / "c", p.program(body)))
    assert "storage '0' is of no known tensor" in refusal(p.legacy_file(tmp_path / "c", p.program(body)))


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((5,), (1,), 0),
        ((4,), (1,), 1),
        ((1,), (1,), 4),
        ((2, 2), (3, 1), 0),
        ((2**40,), (1,), 0),
        ((2,), (2**62,), 0),
        ((2**62, 2**62), (2**62, 1), 0),
    ],
)
def test_tensor_beyond_its_storage_is_refused(
    tmp_path: Path, shape: tuple[int, ...], strides: tuple[int, ...], offset: int
) -> None:
    body = p.dict_of({"w": p.tensor(shape, strides, offset)})
    path = p.zip_file(tmp_path / "c", p.program(body))
    assert "a tensor reaches beyond its storage" in refusal(path, UNSAFE)


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [((-1,), (1,), 0), ((4,), (-1,), 3), ((4,), (1,), -1), ((2, 2), (1,), 0), ((1,) * 100, (1,) * 100, 0)],
)
def test_tensor_of_impossible_shape_is_refused(
    tmp_path: Path, shape: tuple[int, ...], strides: tuple[int, ...], offset: int
) -> None:
    body = p.dict_of({"w": p.tensor(shape, strides, offset)})
    refusal(p.zip_file(tmp_path / "c", p.program(body)))


@pytest.mark.parametrize("shape", [(2**20, 2**20), (2**62,), (10**6, 10**6, 10**6)])
def test_tensor_that_unfolds_to_far_more_than_the_file_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    body = p.dict_of({"w": p.tensor(shape, (0,) * len(shape))})
    path = p.zip_file(tmp_path / "c", p.program(body))
    assert "far more than the file has" in refusal(path, UNSAFE)


@pytest.mark.parametrize("shape", [(0, 2**62), (0, 2**70)])
def test_empty_tensor_of_a_huge_shape_costs_nothing(tmp_path: Path, shape: tuple[int, ...]) -> None:
    body = p.dict_of({"w": p.tensor(shape, (0, 0)), "v": p.tensor()})
    assert answer(p.zip_file(tmp_path / "c", p.program(body)))["entries"] == 2
    assert (tmp_path / "out").stat().st_size < 1000


def test_storage_that_is_a_view_of_another_is_refused(tmp_path: Path) -> None:
    view = p.tuple_of(p.text("v"), p.number(2), p.number(2))
    of = p.tuple_of(p.text("storage"), p.named("torch", "FloatStorage"), p.text("0"), p.text("cpu"), p.number(4), view)
    body = p.dict_of({"w": p.tensor((2,), of=of + b"Q")})
    assert "a view of another one" in refusal(p.legacy_file(tmp_path / "c", p.program(body)))


@pytest.mark.parametrize("cut", [1, 15, 16, 24, 30])
def test_legacy_file_that_ends_in_its_storages_is_refused(tmp_path: Path, cut: int) -> None:
    path = p.legacy_file(tmp_path / "c", p.program(p.dict_of({"w": p.tensor()})))
    path.write_bytes(path.read_bytes()[:-cut])
    refusal(path)


def test_legacy_file_with_a_storage_of_no_tensor_is_refused(tmp_path: Path) -> None:
    body = p.dict_of({"w": p.tensor()})
    path = p.legacy_file(tmp_path / "c", p.program(body), {"0": bytes(16), "9": bytes(4)})
    assert "storage '9' is of no known tensor" in refusal(path)


# Archives that torch.save does not write


def test_archive_with_two_programs_is_refused(tmp_path: Path) -> None:
    good = p.program(p.dict_of({"w": p.tensor()}))
    path = p.zip_file(tmp_path / "c", good, others={"other/data.pkl": good})
    assert "a zip archive with 2 entries data.pkl" in refusal(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archive_with_one_program_twice_is_refused(tmp_path: Path) -> None:
    good = p.program(p.dict_of({"w": p.tensor()}))
    path = p.zip_file(tmp_path / "c", good)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/data.pkl", good)
    assert "a zip archive with 2 entries data.pkl" in refusal(path)


@pytest.mark.parametrize(("order", "read"), [(b"little", True), (b"little\n", True), (b"big", False), (b"", False)])
def test_big_endian_tensors_are_refused(tmp_path: Path, order: bytes, *, read: bool) -> None:
    good = p.program(p.dict_of({"w": p.tensor()}))
    path = p.zip_file(tmp_path / "c", good, others={"archive/byteorder": order})
    if read:
        assert answer(path)["entries"] == 1
    else:
        assert "big-endian byte order" in refusal(path)


def test_compressed_archive_is_refused_before_anything_unfolds(tmp_path: Path) -> None:
    bomb = p.program(p.EMPTY_DICT + b"N0" * 50_000_000)
    path = p.zip_file(tmp_path / "c", bomb, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 500_000
    assert "a compressed zip archive" in refusal(path, UNSAFE)
