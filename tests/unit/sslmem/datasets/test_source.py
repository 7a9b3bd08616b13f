"""Datasets where they lie: folders and zip archives, and what of them is refused."""

import os
import random
import stat
import tracemalloc
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sslmem.datasets.source import MAX_IMAGE_BYTES, SampleEntry, open_dataset
from sslmem.errors import DatasetError, EmptyDataset, UndecodableImage, UnreadableDataset, UnsafeArchive
from tests.unit.builders import encoded, noise

PNG = encoded(noise(4, 4))
JPEG = encoded(noise(4, 4), "JPEG")


def folder_of(path: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def zip_of(path: Path, files: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def made(kind: str, folder: Path, files: Mapping[str, bytes]) -> Path:
    return folder_of(folder / "data", files) if kind == "folder" else zip_of(folder / "data.zip", files)


def paths(path: Path) -> list[str]:
    with open_dataset(path) as dataset:
        return [sample.path for sample in dataset.samples]


def refusal(kind: type[DatasetError], path: Path) -> str:
    with pytest.raises(kind) as caught:
        open_dataset(path)
    assert caught.value.detail.encode()
    return caught.value.detail


both = pytest.mark.parametrize("kind", ["folder", "zip"])


# What a dataset holds


@both
def test_samples_come_in_the_order_of_their_paths(tmp_path: Path, kind: str) -> None:
    files = {"b.png": PNG, "a/z.jpg": JPEG, "a/b/c.JPEG": JPEG, "ä.webp": PNG, "B.png": PNG}
    with open_dataset(made(kind, tmp_path, files)) as dataset:
        assert list(dataset.samples) == [
            SampleEntry(name, {"a/z.jpg": "a", "a/b/c.JPEG": "b"}.get(name)) for name in sorted(files)
        ]
        for name, data in files.items():
            assert dataset.read(name) == data


@both
def test_other_files_and_hidden_ones_are_no_samples(tmp_path: Path, kind: str) -> None:
    hidden = [".a.png", ".git/a.png", "x/.cache/a.png", "__MACOSX/a.png", "x/__MACOSX/._a.png"]
    others = ["labels.csv", "a.txt", "a.png.txt", "png", "a.npy", "README"]
    assert paths(made(kind, tmp_path, dict.fromkeys([*hidden, *others, "x/a.png"], PNG))) == ["x/a.png"]


@both
def test_dataset_without_images_is_refused(tmp_path: Path, kind: str) -> None:
    message = refusal(EmptyDataset, made(kind, tmp_path, {"labels.csv": b"x", ".a.png": PNG}))
    assert "holds no images; expected files ending in .bmp, .gif, .jpeg, .jpg" in message


def test_archive_without_members_is_refused(tmp_path: Path) -> None:
    refusal(EmptyDataset, zip_of(tmp_path / "data.zip", {}))


def test_folder_without_files_is_refused(tmp_path: Path) -> None:
    refusal(EmptyDataset, tmp_path)


@both
def test_sample_that_is_not_there_cannot_be_read(tmp_path: Path, kind: str) -> None:
    with (
        open_dataset(made(kind, tmp_path, {"a.png": PNG})) as dataset,
        pytest.raises(UndecodableImage, match=r"b\.png"),
    ):
        dataset.read("b.png")


def test_path_where_nothing_is_is_refused(tmp_path: Path) -> None:
    assert "there is nothing at" in refusal(UnreadableDataset, tmp_path / "none")


@pytest.mark.parametrize("content", [b"", b"hello", PNG, b"PK\x03\x04" + bytes(50)])
def test_file_that_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.zip").write_bytes(content)
    assert "data.zip is" in refusal(UnreadableDataset, tmp_path / "data.zip")


# Folders


def test_link_to_a_file_is_a_sample(tmp_path: Path) -> None:
    folder_of(tmp_path, {"elsewhere/a.bin": PNG, "data/b.png": PNG})
    (tmp_path / "data/a.png").symlink_to(tmp_path / "elsewhere/a.bin")
    assert paths(tmp_path / "data") == ["a.png", "b.png"]


def test_link_to_a_folder_is_not_followed(tmp_path: Path) -> None:
    folder_of(tmp_path / "data", {"b.png": PNG})
    (tmp_path / "data/loop").symlink_to(tmp_path / "data")
    assert paths(tmp_path / "data") == ["b.png"]


def test_dangling_link_is_a_sample_that_cannot_be_read(tmp_path: Path) -> None:
    folder_of(tmp_path, {"b.png": PNG})
    (tmp_path / "a.png").symlink_to(tmp_path / "nowhere")
    with open_dataset(tmp_path) as dataset:
        assert dataset.samples[0] == SampleEntry("a.png")
        with pytest.raises(UndecodableImage, match=r"a\.png cannot be read: No such file"):
            dataset.read("a.png")


def test_pipe_is_no_sample(tmp_path: Path) -> None:
    """Opening it would wait forever."""
    folder_of(tmp_path, {"b.png": PNG, "c.png/d.png": PNG})
    os.mkfifo(tmp_path / "a.png")
    assert paths(tmp_path) == ["b.png", "c.png/d.png"]


def test_file_whose_name_is_not_utf8_is_refused_by_name(tmp_path: Path) -> None:
    folder_of(tmp_path, {"b.png": PNG})
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")).write_bytes(PNG)
    assert r"caf\udce9.png" in refusal(UnreadableDataset, tmp_path)


def test_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(MAX_IMAGE_BYTES + 1)
    with open_dataset(tmp_path) as dataset, pytest.raises(UndecodableImage, match="is too large"):
        dataset.read("a.png")


# Archives


@pytest.mark.parametrize(
    "name", ["../a.png", "x/../../a.png", "/a.png", "/etc/a.png", "..\\a.png", "x\\a.png", "../../../x"]
)
def test_member_outside_the_archive_is_refused(tmp_path: Path, name: str) -> None:
    message = refusal(UnsafeArchive, zip_of(tmp_path / "data.zip", {"ok.png": PNG, name: PNG}))
    assert "points outside the archive" in message


def test_link_in_an_archive_is_refused(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "data.zip", {"ok.png": PNG})
    link = zipfile.ZipInfo("a.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    assert "'a.png' is a link" in refusal(UnsafeArchive, path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["a.png", "./a.png"])
def test_member_that_occurs_twice_is_refused(tmp_path: Path, name: str) -> None:
    path = zip_of(tmp_path / "data.zip", {"a.png": PNG})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, PNG)
    assert "occurs twice" in refusal(UnsafeArchive, path)


def directory_entry(content: bytes | bytearray) -> int:
    """Where the archive's directory describes its last member."""
    return content.rindex(b"PK\x01\x02")


def patched(path: Path, place: int, value: bytes) -> Path:
    """Changes what the directory says of the last member."""
    content = bytearray(path.read_bytes())
    start = directory_entry(content) + place
    content[start : start + len(value)] = value
    path.write_bytes(content)
    return path


def test_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = patched(zip_of(tmp_path / "data.zip", {"a.png": PNG}), 8, b"\x01\x00")
    assert "'a.png' is encrypted" in refusal(UnsafeArchive, path)


def test_member_that_is_too_large_is_refused(tmp_path: Path) -> None:
    size = (MAX_IMAGE_BYTES + 1).to_bytes(4, "little")
    path = patched(zip_of(tmp_path / "data.zip", {"a.png": PNG}), 24, size)
    assert f"has {MAX_IMAGE_BYTES + 1} bytes; at most {MAX_IMAGE_BYTES} are read" in refusal(UnsafeArchive, path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_member_packed_in_an_unusual_way_is_refused(tmp_path: Path, compression: int) -> None:
    """These unpack a few bytes to gigabytes before they can be stopped."""
    path = zip_of(tmp_path / "data.zip", {"a.png": PNG}, compression)
    assert "expected stored or deflated" in refusal(UnsafeArchive, path)


def test_other_members_may_be_as_they_like(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("a.png", PNG)
        archive.writestr("big.bin", bytes(1000), zipfile.ZIP_BZIP2)
        archive.mkdir("folder.png")
    assert paths(tmp_path / "data.zip") == ["a.png"]


def test_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "data.zip", {"café.png": PNG})
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xe9x"))
    assert "a name in the zip archive data.zip is not UTF-8" in refusal(UnreadableDataset, path)


def test_names_that_are_written_oddly_are_the_usual_paths(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "data.zip", {"./x/a.png": PNG, "y//b.png": JPEG})
    assert paths(path) == ["x/a.png", "y/b.png"]
    with open_dataset(path) as dataset:
        assert [dataset.read(sample.path) for sample in dataset.samples] == [PNG, JPEG]


def test_deflated_member_is_read(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "data.zip", {"a.png": PNG}, zipfile.ZIP_DEFLATED)
    with open_dataset(path) as dataset:
        assert dataset.read("a.png") == PNG


def test_damaged_member_cannot_be_read_and_leaves_the_others(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "data.zip", {"a.png": PNG, "b.png": JPEG})
    content = bytearray(path.read_bytes())
    content[content.index(PNG) + 20] ^= 0xFF
    path.write_bytes(content)
    with open_dataset(path) as dataset:
        with pytest.raises(UndecodableImage, match=r"the member a\.png is damaged: Bad CRC-32"):
            dataset.read("a.png")
        assert dataset.read("b.png") == JPEG


@pytest.mark.parametrize("declared", [10, 2**20])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_member_of_another_size_than_declared_cannot_be_read(tmp_path: Path, declared: int, compression: int) -> None:
    path = zip_of(tmp_path / "data.zip", {"a.png": PNG}, compression)
    patched(path, 24, declared.to_bytes(4, "little"))
    with open_dataset(path) as dataset, pytest.raises(UndecodableImage, match=r"the member a\.png is damaged"):
        dataset.read("a.png")


def test_bomb_unfolds_no_further_than_its_declared_size(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "data.zip", {"a.png": bytes(2**28)}, zipfile.ZIP_DEFLATED)
    patched(path, 24, (1000).to_bytes(4, "little"))
    tracemalloc.start()
    with open_dataset(path) as dataset, pytest.raises(UndecodableImage, match=r"the member a\.png is damaged"):
        dataset.read("a.png")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 2**20


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.99])
def test_truncated_archive_is_refused(tmp_path: Path, kept: float) -> None:
    path = zip_of(tmp_path / "data.zip", {f"{i}.png": PNG for i in range(20)})
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    refusal(UnreadableDataset, path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damage")


@settings(max_examples=100)
@given(seed=st.integers(0, 2**32), compression=st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
def test_archive_with_flipped_bits_is_read_or_refused(folder: Path, seed: int, compression: int) -> None:
    generator = random.Random(seed)
    path = zip_of(folder / "data.zip", {"a.png": PNG[:60], "x/b.jpg": b"x" * 60}, compression)
    content = bytearray(path.read_bytes())
    for _ in range(generator.choice([1, 1, 3, 10])):
        content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    path.write_bytes(content)
    try:
        with open_dataset(path) as dataset:
            for sample in dataset.samples:
                dataset.read(sample.path)
    except DatasetError:
        pass
