"""Archives that strangers made: what goes beyond its bounds is refused before it costs anything."""

import gzip
import io
import os
import random
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sslmem.datasets import containers, window
from sslmem.datasets.source import open_dataset
from sslmem.errors import DatasetError, UndecodableImage, UnreadableDataset, UnsafeArchive
from tests.unit.builders import encoded, noise

PNG = encoded(noise(4, 4))


def member(name: str, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = len(PNG)
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def tar_of(path: Path, *members: tarfile.TarInfo, form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as archive:
        archive.addfile(member("ok.png"), io.BytesIO(PNG))
        for info in members:
            archive.addfile(info, io.BytesIO(PNG) if info.isreg() else None)
    return path


def refusal(kind: type[DatasetError], path: Path) -> str:
    with pytest.raises(kind) as caught:
        open_dataset(path)
    return caught.value.detail


# Tar


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize(
    "name", ["a.png", "x/" * 40 + "a.png", "ä/ö.png", "./b//c.png", "d" * 90 + "/" + "e" * 90 + ".png"]
)
def test_names_of_any_length_are_read_as_tar_reads_them(tmp_path: Path, form: int, name: str) -> None:
    path = tar_of(tmp_path / "a.tar", member(name), form=form)
    with open_dataset(path) as dataset:
        assert {sample.path for sample in dataset.samples} == {"ok.png", str(Path(name))}
        assert dataset.read(str(Path(name))) == PNG


@settings(max_examples=60)
@given(
    names=st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0\\"), min_size=1, max_size=120), unique=True
    ),
    form=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_members_are_those_that_the_standard_library_finds(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], form: int
) -> None:
    path = tmp_path_factory.mktemp("tar") / "a.tar"
    path = tar_of(path, *(member(f"x{i}/{name.replace('/', '_')}.png") for i, name in enumerate(names)), form=form)
    with tarfile.open(path) as archive:
        expected = {info.name for info in archive if not any(p.startswith(".") for p in info.name.split("/"))}
    with open_dataset(path) as dataset:
        assert {sample.path for sample in dataset.samples} == expected


@pytest.mark.parametrize("name", ["../a.png", "x/../../a.png", "/etc/a.png", "x\\..\\a.png"])
def test_path_outside_a_tar_archive_is_refused(tmp_path: Path, name: str) -> None:
    assert "points outside" in refusal(UnsafeArchive, tar_of(tmp_path / "a.tar", member(name)))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (tarfile.SYMTYPE, "is a link"),
        (tarfile.LNKTYPE, "is a link"),
        (tarfile.CHRTYPE, "is a device"),
        (tarfile.BLKTYPE, "is a device"),
        (tarfile.FIFOTYPE, "is a device or pipe"),
        (tarfile.GNUTYPE_SPARSE, "is sparse"),
        (b"M", "of a kind that is not read"),
    ],
)
def test_what_is_no_plain_file_is_refused(tmp_path: Path, kind: bytes, words: str) -> None:
    info = member("a.png", type=kind, size=0, linkname="/etc/passwd")
    assert words in refusal(UnsafeArchive, tar_of(tmp_path / "a.tar", info))


def test_sparse_file_of_a_pax_archive_is_refused(tmp_path: Path) -> None:
    info = member("a.png", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.realsize": str(2**50)})
    assert "is sparse" in refusal(UnsafeArchive, tar_of(tmp_path / "a.tar", info))


@pytest.mark.parametrize("size", ["-1", "-512", str(2**63), "1e3", ""])
def test_size_of_a_pax_header_that_lies_is_refused(tmp_path: Path, size: str) -> None:
    info = member("a.png", pax_headers={"size": size})
    refusal(UnreadableDataset, tar_of(tmp_path / "a.tar", info))


@pytest.mark.parametrize(
    "size", [b"\xff" * 12, b"\x80" + b"\xff" * 11, b"\x80" + bytes(7) + b"\x7f\xff\xff\xff", b"-0000000777\0"]
)
def test_size_that_lies_is_refused(tmp_path: Path, size: bytes) -> None:
    path = tar_of(tmp_path / "a.tar", member("b.png"), form=tarfile.USTAR_FORMAT)
    data = bytearray(path.read_bytes())
    data[1024 + 124 : 1024 + 136] = size
    total = sum(data[1024:1536]) - sum(data[1172:1180]) + 8 * 32
    data[1172:1180] = b"%06o\0 " % total
    path.write_bytes(data)
    refusal(UnreadableDataset, path)


def test_extended_header_of_any_size_is_not_read(tmp_path: Path) -> None:
    info = member("a.png", pax_headers={"comment": "x" * 2**21})
    assert "an extended header has" in refusal(UnsafeArchive, tar_of(tmp_path / "a.tar", info))


def test_chain_of_extended_headers_ends(tmp_path: Path) -> None:
    """A reader that calls itself for each would run out of stack."""
    header = member("PaxHeader", type=tarfile.XHDTYPE, size=0).tobuf()
    (tmp_path / "a.tar").write_bytes(header * 20_000 + member("a.png").tobuf() + PNG.ljust(512, b"\0") + bytes(1024))
    with open_dataset(tmp_path / "a.tar") as dataset:
        assert [sample.path for sample in dataset.samples] == ["a.png"]


def test_member_that_occurs_twice_in_a_tar_archive_is_refused(tmp_path: Path) -> None:
    assert "occurs twice" in refusal(UnsafeArchive, tar_of(tmp_path / "a.tar", member("./ok.png")))


@pytest.mark.parametrize("kept", [0.4, 0.55])
def test_tar_archive_that_was_cut_off_is_refused(tmp_path: Path, kept: float) -> None:
    path = tar_of(tmp_path / "a.tar", *(member(f"{i}.png") for i in range(30)))
    with tarfile.open(path) as archive:
        end = max(info.offset_data for info in archive)
    path.write_bytes(path.read_bytes()[: int(end * kept)])
    refusal(UnreadableDataset, path)


@settings(max_examples=150)
@given(seed=st.integers(0, 2**32))
def test_tar_archive_with_flipped_bits_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    generator = random.Random(seed)
    path = tar_of(tmp_path_factory.mktemp("tar") / "a.tar", member("ä/" * 60 + "b.png"))
    content = bytearray(path.read_bytes())
    for _ in range(generator.choice([1, 3, 10])):
        content[generator.randrange(4096)] ^= 1 << generator.randrange(8)
    path.write_bytes(content)
    try:
        with open_dataset(path) as dataset:
            for sample in dataset.samples:
                dataset.read(sample.path)
    except DatasetError:
        pass


# Bombs


def test_overlapping_members_are_refused(tmp_path: Path) -> None:
    """Many entries of the directory that all name the same bytes: a few kilobytes would unfold to any size."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", os.urandom(5000))
    data = path.read_bytes()
    start = data.index(b"PK\x01\x02")
    entry = data[start : start + 46 + 5]
    entries = b"".join(entry[:28] + struct.pack("<H", 9) + entry[30:46] + b"%05d.png" % i for i in range(20))
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 20, 20, len(entries), start, 0)
    path.write_bytes(data[:start] + entries + end)
    assert "overlap" in refusal(UnsafeArchive, path)


def test_archive_that_unfolds_too_far_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "FREE_BYTES", 2**20)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(3):
            archive.writestr(f"{i}.png", bytes(2**20))
    assert "unfold to more than 200 times" in refusal(UnsafeArchive, tmp_path / "a.zip")


@pytest.mark.parametrize("make", [gzip.compress, lambda data: gzip.compress(data[:100]) * 3])
def test_packed_file_that_unpacks_too_far_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setattr(window, "FREE_BYTES", 200)
    monkeypatch.setattr(window, "MAX_RATIO", 1)
    (tmp_path / "a").write_bytes(make(bytes(2**22)))
    assert "unpacks to more than" in refusal(UnsafeArchive, tmp_path / "a")


def test_archive_of_too_many_members_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "MAX_MEMBERS", 3)
    assert "at most 3" in refusal(UnsafeArchive, tar_of(tmp_path / "a.tar", *(member(f"{i}.png") for i in range(3))))


def test_archives_within_archives_are_not_opened(tmp_path: Path) -> None:
    inner = tar_of(tmp_path / "inner.tar").read_bytes()
    for depth in range(2):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr(f"{depth}.bin", inner)
        inner = buffer.getvalue()
    (tmp_path / "a.zip").write_bytes(inner)
    assert "holds no images" in refusal(DatasetError, tmp_path / "a.zip")


# Zip archives of 64 bits


def test_zip_archive_with_sizes_of_64_bits_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, archive.open("a.png", "w", force_zip64=True) as file:
        file.write(PNG)
    with open_dataset(tmp_path / "a.zip") as dataset:
        assert dataset.read("a.png") == PNG


@settings(max_examples=40)
@given(
    names=st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0\\/:"), min_size=1, max_size=60), unique=True
    )
)
def test_members_of_a_zip_archive_are_those_that_the_standard_library_finds(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    path = tmp_path_factory.mktemp("zip") / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ok.png", PNG)
        for i, name in enumerate(names):
            archive.writestr(f"x{i}/_{name}.png", PNG)
    with zipfile.ZipFile(path) as archive, open_dataset(path) as dataset:
        assert [sample.path for sample in dataset.samples] == sorted(archive.namelist())


# Many members


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_memory_does_not_grow_with_the_members(tmp_path: Path, kind: str) -> None:
    path, count = tmp_path / "a", 20_000
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for i in range(count):
                archive.writestr(f"class{i % 10}/{i:06}.png", b"x")
    else:
        with tarfile.open(path, "w") as tar:
            for i in range(count):
                tar.addfile(member(f"class{i % 10}/{i:06}.png", size=1), io.BytesIO(b"x"))
    tracemalloc.start()
    with open_dataset(path) as dataset:
        assert len(dataset.samples) == count
        assert sum(len(dataset.read(sample.path)) for sample in dataset.samples) == count
        assert dataset.samples[-1].label == "class9"
        assert dataset.below("class3") == range(6000, 8000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * 2**20


def test_samples_are_read_from_several_threads(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(200):
            archive.writestr(f"{i:03}.png", b"%d" % i * 100)
    with open_dataset(tmp_path / "a.zip") as dataset, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(dataset.read, [f"{i:03}.png" for i in range(200)] * 5))
    assert found == [b"%d" % i * 100 for i in range(200)] * 5


def test_dataset_without_the_sample_says_so(tmp_path: Path) -> None:
    with (
        open_dataset(tar_of(tmp_path / "a.tar")) as dataset,
        pytest.raises(UndecodableImage, match=r"no sample x\.png"),
    ):
        dataset.read("x.png")
