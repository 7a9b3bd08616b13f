"""``sslmem score``, in this process: what it writes, what it says, and how it refuses."""

import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from safetensors.torch import save_file

from sslmem.cli import main as cli
from sslmem.datasets.source import open_dataset
from sslmem.encoders.load import load_checkpoint
from sslmem.recipe import Recipe
from sslmem.report.rows import COLUMNS
from sslmem.report.summary import Summary
from sslmem.scoring import read_samples
from sslmem.scoring import score as library_score
from sslmem.spec import ScoreSpec
from tests.unit.builders import encoded, randomize, scene

ARCHITECTURE = "test_efficientnet"
ROLES = {
    "candidate/0.png": "candidate",
    "candidate/1.png": "candidate",
    "candidate/2.jpg": "candidate",
    "external/0.png": "external",
    "external/1.png": "external",
    "shared.png": "shared",
}


@dataclass(frozen=True)
class Material:
    """Files that a user would have."""

    folder: Path
    target: Path
    second: Path
    reference: Path
    data: Path
    roles: Path


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    status: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    folder = tmp_path_factory.mktemp("material")
    files = []
    for seed, name in enumerate(["target", "second", "reference"]):
        torch.manual_seed(seed)
        module = randomize(timm.create_model(ARCHITECTURE, num_classes=0), seed)
        files.append(folder / f"{name}.safetensors")
        save_file(module.state_dict(), files[-1])
    data = folder / "images"
    for seed, name in enumerate([*ROLES, "unassigned.png"]):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(encoded(scene(20, 24, seed), "JPEG" if name.endswith("jpg") else "PNG"))
    (data / "shared.png").write_bytes(b"broken")
    roles = folder / "roles.csv"
    roles.write_text("sample,role\n" + "".join(f"{name},{role}\n" for name, role in ROLES.items()))
    return Material(folder, files[0], files[1], files[2], data, roles)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs ``sslmem`` with arguments."""

    def runs(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["sslmem", *map(str, arguments)])
        status: Any = 0
        try:
            cli.main()
        except SystemExit as end:
            status = end.code
        captured = capsys.readouterr()
        return Outcome(status or 0, captured.out, captured.err)

    return runs


@pytest.fixture
def scored(run: Run, material: Material, tmp_path: Path) -> Run:
    """Runs ``sslmem score`` on the material; further arguments come last."""

    def runs(*arguments: object, **replaced: object) -> Outcome:
        options = {
            "--target": material.target,
            "--reference": material.reference,
            "--data": material.data,
            "--out": tmp_path / "scores.parquet",
            "--architecture": ARCHITECTURE,
            "--input-size": 32,
            "--views": 4,
            "--device": "cpu",
        } | {f"--{name.replace('_', '-')}": value for name, value in replaced.items()}
        pairs = [part for option, value in options.items() if value is not None for part in (option, value)]
        return run("score", *pairs, *arguments)

    return runs


def table(tmp_path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(tmp_path / "scores.parquet").to_pylist()
    return rows


# What it writes


def test_every_sample_has_a_row(scored: Run, tmp_path: Path) -> None:
    outcome = scored()
    assert outcome.status == 0, outcome.err
    rows = table(tmp_path)
    assert list(rows[0]) == list(COLUMNS)
    assert [row["sample"] for row in rows] == sorted([*ROLES, "unassigned.png"])
    assert {row["role"] for row in rows} == {None}
    for row in rows:
        assert (row["score"] is None) == (row["sample"] == "shared.png") == (row["skipped"] is not None)


def test_rows_are_the_scores_of_the_library(scored: Run, material: Material, tmp_path: Path) -> None:
    scored(seed=7, recipe="paper-weak", distance="angular", mean="0.5", std="0.25,0.25,0.25")
    target, reference = (
        load_checkpoint(path, architecture=ARCHITECTURE, input_size=32, mean=(0.5,) * 3, std=(0.25,) * 3)
        for path in (material.target, material.reference)
    )
    spec = ScoreSpec(views=4, seed=7, recipe=Recipe.named("paper-weak"), distance="angular", input_size=32)
    with open_dataset(material.data) as dataset:
        names = [sample.path for sample in dataset.samples]
        batches = library_score([target], [reference], read_samples(dataset, names), spec, device=torch.device("cpu"))
        expected = {s.name: s for batch in batches for s in batch}
    for row in table(tmp_path):
        assert row["score"] == expected[row["sample"]].score
        assert row["standard_error"] == expected[row["sample"]].standard_error


def test_parquet_file_says_what_determined_it(scored: Run, tmp_path: Path) -> None:
    scored()
    metadata = pq.read_metadata(tmp_path / "scores.parquet").metadata
    summary = Summary.model_validate_json(metadata[b"sslmem.summary"])
    assert metadata[b"sslmem.spec_digest"].decode() == summary.spec_digest == summary.spec.digest
    assert summary.num_samples == 7
    assert len(summary.target_digests[0]) == len("sha256:") + 64


def test_roles_choose_the_samples_and_appear_in_the_rows(scored: Run, material: Material, tmp_path: Path) -> None:
    outcome = scored(roles=material.roles)
    assert outcome.status == 0
    assert {row["sample"]: row["role"] for row in table(tmp_path)} == ROLES
    assert "1 samples have no role and are not scored" in outcome.err
    assert {row["z"] is None for row in table(tmp_path)} == {False, True}


def test_candidate_with_a_twin_in_another_role_is_named(scored: Run, tmp_path: Path) -> None:
    """Arrays, roles by range: image 5 is image 0 again."""
    pixels = np.stack([scene(32, 32, seed) for seed in (0, 1, 2, 3, 4, 0)])
    np.savez(tmp_path / "a.npz", images=pixels)
    (tmp_path / "roles.csv").write_text("sample,role\n0-2,external\n3-5,candidate\n")
    outcome = scored(data=tmp_path / "a.npz", roles=tmp_path / "roles.csv")
    assert outcome.status == 0, outcome.err
    assert [row["role"] for row in table(tmp_path)] == ["external"] * 3 + ["candidate"] * 3
    assert "1 candidate samples are also external, 0 look like one, such as 00005 and 00000" in outcome.err


def test_json_is_one_object_on_standard_output(scored: Run, material: Material) -> None:
    outcome = scored("--json", roles=material.roles)
    summary = Summary.model_validate_json(outcome.out)
    assert outcome.out == summary.model_dump_json() + "\n"
    assert [(role.role, role.n, role.num_skipped) for role in summary.roles] == [
        ("shared", 0, 1),
        ("candidate", 3, 0),
        ("external", 2, 0),
    ]


def test_people_get_a_table_and_an_answer(scored: Run, material: Material) -> None:
    outcome = scored(roles=material.roles)
    assert "candidate" in outcome.out
    assert "external samples (95 % interval)" in outcome.out
    assert "emorization found: " in outcome.out
    assert "1 of 6 samples were skipped, first shared.png: image-undecodable" in outcome.out
    assert "score spec sha256:" in outcome.out
    assert "\x1b[" not in outcome.out


def test_what_was_understood_of_the_checkpoints_is_said(scored: Run) -> None:
    outcome = scored()
    assert f"target.safetensors: {ARCHITECTURE}, " in outcome.err
    assert "entries loaded; measured: pooled; input 32 px, mean (0.485, 0.456, 0.406)" in outcome.err


def test_report_is_written_too(scored: Run, material: Material, tmp_path: Path) -> None:
    outcome = scored(roles=material.roles, report=tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Audit of target.safetensors" in html
    assert html.count("<img ") == 6
    assert str(tmp_path / "report.html") in outcome.err


def test_same_arguments_give_the_same_file(scored: Run, tmp_path: Path) -> None:
    scored()
    first = (tmp_path / "scores.parquet").read_bytes()
    scored()
    assert (tmp_path / "scores.parquet").read_bytes() == first


def test_batch_size_and_archive_change_nothing(scored: Run, material: Material, tmp_path: Path) -> None:
    scored()
    expected = table(tmp_path)
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for path in material.data.rglob("*.*g"):
            archive.write(path, path.relative_to(material.data))
    scored(data=tmp_path / "images.zip", batch_size=1)
    for found, row in zip(table(tmp_path), expected, strict=True):
        assert found["sample"] == row["sample"]
        assert found["score"] == pytest.approx(row["score"], abs=1e-5)


def test_several_targets_may_follow_one_option(run: Run, material: Material, tmp_path: Path) -> None:
    outcome = run(
        "score",
        *("--target", material.target, material.second),
        *("--reference", material.reference, "--data", material.data, "--out", tmp_path / "scores.parquet"),
        *("--architecture", ARCHITECTURE, "--input-size", 32, "--views", 2, "--device", "cpu", "--json"),
    )
    assert outcome.status == 0, outcome.err
    assert len(Summary.model_validate_json(outcome.out).target_digests) == 2


def test_recipe_may_be_a_file(scored: Run, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("- random_resized_crop: {size: 24}\n- invert\n")
    outcome = scored("--json", recipe=tmp_path / "recipe.yaml", input_size=None)
    assert outcome.status == 0, outcome.err
    spec = Summary.model_validate_json(outcome.out).spec
    assert spec.input_size == 24
    assert [step.op for step in spec.recipe.steps] == ["random_resized_crop", "invert"]


def test_choices_of_the_measurement_reach_the_spec(scored: Run) -> None:
    outcome = scored("--no-normalize", "--json", pairing="original", distance="l1", views=1, seed=9)
    spec = Summary.model_validate_json(outcome.out).spec
    assert (spec.pairing, spec.distance, spec.views, spec.seed, spec.normalize) == ("original", "l1", 1, 9, False)


# How it refuses


def assert_refused(outcome: Outcome, *words: str) -> None:
    """One line, at the end of what was said, and status 2."""
    assert outcome.status == 2
    assert "Traceback" not in outcome.err
    last = outcome.err.rstrip("\n").split("\n")[-1]
    assert last.startswith("sslmem: ")
    for word in words:
        assert word in last
    assert outcome.out == ""


@pytest.mark.parametrize(
    ("replaced", "words"),
    [
        ({"target": "none.pt"}, ["expected a checkpoint file", "none.pt", "checkpoint-unreadable"]),
        ({"target": "."}, ["expected one file of weights, such as model.safetensors; found none"]),
        ({"architecture": "resnet19"}, ["'resnet19'", "architecture-unknown"]),
        ({"architecture": "resnet18"}, ["entries of resnet18 are missing", "state-dict-mismatch"]),
        ({"architecture": None}, ["expected its name", "architecture-unknown"]),
        ({"data": "none"}, ["there is nothing at none", "dataset-unreadable"]),
        ({"roles": "none.csv"}, ["none.csv", "not readable", "roles-invalid"]),
        ({"recipe": "byol"}, ["expected one of simclr", "'byol'", "recipe-invalid"]),
        ({"device": "banana"}, ["'banana'", "expected auto, cpu or cuda", "device-unavailable"]),
        ({"device": "meta"}, ["'meta'", "expected auto, cpu or cuda"]),
        ({"views": 1}, ["at least 2 views; found 1", "spec-invalid"]),
        ({"views": 0}, ["views", "found 0", "spec-invalid"]),
        ({"views": 1025}, ["views", "found 1025", "spec-invalid"]),
        ({"seed": -1}, ["seed", "found -1", "spec-invalid"]),
        ({"seed": 2**63}, ["seed", "spec-invalid"]),
        ({"input_size": 4096}, ["input_size", "found 4096", "spec-invalid"]),
        ({"std": "0,1,1"}, ["divides by std", "spec-invalid"]),
        ({"out": "none/scores.parquet"}, ["expected a folder to write scores.parquet into", "spec-invalid"]),
        ({"out": "."}, ["is a folder", "spec-invalid"]),
        ({"report": "none/report.html"}, ["expected a folder to write report.html into"]),
        ({"report": "."}, ["is a folder"]),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_status_2(
    scored: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, replaced: dict[str, object], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(scored(**replaced), *words)
    assert not (tmp_path / "scores.parquet").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sample,role\nnone.png,candidate\n", ["not in the dataset", "none.png", "roles-invalid"]),
        ("sample,role\ncandidate/0.png,member\n", ["line 2", "'member'"]),
        ("a,b\n", ["expected a CSV with the columns sample,role"]),
        ("sample,role\n", ["no rows"]),
        ("sample,role\n\xff", ["not readable"]),
    ],
)
def test_bad_roles_are_one_line_and_status_2(scored: Run, tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "roles.csv").write_bytes(text.encode("latin1"))
    assert_refused(scored(roles=tmp_path / "roles.csv"), *words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- cutout", ["step 1: unknown augmentation 'cutout'", "recipe-invalid"]),
        ("- {", ["not readable as YAML"]),
        ("- random_resized_crop: {size: 16}", ["crops to 16 pixels", "32"]),
        ("\xff", ["not readable"]),
    ],
)
def test_bad_recipe_is_one_line_and_status_2(scored: Run, tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "recipe.yaml").write_bytes(text.encode("latin1"))
    assert_refused(scored(recipe=tmp_path / "recipe.yaml"), *words)


def test_empty_dataset_is_one_line_and_status_2(scored: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert_refused(scored(data=tmp_path / "empty"), "holds no images", "dataset-empty")


def test_input_size_that_the_encoder_does_not_take_is_one_line_and_status_2(scored: Run, tmp_path: Path) -> None:
    path = tmp_path / "vit.safetensors"
    save_file(timm.create_model("test_vit", num_classes=0, img_size=32).state_dict(), path)
    outcome = scored(target=path, reference=path, architecture="test_vit", input_size=40)
    assert_refused(outcome, "test_vit", "40")


def test_encoders_of_two_input_sizes_are_one_line_and_status_2(scored: Run, tmp_path: Path) -> None:
    paths = []
    for size in (32, 64):
        module = timm.create_model("test_vit", num_classes=0, img_size=size)
        paths.append(tmp_path / f"{size}.safetensors")
        save_file(module.state_dict(), paths[-1])
    outcome = scored(target=paths[0], reference=paths[1], architecture="test_vit", input_size=None)
    assert_refused(outcome, "an encoder takes 64 pixels, the spec says 32", "spec-invalid")


def test_weights_that_are_not_finite_are_one_line_and_status_2(scored: Run, tmp_path: Path) -> None:
    module = timm.create_model(ARCHITECTURE, num_classes=0)
    module.bn1.weight.data.fill_(torch.nan)
    save_file(module.state_dict(), tmp_path / "nan.safetensors")
    assert_refused(scored(reference=tmp_path / "nan.safetensors"), "not finite", "representation-not-finite")


@pytest.mark.parametrize("option", ["out", "report", "target", "data", "roles", "recipe"])
def test_path_that_the_system_does_not_take_is_one_line_and_status_2(scored: Run, option: str) -> None:
    assert_refused(scored(**{option: "x" * 300}), "File name too long")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--views", "many"],
        ["--distance", "l3"],
        ["--pairing", "all"],
        ["--batch-size", "0"],
        ["--batch-size", "few"],
        ["--mean", "1,2"],
        ["--mean", "grey"],
        ["--std", "nan"],
        ["--nonsense"],
    ],
)
def test_wrong_usage_is_status_2(run: Run, tmp_path: Path, arguments: list[str]) -> None:
    required = ["--target", "a", "--reference", "b", "--data", "c", "--out", tmp_path / "d"] if arguments else []
    outcome = run("score", *required, *arguments)
    assert outcome.status == 2
    assert "Traceback" not in outcome.err
    assert outcome.err


def test_command_of_a_shell_ends_with_the_status(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from sslmem.cli.main import main; main()"]
    arguments = ["score", "--target", "a", "--reference", "b", "--data", "c", "--out", "d", "--recipe", "byol"]
    ended = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.startswith("sslmem: expected one of simclr")
    assert ended.stderr.count("\n") == 1
