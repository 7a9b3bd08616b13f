"""What the worker finds out about uploads."""

import io
import os
import pickle
import uuid
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sqlalchemy import func, select, update

from models.dataset import Dataset, DatasetSample
from models.encoder import Encoder
from service import intake, jobs, roles
from service.artifacts import ArtifactStore
from service.context import Context
from sslmem import scan
from sslmem.encoders.architectures import small_stem_resnet
from sslmem.encoders.convert import convert_checkpoint
from sslmem.encoders.load import load_checkpoint
from tests.integration.worker.conftest import Drain
from tests.support import driver, rows
from tests.support.materials import ARCHITECTURE, EncoderFile, Material, png, zip_of
from tests.unit.builders import save_torch
from tests.unit.sslmem.encoders.test_producers import dino
from worker.run import Runner


def encoder_now(context: Context, row_id: uuid.UUID) -> Encoder:
    with context.sessions.begin() as session:
        return intake.get(session, Encoder, row_id)


def dataset_now(context: Context, row_id: uuid.UUID) -> Dataset:
    with context.sessions.begin() as session:
        return intake.get(session, Dataset, row_id)


def check(context: Context, drain: Drain, file: EncoderFile, **changes: object) -> Encoder:
    encoder = driver.upload_encoder(context, file, "encoder", **changes)
    drain()
    return encoder_now(context, encoder.id)


# Encoders


def test_usable_encoder_is_ready_with_what_was_found(context: Context, drain: Drain, target_file: EncoderFile) -> None:
    encoder = check(context, drain, target_file)
    assert (encoder.state, encoder.failure_code, encoder.attempts) == ("ready", None, 1)
    assert (encoder.architecture, encoder.input_size, encoder.representation_dim) == (ARCHITECTURE, 16, 256)
    assert (encoder.views_per_second or 0) > 0
    assert (encoder.weights_digest or "").startswith("sha256:")
    assert encoder.load_report is not None
    assert encoder.load_report["matched"] > 50
    plain = load_file(context.store.path(encoder.weights_artifact_digest or ""))
    original = load_file(target_file.path)
    assert all(torch.equal(plain[name], tensor) for name, tensor in original.items())
    assert (encoder.lease_owner, encoder.lease_expires_at) == (None, None)


def test_check_that_found_the_disk_full_is_made_again_and_does_not_refuse(
    context: Context,
    runner: Runner,
    drain: Drain,
    target_file: EncoderFile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The chaos campaign found it refused for good, as damaged."""
    torch.save(load_file(target_file.path), tmp_path / "encoder.pth")
    encoder = driver.upload_encoder(context, EncoderFile(tmp_path / "encoder.pth"), "encoder")

    def full(source: Path, destination: Path, **named: object) -> object:
        destination.symlink_to("/dev/full")
        return convert_checkpoint(source, destination, **named)  # type: ignore[arg-type]

    monkeypatch.setattr("sslmem.encoders.convert.convert_checkpoint", full)
    drain()
    waiting = encoder_now(context, encoder.id)
    assert (waiting.state, waiting.attempts, waiting.failure_code) == ("received", 1, "internal-error")
    assert "no room is left" in (waiting.failure_detail or "")
    monkeypatch.undo()
    with context.sessions.begin() as session:
        session.execute(update(Encoder).values(available_at=func.clock_timestamp()))
    runner.check_encoder(encoder.id)
    assert encoder_now(context, encoder.id).state == "ready"


def test_branch_and_options_are_heeded_and_what_was_taken_is_kept(
    context: Context, drain: Drain, tmp_path: Path
) -> None:
    path = save_torch(dino().content, tmp_path / "dino.pth")
    none: dict[str, object] = {"architecture": None, "input_size": None, "mean": [], "std": []}
    teacher = check(context, drain, EncoderFile(path), **none)
    student = check(context, drain, EncoderFile(path), **none, branch="student", options={"num_heads": 6})
    found = teacher.load_report or {}, student.load_report or {}
    assert [report["branch"] for report in found] == ["teacher", "student"]
    assert [report["other_branches"] for report in found] == [["student"], ["teacher"]]
    assert [report["settings"]["num_heads"] for report in found] == [
        {"value": 3, "source": "default"},
        {"value": 6, "source": "told"},
    ]
    assert teacher.in_effect("mean", None) == [0.485, 0.456, 0.406]
    assert teacher.weights_digest == load_checkpoint(path).weights_digest
    assert student.weights_digest == load_checkpoint(path, branch="student").weights_digest
    assert teacher.weights_digest != student.weights_digest
    assert len(found[0]["loaded"]) == found[0]["matched"]


def test_branch_that_is_not_there_is_refused_with_those_that_are(
    context: Context, drain: Drain, tmp_path: Path
) -> None:
    path = save_torch(dino().content, tmp_path / "dino.pth")
    code, detail = refused(context, drain, path, architecture=None, input_size=None, branch="ema")
    assert (code, "expected one of teacher, student" in detail) == ("checkpoint-ambiguous", True)


def test_encoder_that_was_never_trained_is_suspect_before_any_audit(
    context: Context, drain: Drain, target_file: EncoderFile, tmp_path: Path
) -> None:
    assert check(context, drain, target_file).suspicions == []
    module, _ = small_stem_resnet("resnet18")
    path = save_torch(module.state_dict(), tmp_path / "fresh.pth")
    encoder = check(context, drain, EncoderFile(path), architecture=None, input_size=None)
    assert encoder.state == "ready"
    assert encoder.suspicions == ["all 20 norms are exactly as initialised: the weights were never trained"]


def test_torch_file_is_converted_and_named_alike(
    context: Context, drain: Drain, target_file: EncoderFile, tmp_path: Path
) -> None:
    first = check(context, drain, target_file)
    path = tmp_path / "encoder.pt"
    torch.save({"state_dict": load_file(target_file.path), "epoch": 3}, path)
    second = check(context, drain, EncoderFile(path))
    assert second.state == "ready"
    assert second.weights_digest == first.weights_digest
    assert second.artifact_digest != first.artifact_digest


def test_architecture_and_size_are_read_off_the_weights(context: Context, drain: Drain, tmp_path: Path) -> None:
    module, width = small_stem_resnet("resnet18")
    path = tmp_path / "encoder.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, path)
    encoder = check(context, drain, EncoderFile(path), architecture=None, input_size=None)
    assert (encoder.state, encoder.architecture, encoder.input_size) == ("ready", "resnet18", 32)
    assert encoder.representation_dim == width
    again = check(context, drain, EncoderFile(path), architecture=None, input_size=None)
    assert again.id == encoder.id


def refused(context: Context, drain: Drain, path: Path, **changes: object) -> tuple[str, str]:
    encoder = check(context, drain, EncoderFile(path), **changes)
    assert encoder.state == "refused"
    assert encoder.attempts == 1
    return encoder.failure_code or "", encoder.failure_detail or ""


def test_file_that_is_no_checkpoint_is_refused(context: Context, drain: Drain, tmp_path: Path) -> None:
    path = tmp_path / "encoder"
    path.write_bytes(b"nothing of the kind")
    code, detail = refused(context, drain, path)
    assert code == "checkpoint-unreadable"
    assert detail.startswith("encoder: ")


def test_unknown_architecture_is_refused_by_name(context: Context, drain: Drain, target_file: EncoderFile) -> None:
    code, detail = refused(context, drain, target_file.path, architecture="resnet1000")
    assert code == "architecture-unknown"
    assert "resnet1000" in detail


def test_weights_of_another_architecture_are_refused(context: Context, drain: Drain, target_file: EncoderFile) -> None:
    code, detail = refused(context, drain, target_file.path, architecture="resnet18")
    assert code == "state-dict-mismatch"
    assert "conv1.weight" in detail


def test_weights_that_are_not_finite_are_refused(
    context: Context, drain: Drain, target_file: EncoderFile, tmp_path: Path
) -> None:
    path = tmp_path / "encoder.safetensors"
    save_file({name: tensor * float("nan") for name, tensor in load_file(target_file.path).items()}, path)
    assert refused(context, drain, path)[0] == "representation-not-finite"


class Harmful:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_checkpoint_is_ever_executed(context: Context, drain: Drain, tmp_path: Path) -> None:
    sign = tmp_path / "executed"
    for name in ("zip", "legacy", "bare"):
        path = tmp_path / f"{name}.pt"
        if name == "bare":
            path.write_bytes(pickle.dumps({"state_dict": Harmful(sign)}))
        else:
            torch.save({"state_dict": Harmful(sign)}, path, _use_new_zipfile_serialization=name == "zip")
        refused(context, drain, path)
        assert not sign.exists()


def test_name_in_a_checkpoint_that_the_database_cannot_hold_is_refused_with_a_sentence(
    context: Context, drain: Drain, target_file: EncoderFile, tmp_path: Path
) -> None:
    path = tmp_path / "encoder.safetensors"
    save_file({**load_file(target_file.path), "surprise\0": torch.zeros(1)}, path)
    code, detail = refused(context, drain, path)
    assert code == "checkpoint-unreadable"
    assert "surprise" in detail


def test_file_that_vanished_is_tried_again_and_given_up(
    context: Context, runner: Runner, target_file: EncoderFile
) -> None:
    encoder = driver.upload_encoder(context, target_file, "encoder")
    context.store.remove(encoder.artifact_digest)
    for _ in range(context.settings.max_attempts):
        assert encoder_now(context, encoder.id).state == "received"
        with context.sessions.begin() as session:
            session.execute(update(Encoder).values(available_at=func.clock_timestamp()))
        runner.check_encoder(encoder.id)
    row = encoder_now(context, encoder.id)
    assert (row.state, row.failure_code) == ("refused", "internal-error")
    assert "there is no file with the digest" in (row.failure_detail or "")


def test_check_that_is_announced_twice_is_done_once(context: Context, runner: Runner, target_file: EncoderFile) -> None:
    encoder = driver.upload_encoder(context, target_file, "encoder")
    for _ in range(2):
        runner.check_encoder(encoder.id)
    assert encoder_now(context, encoder.id).attempts == 1


def test_unknown_row_is_none_of_the_workers_business(runner: Runner) -> None:
    runner.check_encoder(uuid.uuid4())
    runner.check_dataset(uuid.uuid4())
    runner.score_chunk(uuid.uuid4())
    runner.finalise_audit(uuid.uuid4())


# Datasets


def test_usable_dataset_is_ready_with_its_samples(context: Context, drain: Drain, material: Material) -> None:
    dataset = driver.upload_material(context, material)
    drain()
    row = dataset_now(context, dataset.id)
    assert (row.state, row.num_samples, row.failure_code) == ("ready", 40, None)
    with context.sessions.begin() as session:
        found = session.execute(
            select(DatasetSample.path, DatasetSample.sample_key).order_by(DatasetSample.position)
        ).all()
    assert [path for path, _ in found] == sorted(material.paths)
    assert len({key for _, key in found}) == 40


def test_damaged_image_does_not_spoil_the_dataset(context: Context, drain: Drain) -> None:
    dataset = driver.upload_dataset(context, zip_of({"a.png": png(1), "b.png": b"no image", "notes.txt": b"x"}))
    drain()
    row = dataset_now(context, dataset.id)
    assert (row.state, row.num_samples, row.num_skipped, row.num_equal) == ("ready", 2, 1, 0)
    with context.sessions.begin() as session:
        (skipped,), _ = intake.page_of_samples(session, dataset.id, skipped=True, limit=10, cursor=None)
    assert (skipped.path, skipped.looks) == ("b.png", None)
    assert (skipped.skipped or "").startswith("image-undecodable: the bytes are no image")


def test_arrays_are_a_dataset_with_labels_and_twins_across_roles(context: Context, drain: Drain) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    pixels[5] = pixels[0]
    buffer = io.BytesIO()
    np.savez(buffer, images=pixels, labels=np.array([0, 1, 0, 1, 0, 1]))
    dataset = driver.upload_dataset(context, buffer.getvalue())
    drain()
    row = dataset_now(context, dataset.id)
    assert (row.state, row.format, row.num_samples, row.num_equal) == ("ready", "NumPy arrays", 6, 2)
    assert row.labels == {"0": 3, "1": 3}
    with context.sessions.begin() as session:
        table = "sample,role\n0-1,shared\n2-3,external\n4-5,candidate\n"
        role_set, _ = roles.register_roles(session, dataset.id, table, "roles")
        assert role_set.twins == [
            {"role": "shared", "other": "candidate", "num_exact": 1, "num_near": 0, "examples": [["00000", "00005"]]},
            {"role": "candidate", "other": "shared", "num_exact": 1, "num_near": 0, "examples": [["00005", "00000"]]},
        ]


def test_names_of_images_may_be_in_any_script(context: Context, drain: Drain) -> None:
    names = ["ä.png", "画像.png", "a b,'\"\\t.png".replace("\\", ""), "x\ny.png"]
    dataset = driver.upload_dataset(context, zip_of({name: png(i) for i, name in enumerate(names)}))
    drain()
    with context.sessions.begin() as session:
        paths = list(session.scalars(select(DatasetSample.path).where(DatasetSample.dataset_id == dataset.id)))
    assert sorted(paths) == sorted(names)


def link_archive(tmp_path: Path) -> bytes:
    path = tmp_path / "link.zip"
    info = zipfile.ZipInfo("a.png")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, "/etc/passwd")
    return path.read_bytes()


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("no archive", "dataset-unreadable"),
        ("no images", "dataset-empty"),
        ("outside", "archive-unsafe"),
        ("link", "archive-unsafe"),
    ],
)
def test_unusable_archive_is_refused(context: Context, drain: Drain, tmp_path: Path, kind: str, code: str) -> None:
    archive = {
        "no archive": b"nothing of the kind",
        "no images": zip_of({"notes.txt": b"x"}),
        "outside": zip_of({"../a.png": png(1)}),
        "link": link_archive(tmp_path),
    }[kind]
    dataset = driver.upload_dataset(context, archive)
    drain()
    row = dataset_now(context, dataset.id)
    assert (row.state, row.failure_code, row.attempts) == ("refused", code, 1)


# A lease that is lost


def take_away(context: Context, row_id: uuid.UUID) -> None:
    """Gives the row to another worker."""
    with context.sessions.begin() as session:
        session.execute(update(Encoder).where(Encoder.id == row_id).values(lease_owner="another"))


@pytest.mark.parametrize("content", ["usable", "unusable", "vanished"])
def test_what_a_late_worker_found_is_dropped(
    context: Context,
    runner: Runner,
    target_file: EncoderFile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: str,
) -> None:
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"nothing of the kind")
    file = target_file if content == "usable" else EncoderFile(garbage)
    encoder = driver.upload_encoder(context, file, "encoder")
    if content == "vanished":
        context.store.remove(encoder.artifact_digest)
    inspect = runner._inspect_encoder

    def slow(*arguments: object) -> object:
        take_away(context, encoder.id)
        return inspect(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(runner, "_inspect_encoder", slow)
    runner.check_encoder(encoder.id)
    row = encoder_now(context, encoder.id)
    assert (row.state, row.lease_owner, row.failure_code) == ("checking", "another", None)


def test_encoder_deleted_during_its_check_is_no_trouble(
    context: Context, runner: Runner, target_file: EncoderFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = driver.upload_encoder(context, target_file, "encoder")
    inspect = runner._inspect_encoder

    def slow(*arguments: object) -> object:
        with context.sessions.begin() as session:
            intake.remove(session, Encoder, encoder.id)
        return inspect(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(runner, "_inspect_encoder", slow)
    runner.check_encoder(encoder.id)
    with context.sessions.begin() as session:
        assert session.get(Encoder, encoder.id) is None


def test_check_is_handed_back_when_the_worker_is_told_to_stop(
    context: Context, runner: Runner, target_file: EncoderFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = driver.upload_encoder(context, target_file, "encoder")

    def stopped(*_: object) -> None:
        raise SystemExit

    monkeypatch.setattr(runner, "_inspect_encoder", stopped)
    with pytest.raises(SystemExit):
        runner.check_encoder(encoder.id)
    row = encoder_now(context, encoder.id)
    assert (row.state, row.attempts, row.enqueued_at) == ("received", 0, None)
    with context.sessions.begin() as session:
        assert jobs.claim(session, Encoder, encoder.id, rows.OWNER, 60)


# Deleted while it is checked


def delete(context: Context, model: type[intake.Row], row_id: uuid.UUID) -> None:
    with context.sessions.begin() as session:
        digests = intake.remove(session, model, row_id)
    with context.sessions.begin() as session:
        intake.discard_artifacts(session, context.store, digests)


@pytest.mark.parametrize("moment", ["before it is read", "before its weights are stored", "after they are"])
def test_encoder_that_is_deleted_during_its_check_leaves_nothing(
    context: Context, drain: Drain, target_file: EncoderFile, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    encoder = driver.upload_encoder(context, target_file, "encoder")
    path, put_file = ArtifactStore.path, ArtifactStore.put_file
    deleted: list[uuid.UUID] = []

    def delete_once() -> None:
        if not deleted:
            deleted.append(encoder.id)
            delete(context, Encoder, encoder.id)

    def path_of_the_deleted(store: ArtifactStore, digest: str) -> Path:
        delete_once()
        return path(store, digest)

    def put(store: ArtifactStore, file: Path) -> str:
        if moment == "before its weights are stored":
            delete_once()
        digest = put_file(store, file)
        delete_once()
        return digest

    if moment == "before it is read":
        monkeypatch.setattr(ArtifactStore, "path", path_of_the_deleted)
    else:
        monkeypatch.setattr(ArtifactStore, "put_file", put)
    drain()
    assert deleted
    monkeypatch.undo()
    assert list(context.store.files()) == []
    with context.sessions.begin() as session:
        assert session.get(Encoder, encoder.id) is None


def test_dataset_that_is_deleted_while_it_is_read_leaves_nothing(
    context: Context, drain: Drain, material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker has the file open, and reads it to the end."""
    dataset = driver.upload_material(context, material)
    read = scan.scan

    def delete_then_read(*arguments: Any) -> Any:  # noqa: ANN401
        delete(context, Dataset, dataset.id)
        return read(*arguments)

    monkeypatch.setattr(scan, "scan", delete_then_read)
    drain()
    assert list(context.store.files()) == []
    with context.sessions.begin() as session:
        assert session.scalar(select(func.count()).select_from(DatasetSample)) == 0
