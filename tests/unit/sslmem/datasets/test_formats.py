"""Arrays, CIFAR batches, IDX, Parquet and WebDataset: names, labels and pixels, whatever the container."""

import bz2
import contextlib
import gzip
import io
import json
import lzma
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from sslmem.datasets.image import decode_image, sample_key
from sslmem.datasets.source import open_dataset
from sslmem.errors import AmbiguousDataset, DatasetError, UndecodableImage, UnreadableDataset
from tests.unit.builders import encoded, noise

GREY = np.random.default_rng(0).integers(0, 256, (7, 6, 5), dtype=np.uint8)  # [N, H, W]
COLOUR = np.random.default_rng(1).integers(0, 256, (7, 6, 5, 3), dtype=np.uint8)
CIFAR = np.random.default_rng(2).integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)
LABELS = [3, 1, 2, 3, 1, 2, 9]


Pack = Callable[[bytes], bytes]
PACK: dict[str, Pack] = {"": bytes, "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


def npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def idx(array: NDArray[np.uint8]) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def tar(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def put(path: Path, files: Mapping[str, bytes], kind: str = "folder") -> Path:
    """The files in a folder, or in an archive of the kind."""
    if kind == "folder":
        for name, data in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
        return path
    path = path / "data"
    if kind.startswith("zip"):
        method = zipfile.ZIP_DEFLATED if kind == "zip deflated" else zipfile.ZIP_STORED
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    else:
        path.write_bytes(PACK[kind.partition(":")[2]](tar(files)))
    return path


containers = pytest.mark.parametrize("kind", ["folder", "zip", "zip deflated", "tar", "tar:gz", "tar:bz2", "tar:xz"])


def contents(path: Path) -> dict[str, tuple[str | None, NDArray[np.uint8]]]:
    with open_dataset(path) as dataset:
        listed = list(dataset.samples)
        assert [dataset.samples[i] for i in range(len(listed))] == listed
        assert [dataset.position(sample.path) for sample in listed] == list(range(len(listed)))
        return {sample.path: (sample.label, decode_image(dataset.read(sample.path))) for sample in listed}


def format_of(path: Path) -> str:
    with open_dataset(path) as dataset:
        return dataset.format


def refusal(kind: type[DatasetError], path: Path) -> str:
    with pytest.raises(kind) as caught:
        open_dataset(path)
    return caught.value.detail


def agree(
    found: Mapping[str, tuple[str | None, NDArray[np.uint8]]], names: list[str], pixels: NDArray[np.uint8]
) -> None:
    assert list(found) == names
    for name, expected in zip(names, pixels, strict=True):
        assert np.array_equal(found[name][1], expected)


def rgb(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(grey[..., None], 3, axis=-1)


def numbers(count: int, split: str = "") -> list[str]:
    return [f"{split}/{i:05}" if split else f"{i:05}" for i in range(count)]


# Containers


@containers
def test_images_have_the_same_names_and_labels_in_every_container(tmp_path: Path, kind: str) -> None:
    files = {"cat/1.png": encoded(COLOUR[0]), "dog/2.png": encoded(COLOUR[1]), "README": b"x"}
    found = contents(put(tmp_path, files, kind))
    agree(found, ["cat/1.png", "dog/2.png"], COLOUR[:2])
    assert [label for label, _ in found.values()] == ["cat", "dog"]


@pytest.mark.parametrize("folder", ["train", "images", "candidate", "external"])
def test_folder_that_is_no_class_is_no_label(tmp_path: Path, folder: str) -> None:
    found = contents(put(tmp_path, {f"{folder}/{i}.png": encoded(COLOUR[i]) for i in range(2)}))
    assert [label for label, _ in found.values()] == [None, None]


@containers
def test_arrays_within_a_container(tmp_path: Path, kind: str) -> None:
    path = put(tmp_path, {"images.npy": npy(COLOUR), "labels.npy": npy(np.array(LABELS))}, kind)
    found = contents(path)
    agree(found, numbers(7), COLOUR)
    assert [label for label, _ in found.values()] == list(map(str, LABELS))
    assert format_of(path) == "NumPy arrays"


# NumPy


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_with_splits_and_labels(tmp_path: Path, save: Callable[..., None]) -> None:
    labels = np.array(LABELS)
    save(tmp_path / "data.npz", x_train=COLOUR, y_train=labels, x_test=COLOUR[:2], y_test=labels[:2, None])
    found = contents(tmp_path / "data.npz")
    agree(found, [*numbers(2, "test"), *numbers(7, "train")], np.concatenate([COLOUR[:2], COLOUR]))
    assert found["train/00006"][0] == "9"
    assert found["test/00001"][0] == "1"


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (GREY, rgb(GREY)),
        (GREY[..., None], rgb(GREY)),
        (GREY[:, None], rgb(GREY)),
        (COLOUR.transpose(0, 3, 1, 2).copy(), COLOUR),
        (GREY.astype(np.uint16) * 257, rgb(GREY)),
        ((GREY.astype(np.uint16) * 257).astype(">u2"), rgb(GREY)),
        (np.concatenate([COLOUR, np.full((7, 6, 5, 1), 255, np.uint8)], axis=3), COLOUR),
        (np.concatenate([COLOUR, np.zeros((7, 6, 5, 1), np.uint8)], axis=3), np.full_like(COLOUR, 255)),
    ],
    ids=["grey", "grey last", "grey first", "planar", "16 bits", "16 bits, big end", "opaque", "transparent"],
)
def test_array_is_shown_as_a_person_would_see_it(
    tmp_path: Path, array: NDArray[Any], expected: NDArray[np.uint8]
) -> None:
    (tmp_path / "a.npy").write_bytes(npy(array))
    agree(contents(tmp_path / "a.npy"), numbers(7), expected)


def test_same_pixels_are_the_same_sample_in_every_array_format(tmp_path: Path) -> None:
    """And the same as the PPM file of them: the digest of `P6`, size, 255 and the colours."""
    files = {
        "a": npy(GREY),
        "b": npy(rgb(GREY)),
        "c": idx(GREY),
        "d": npy(rgb(GREY).transpose(0, 3, 1, 2).copy()),
    }
    put(tmp_path, files)
    ppm = sample_key(b"P6\n5 6\n255\n" + rgb(GREY)[3].tobytes())
    for name in files:
        with open_dataset(tmp_path / name) as dataset:
            assert sample_key(dataset.read("00003")) == ppm


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((7, 6, 5), np.float32),
        np.zeros((5, 30), np.uint8),
        np.zeros((6, 5, 3), np.uint8),
        np.zeros((2, 3, 9, 2)),
    ],
    ids=["float", "flat", "one image or six", "two channels"],
)
def test_array_that_could_be_anything_is_refused(tmp_path: Path, array: NDArray[Any]) -> None:
    (tmp_path / "a.npy").write_bytes(npy(array))
    refusal(UnreadableDataset, tmp_path / "a.npy")


def test_objects_in_arrays_are_not_unpickled(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "a.npy").write_bytes(buffer.getvalue())
    assert "pickled objects" in refusal(UnreadableDataset, tmp_path / "a.npy")


@pytest.mark.parametrize("shape", ["(10000000000, 64, 64, 3)", "(-7, 6, 5, 3)", "(True, 64, 64)", "__import__('os')"])
def test_header_that_lies_about_its_shape_is_refused(tmp_path: Path, shape: str) -> None:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}".ljust(117).encode() + b"\n"
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(630))
    refusal(UnreadableDataset, tmp_path / "a.npy")


def test_labels_of_another_number_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=COLOUR, labels=np.arange(6))
    assert "7 images, and the array labels.npy 6 labels" in refusal(UnreadableDataset, tmp_path / "a.npz")


# IDX


@pytest.mark.parametrize("packed", [False, True])
def test_mnist_as_it_is_published(tmp_path: Path, packed: bool) -> None:
    files = {
        "train-images-idx3-ubyte": idx(GREY),
        "train-labels-idx1-ubyte": idx(np.array(LABELS, dtype=np.uint8)),
        "t10k-images-idx3-ubyte": idx(GREY[:2]),
        "t10k-labels-idx1-ubyte": idx(np.array(LABELS[:2], dtype=np.uint8)),
    }
    if packed:
        files = {f"{name}.gz": gzip.compress(data) for name, data in files.items()}
    found = contents(put(tmp_path, files))
    agree(found, [*numbers(2, "test"), *numbers(7, "train")], rgb(np.concatenate([GREY[:2], GREY])))
    assert [found[name][0] for name in numbers(7, "train")] == list(map(str, LABELS))


# CIFAR


def python2_batch(data: NDArray[np.uint8], labels: list[int], key: str = "labels") -> bytes:
    """As Python 2 pickled the batches: protocol 2, byte strings, an array through _reconstruct."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    rows = data.reshape(len(data), -1)
    raw = rows.tobytes()
    dtype = (
        b"cnumpy\ndtype\n"
        + text(b"u1")
        + b"K\x00K\x01\x87R(K\x03"
        + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
        b"(K\x01M"
        + struct.pack("<H", len(rows))
        + b"M\x00\x0c\x86"
        + dtype
        + b"\x89T"
        + struct.pack("<I", len(raw))
        + raw
        + b"tb"
    )
    numbered = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    items = text(b"data") + array + text(key.encode()) + numbered + text(b"batch_label") + text(b"batch 1")
    return b"\x80\x02}(" + items + b"u."


def test_batch_of_the_tests_is_what_pickle_reads() -> None:
    found = pickle.loads(python2_batch(CIFAR, [0] * 12), encoding="bytes")
    assert np.array_equal(found[b"data"], CIFAR.reshape(12, -1))


@containers
@pytest.mark.parametrize("python", [2, 3])
def test_cifar_10_as_it_is_published(tmp_path: Path, kind: str, python: int) -> None:
    def batch(data: NDArray[np.uint8], labels: list[int]) -> bytes:
        if python == 2:
            return python2_batch(data, labels)
        return pickle.dumps({"data": data.reshape(len(data), -1), "labels": labels}, protocol=4)

    pixels = np.tile(CIFAR, (3, 1, 1, 1))
    labels = [i % 2 for i in range(36)]
    files = {
        "cifar-10-batches-py/data_batch_1": batch(pixels[:24], labels[:24]),
        "cifar-10-batches-py/data_batch_2": batch(pixels[24:], labels[24:]),
        "cifar-10-batches-py/test_batch": batch(pixels[24:], labels[24:]),
        "cifar-10-batches-py/batches.meta": pickle.dumps({"label_names": ["plane", "car"]}, protocol=2),
    }
    path = put(tmp_path, files, kind)
    found = contents(path)
    upright = pixels.transpose(0, 2, 3, 1)
    agree(found, [*numbers(12, "test"), *numbers(36, "train")], np.concatenate([upright[24:], upright]))
    assert [found[f"train/{i:05}"][0] for i in range(3)] == ["plane", "car", "plane"]
    assert format_of(path) == "pickled CIFAR batches"


@pytest.mark.parametrize("before", [[7], [3, 99]], ids=["CIFAR-10", "CIFAR-100"])
def test_binary_batches(tmp_path: Path, before: list[int]) -> None:
    data = b"".join(bytes(before) + image.tobytes() for image in CIFAR)
    files = {"data_batch_1.bin": data, "data_batch_2.bin": data, "test_batch.bin": data, "readme.html": b"<html>" * 100}
    found = contents(put(tmp_path, files))
    assert len(found) == 36
    assert np.array_equal(found["train/00013"][1], CIFAR[1].transpose(1, 2, 0))
    assert found["test/00000"][0] == str(before[-1])


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (Path("evil"), "x"))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickle_that_would_run_something_is_refused(
    tmp_path: Path, protocol: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_bytes(pickle.dumps({"data": Evil(), "labels": []}, protocol=protocol))
    assert "more than plain data" in refusal(UnreadableDataset, tmp_path / "a")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    "program",
    [
        b"}r\xff\xff\xff\x7f.",  # a memo of 2 GiB
        b"}X\xff\xff\xff\xff.",  # a text of 4 GiB
        b"}\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # bytes of 8 EiB
        b"}" + b"(" * 100_000 + b".",  # no item for any mark
        b"}" + b"h\x00" * 10 + b".",
        b"}u.",
        b"}",
    ],
)
def test_hostile_pickle_is_refused(tmp_path: Path, program: bytes) -> None:
    (tmp_path / "a").write_bytes(b"\x80\x02" + program + bytes(600))
    refusal(DatasetError, tmp_path / "a")


# Parquet


def parquet(rows: list[dict[str, Any]], features: Mapping[str, Any] | None = None, **options: int) -> bytes:
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    schema = pa.schema({"image": image, "label": pa.int64()})
    if features is not None:
        schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), buffer, **options)
    return buffer.getvalue()


def row(i: int) -> dict[str, Any]:
    return {"image": {"bytes": encoded(COLOUR[i]), "path": f"{i}.png"}, "label": i % 2}


CLASSES = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}


@containers
def test_parquet_as_hugging_face_datasets_writes_it(tmp_path: Path, kind: str) -> None:
    files = {
        "data/train-00000-of-00002.parquet": parquet([row(i) for i in range(3)], CLASSES, row_group_size=2),
        "data/train-00001-of-00002.parquet": parquet([row(i) for i in range(3, 7)], CLASSES),
        "data/test-00000-of-00001.parquet": parquet([row(0)], CLASSES),
        "README.md": b"---\n",
    }
    found = contents(put(tmp_path, files, kind))
    agree(found, [*numbers(1, "test"), *numbers(7, "train")], np.concatenate([COLOUR[:1], COLOUR]))
    assert [found[name][0] for name in numbers(3, "train")] == ["cat", "dog", "cat"]


def test_image_of_a_table_has_the_key_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(parquet([row(0)]))
    with open_dataset(tmp_path / "a.parquet") as dataset:
        assert dataset.read("00000") == encoded(COLOUR[0])


def test_rows_of_a_table_are_read_in_any_order(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(parquet([row(i) for i in range(7)], row_group_size=3))
    with open_dataset(tmp_path / "a.parquet") as dataset:
        for i in (6, 0, 3, 2, 5, 5, 1, 4):
            assert dataset.read(f"{i:05}") == encoded(COLOUR[i])


def test_row_without_an_image_cannot_be_read_and_leaves_the_others(tmp_path: Path) -> None:
    rows = [row(0), {"image": {"bytes": None, "path": "/etc/passwd"}, "label": 0}, {"image": None, "label": 1}, row(3)]
    (tmp_path / "a.parquet").write_bytes(parquet(rows))
    with open_dataset(tmp_path / "a.parquet") as dataset:
        for name in ("00001", "00002"):
            with pytest.raises(UndecodableImage, match="holds no image, or only the path of one"):
                dataset.read(name)
        assert dataset.read("00003") == encoded(COLOUR[3])


def test_table_with_several_columns_of_images_is_refused(tmp_path: Path) -> None:
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.Table.from_pylist([], schema=pa.schema({"left": image, "right": image}))
    pq.write_table(table, tmp_path / "a.parquet")
    assert "has 2: left, right" in refusal(UnreadableDataset, tmp_path / "a.parquet")


@pytest.mark.parametrize("place", [*range(0, 400, 23), *range(-400, 0, 23)])
def test_damaged_table_is_read_or_refused(tmp_path: Path, place: int) -> None:
    data = bytearray(parquet([row(i) for i in range(3)], CLASSES))
    data[place] ^= 0x55
    (tmp_path / "a.parquet").write_bytes(data)
    try:
        with open_dataset(tmp_path / "a.parquet") as dataset:
            for sample in dataset.samples:
                with contextlib.suppress(UndecodableImage):
                    dataset.read(sample.path)
    except DatasetError:
        pass


# WebDataset


def shard(first: int, last: int) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for i in range(first, last):
        files |= {f"s/{i:04}.input.png": encoded(COLOUR[i]), f"s/{i:04}.cls": b"%d" % (i % 3), f"s/{i:04}.json": b"{}"}
    return files


def test_one_shard(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(tar(shard(0, 7)))
    found = contents(tmp_path / "a")
    agree(found, [f"s/{i:04}.input.png" for i in range(7)], COLOUR)
    assert [label for label, _ in found.values()] == ["0", "1", "2", "0", "1", "2", "0"]
    assert format_of(tmp_path / "a") == "WebDataset"


@containers
@pytest.mark.parametrize("end", [".tar", ".tar.gz"])
def test_shards(tmp_path: Path, kind: str, end: str) -> None:
    pack = PACK["gz" if end == ".tar.gz" else ""]
    files = {f"train-000{i}{end}": pack(tar(shard(3 * i, 3 * i + 3))) for i in range(2)}
    path = put(tmp_path, files, kind)
    found = contents(path)
    agree(found, [f"train-000{i // 3}/s/{i:04}.input.png" for i in range(6)], COLOUR[:6])
    assert [label for label, _ in found.values()] == ["0", "1", "2", "0", "1", "2"]


# What is not one thing


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a.png": encoded(noise(4, 4)), "b.npy": npy(COLOUR)}, "image files and NumPy arrays"),
        ({"a.npy": npy(COLOUR), "b": idx(GREY)}, "NumPy arrays and IDX files"),
        ({"a.tar": tar({"x.png": b"x"}), "b.parquet": parquet([row(0)])}, "tar shards and Parquet files"),
    ],
)
def test_dataset_of_several_formats_is_refused(tmp_path: Path, files: dict[str, bytes], words: str) -> None:
    assert words in refusal(AmbiguousDataset, put(tmp_path, files))


def test_names_do_not_tell_the_format(tmp_path: Path) -> None:
    for name, data in {
        "a.png": npy(COLOUR),
        "b.zip": tar({"x.png": encoded(COLOUR[0])}),
        "c.npy": parquet([row(0)]),
    }.items():
        (tmp_path / name).write_bytes(data)
        assert contents(tmp_path / name)


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 5000, b"x" * 5000, encoded(noise(4, 4)), gzip.compress(b"x" * 50, mtime=0)]
)
def test_file_that_is_not_understood_says_what_is(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a").write_bytes(data)
    assert "Parquet files with a column of images; a is none of them" in refusal(UnreadableDataset, tmp_path / "a")


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_packed_file_is_unpacked_once(tmp_path: Path, pack: Pack) -> None:
    (tmp_path / "a").write_bytes(pack(npy(COLOUR)))
    agree(contents(tmp_path / "a"), numbers(7), COLOUR)
    (tmp_path / "a").write_bytes(gzip.compress(pack(npy(COLOUR))))
    with pytest.raises(DatasetError, match="packed twice"):
        open_dataset(tmp_path / "a")


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_packed_file_that_is_cut_off_is_refused(tmp_path: Path, pack: Pack) -> None:
    data = pack(tar({f"{i}.png": encoded(noise(9, 9)) for i in range(9)}))
    (tmp_path / "a").write_bytes(data[: len(data) // 2])
    assert "is packed, and damaged" in refusal(UnreadableDataset, tmp_path / "a")
