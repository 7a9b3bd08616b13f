"""The store of uploaded files, on a real file system."""

import errno
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from service.artifacts import ArtifactStore, IncomingArtifact
from service.errors import ArtifactNotFound, DigestMismatch, InvalidRequest, StorageFull, UploadTooLarge


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def put(store: ArtifactStore, *parts: bytes, limit: int = 100, expected: str | None = None) -> str:
    with store.incoming(limit) as artifact:
        for part in parts:
            artifact.write(part)
        return artifact.keep(expected)


def files_in(store: ArtifactStore) -> list[Path]:
    return [path for path in store.root.rglob("*") if path.is_file()]


def test_file_is_found_by_the_digest_of_its_content(store: ArtifactStore) -> None:
    digest = put(store, b"ab", b"", b"cd")
    assert digest == digest_of(b"abcd")
    assert store.path(digest).read_bytes() == b"abcd"


def test_same_content_twice_is_one_file(store: ArtifactStore) -> None:
    assert put(store, b"abcd") == put(store, b"ab", b"cd")
    assert len(files_in(store)) == 1


def test_nothing_is_left_of_a_file_that_was_not_kept(store: ArtifactStore) -> None:
    with store.incoming(100) as artifact:
        artifact.write(b"abcd")
    assert files_in(store) == []


def test_file_of_exactly_the_limit_is_accepted(store: ArtifactStore) -> None:
    assert store.path(put(store, b"abcd", limit=4)).stat().st_size == 4


def test_file_over_the_limit_is_refused_and_nothing_is_left(store: ArtifactStore) -> None:
    with pytest.raises(UploadTooLarge, match="at most 4 bytes"):
        put(store, b"abcd", b"e", limit=4)
    assert files_in(store) == []


def test_wrong_digest_is_refused_and_nothing_is_left(store: ArtifactStore) -> None:
    with pytest.raises(DigestMismatch, match="4 bytes arrived"):
        put(store, b"abcd", expected=digest_of(b"else"))
    assert files_in(store) == []


@pytest.mark.parametrize(
    "digest", ["", "sha256:", "sha256:" + "A" * 64, "sha256:../../etc/passwd", "md5:" + "0" * 32, "sha256:" + "0" * 65]
)
def test_malformed_digest_reaches_no_file(store: ArtifactStore, digest: str) -> None:
    with pytest.raises(InvalidRequest):
        store.path(digest)


def test_unknown_digest_is_not_found(store: ArtifactStore) -> None:
    with pytest.raises(ArtifactNotFound):
        store.path(digest_of(b"never"))


def test_removing_twice_is_harmless(store: ArtifactStore) -> None:
    digest = put(store, b"abcd")
    store.remove(digest)
    store.remove(digest)
    assert files_in(store) == []


def test_file_is_copied_into_the_store(store: ArtifactStore, tmp_path: Path) -> None:
    source = tmp_path / "encoder"
    source.write_bytes(b"x" * 3_000_000)
    assert store.path(store.put_file(source)).read_bytes() == source.read_bytes()
    assert source.exists()


def test_many_that_upload_the_same_at_once_leave_one_whole_file(store: ArtifactStore) -> None:
    data = b"x" * 500_000
    digests: list[str] = []
    threads = [
        threading.Thread(target=lambda: digests.append(put(store, data[:7], data[7:], limit=10**6))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert digests == [digest_of(data)] * 8
    assert [path.read_bytes() for path in files_in(store)] == [data]


def test_full_disk_is_said_to_be_full(store: ArtifactStore, tmp_path: Path) -> None:
    """/dev/full is a device that takes no byte."""
    full = tmp_path / "full"
    fills: list[Callable[[IncomingArtifact], object]] = [lambda a: a.write(b"x" * 2**20), lambda a: a.keep()]
    for fill in fills:
        full.symlink_to("/dev/full")
        artifact = IncomingArtifact(full, store.root, 2**30)
        artifact.write(b"a")
        with pytest.raises(StorageFull):
            fill(artifact)
        artifact.close()
        assert not full.is_symlink()


def test_other_trouble_with_the_disk_is_not_hidden(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("service.artifacts.os.fsync", fsync)
    with pytest.raises(OSError, match="Input/output error"):
        put(store, b"abcd")
    assert files_in(store) == []


def test_upload_cut_off_with_its_process_is_removed_in_the_end(store: ArtifactStore) -> None:
    """Nobody is left to do it then."""
    store.discard_abandoned()
    kept = put(store, b"abcd")
    with store.incoming(100) as fresh, store.incoming(100) as old:
        os.utime(old.path, (0, 0))
        store.discard_abandoned()
        assert (fresh.path.exists(), old.path.exists()) == (True, False)
    assert files_in(store) == [store.path(kept)]


def test_files_come_in_the_order_of_their_digests_and_from_any_of_them_on(store: ArtifactStore) -> None:
    digests = sorted(put(store, bytes([n])) for n in range(60))  # some of them in one folder
    assert [file.digest for file in store.files()] == digests
    assert {file.num_bytes for file in store.files()} == {1}
    for n, digest in enumerate(digests):
        assert [file.digest for file in store.files(digest)] == digests[n + 1 :]


def test_other_files_in_the_folder_are_no_artifacts(store: ArtifactStore) -> None:
    digest = put(store, b"abcd")
    (store.path(digest).parent / "notes.txt").write_text("x")
    with store.incoming(100) as artifact:
        artifact.write(b"abc")
        artifact.finish()
        assert [file.digest for file in store.files()] == [digest]
        assert store.incoming_sizes() == [3]


def test_finished_file_is_not_in_the_store_until_it_is_placed(store: ArtifactStore) -> None:
    with store.incoming(100) as artifact:
        artifact.write(b"abcd")
        artifact.finish()
        with pytest.raises(ArtifactNotFound):
            store.path(artifact.digest)
        artifact.place()
        assert store.path(artifact.digest).read_bytes() == b"abcd"
