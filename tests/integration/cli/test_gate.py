"""``sslmem gate`` against the service itself."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from service.context import Context
from service.settings import Settings
from sslmem.errors import StatementError
from sslmem.gate.report import read_report
from sslmem.rerun import load_used
from tests.integration.cli.conftest import Run
from tests.support import rows
from tests.support.driver import working
from tests.support.materials import EncoderFile, Material
from tests.unit.builders import scene

CHECKS = ["enough-samples", "roles-apart"]


def policy(folder: Path, value: float, **changes: object) -> Path:
    rule = {"id": "separation", "metric": "candidate.auc", "op": "<=", "value": value}
    path = folder / "policy.yaml"
    path.write_text(yaml.safe_dump({"version": 1, "rules": [rule], "checks": CHECKS, **changes}))
    return path


@pytest.mark.parametrize(("value", "status"), [(1.0, 0), (0.6, 1), (0.9999, 3)])
def test_audit_of_the_service_gets_its_verdict(
    sslmem: Run, url: str, context: Context, tmp_path: Path, value: float, status: int
) -> None:
    audit = rows.succeeded_audit(context, 400)
    report, statement, scores = tmp_path / "report.json", tmp_path / "statement.json", tmp_path / "scores.parquet"
    where = ("--server", url, "--audit", audit.id)
    minimum = {"max_skipped_share": 0.1}
    ended = sslmem(
        "gate", "--policy", policy(tmp_path, value, minimum=minimum), *where, "--json", report, "--scores", scores,
        "--statement", statement,
    )  # fmt: skip
    assert ended.status == status, ended
    content: dict[str, Any] = json.loads(report.read_text())
    assert content["case"]["audit"] == str(audit.id)
    ended = sslmem("verify", statement, "--report", report, "--scores", scores, "--any-verdict")
    assert ended.status == 0, ended


def test_gate_requests_an_audit_and_follows_it(
    sslmem: Run,
    url: str,
    settings: Settings,
    material: Material,
    target_file: EncoderFile,
    reference_file: EncoderFile,
    tmp_path: Path,
) -> None:
    table = tmp_path / "roles.csv"
    table.write_text(material.roles)
    with working(settings):
        for file in (target_file, reference_file):
            arguments = ("--architecture", file.architecture, "--input-size", 16)
            assert sslmem("encoders", "push", file.path, *arguments).status == 0
        dataset = sslmem("datasets", "push", material.folder).id
        roles = sslmem("datasets", "roles", dataset, table).id
        ended = sslmem(
            "gate", "--policy", policy(tmp_path, 1.0, checks=["roles-apart"]), "--server", url,
            "--target", target_file.digest, "--reference", reference_file.digest, "--dataset", dataset,
            "--roles", roles, "--views", 4, "--timeout", 120, "--statement", tmp_path / "statement.json",
            "--json", tmp_path / "report.json", "--scores", tmp_path / "scores.parquet",
        )  # fmt: skip
    assert ended.status == 0, ended
    verified = sslmem(
        "verify", tmp_path / "statement.json", "--report", tmp_path / "report.json", "--roles", table,
        "--scores", tmp_path / "scores.parquet", "--target", target_file.path, "--reference", reference_file.path,
        "--data", material.folder, "--rerun", 5,
    )  # fmt: skip
    assert verified.status == 0, verified
    assert "5 of them came out again" in verified.out
    statement = json.loads((tmp_path / "statement.json").read_text())
    assert statement["subject"][0]["digest"]["sha256"] == target_file.digest.removeprefix("sha256:")


def test_local_gate_gives_the_same_verdict_and_a_page(
    alone: Run, material: Material, target_file: EncoderFile, reference_file: EncoderFile, tmp_path: Path
) -> None:
    table, page = tmp_path / "roles.csv", tmp_path / "gate.html"
    table.write_text(material.roles)
    ended = alone(
        "gate", "--policy", policy(tmp_path, 1.0, checks=["roles-apart"]), "--target", target_file.path,
        "--reference", reference_file.path, "--data", material.archive, "--roles", table, "--views", 4,
        "--architecture", target_file.architecture, "--input-size", 16, "--html", page,
        "--json", tmp_path / "report.json",
    )  # fmt: skip
    assert ended.status == 0, ended
    assert "data:image/png;base64" in page.read_text()
    files = json.loads((tmp_path / "report.json").read_text())["case"]["files"]
    assert files[f"target:{target_file.path.name}"] == target_file.digest
    assert {"dataset", "roles"} <= files.keys()


@pytest.fixture
def untrained(tmp_path: Path, target_file: EncoderFile) -> EncoderFile:
    """The architecture of the target, as initialised."""
    torch.manual_seed(7)
    module = timm.create_model(target_file.architecture, num_classes=0)
    path = tmp_path / "untrained.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, path)
    return EncoderFile(path, target_file.architecture, target_file.input_size)


NEVER = "norms are exactly as initialised: the weights were never trained"


@pytest.mark.parametrize("checks", [[], "all"])
def test_suspect_encoder_passes_no_gate_whatever_checks_the_policy_asks_for(
    alone: Run, material: Material, untrained: EncoderFile, reference_file: EncoderFile, tmp_path: Path, checks: object
) -> None:
    table, report, statement = (tmp_path / name for name in ("roles.csv", "report.json", "statement.json"))
    table.write_text(material.roles)
    scores = tmp_path / "scores.parquet"
    ended = alone(
        "gate", "--policy", policy(tmp_path, 1.0, checks=checks), "--target", untrained.path,
        "--reference", reference_file.path, "--data", material.archive, "--roles", table, "--views", 4,
        "--architecture", untrained.architecture, "--input-size", 16, "--json", report, "--scores", scores,
        "--statement", statement,
    )  # fmt: skip
    assert ended.status == 3, ended
    assert f"SUSPECT: {untrained.path.name}" in ended.err
    content = json.loads(report.read_text())
    assert content["decision"]["verdict"] == "inconclusive"
    assert any("a target is suspect: " in doubt and NEVER in doubt for doubt in content["decision"]["doubts"])
    again = (
        "verify", statement, "--report", report, "--roles", table, "--scores", scores, "--target", untrained.path,
        "--reference", reference_file.path, "--data", material.archive, "--rerun", 3, "--any-verdict",
    )  # fmt: skip
    assert alone(*again).status == 0
    case = read_report(report).case
    honest = [encoder.model_copy(update={"suspicions": []}) for encoder in case.encoders]
    with pytest.raises(StatementError, match="a target is suspect, which the report does not say"):
        load_used(
            case.model_copy(update={"encoders": honest}), "target", [untrained.path], torch.device("cpu"), "pooled"
        )


def test_suspect_encoder_of_the_service_passes_no_gate(
    sslmem: Run,
    url: str,
    settings: Settings,
    material: Material,
    untrained: EncoderFile,
    reference_file: EncoderFile,
    tmp_path: Path,
) -> None:
    table = tmp_path / "roles.csv"
    table.write_text(material.roles)
    with working(settings):
        target, reference = (
            sslmem("encoders", "push", file.path, "--architecture", file.architecture, "--input-size", 16)
            for file in (untrained, reference_file)
        )
        dataset = sslmem("datasets", "push", material.folder).id
        roles = sslmem("datasets", "roles", dataset, table).id
        ended = sslmem(
            "gate", "--policy", policy(tmp_path, 1.0, checks=[]), "--server", url, "--target", target.id,
            "--reference", reference.id, "--dataset", dataset, "--roles", roles, "--views", 4, "--timeout", 120,
        )  # fmt: skip
    assert NEVER in target.err
    assert "SUSPECT" not in reference.err
    assert ended.status == 3, ended
    assert NEVER in ended.out
    shown = sslmem("encoders", "show", target.id)
    assert "untrained: ready, SUSPECT" in shown.out
    assert f"file {untrained.digest}" in shown.out
    assert "mean: [0.485, 0.456, 0.406] (default)" in shown.out


@pytest.mark.parametrize(("value", "status", "part"), [(-1.0, 1, "few"), (1.0, 0, "all with few views")])
def test_sequential_gate_scores_no_more_than_the_verdict_needs(
    alone: Run,
    target_file: EncoderFile,
    reference_file: EncoderFile,
    tmp_path: Path,
    value: float,
    status: int,
    part: str,
) -> None:
    images, table, report = tmp_path / "images", tmp_path / "roles.csv", tmp_path / "report.json"
    images.mkdir()
    roles = ["sample,role"]
    for i in range(160):
        name = f"{i}.png"
        Image.fromarray(scene(16, 16, i)).save(images / name)
        roles.append(f"{name},{'candidate' if i % 2 else 'external'}")
    table.write_text("\n".join(roles))
    rules = policy(
        tmp_path, 0.0, rules=[{"id": "mean", "metric": "candidate.excess", "op": "<=", "value": value}], checks=[]
    )
    scores, statement = tmp_path / "scores.parquet", tmp_path / "statement.json"
    ended = alone(
        "gate", "--policy", rules, "--target", target_file.path, "--reference", reference_file.path, "--data", images,
        "--roles", table, "--views", 8, "--architecture", target_file.architecture, "--input-size", 16, "--sequential",
        "--json", report, "--scores", scores, "--statement", statement,
    )  # fmt: skip
    assert ended.status == status, ended
    case = json.loads(report.read_text())["case"]
    assert (case["num_samples"] < 160) is (part == "few")
    said = case["drawn"]["said"]
    assert f"{case['num_samples']} of 160 samples with 4 of 8 views" in said
    assert "Scored step by step" in ended.out
    files = ("--target", target_file.path, "--reference", reference_file.path, "--data", images, "--roles", table)
    verified = alone("verify", statement, "--report", report, "--scores", scores, *files, "--any-verdict")
    assert verified.status == 0, verified
    assert "10 of them came out again" in verified.out


def test_equal_images_in_two_roles_are_found_wherever_they_come_in_the_order(
    alone: Run, target_file: EncoderFile, reference_file: EncoderFile, tmp_path: Path
) -> None:
    images, table = tmp_path / "images", tmp_path / "roles.csv"
    images.mkdir()
    roles = ["sample,role"]
    for i in range(200):
        pixels = scene(16, 16, 1 if i in (198, 199) else i)
        Image.fromarray(pixels).save(images / f"{i:03}.png")
        roles.append(f"{i:03}.png,{'candidate' if i % 2 else 'external'}")
    table.write_text("\n".join(roles))
    rules = policy(
        tmp_path, 0.0, rules=[{"id": "mean", "metric": "candidate.excess", "op": "<=", "value": 1.0}],
        checks=["roles-apart"],
    )  # fmt: skip
    ended = alone(
        "gate", "--policy", rules, "--target", target_file.path, "--reference", reference_file.path, "--data", images,
        "--roles", table, "--views", 8, "--architecture", target_file.architecture, "--input-size", 16, "--sequential",
    )  # fmt: skip
    assert ended.status == 3, ended
    assert "roles-apart is failed" in ended.out


def test_service_does_not_stop_early(alone: Run, tmp_path: Path) -> None:
    ended = alone("gate", "--policy", policy(tmp_path, 1.0), "--server", "http://127.0.0.1:1", "--sequential")
    assert "a service scores every sample" in ended.line


def test_failed_audit_is_not_evaluated(sslmem: Run, url: str, context: Context, tmp_path: Path) -> None:
    audit = rows.request_audit(context)
    rows.fail_first_chunk(context, audit.id)
    assert "Something odd. [odd]" in sslmem("gate", "--policy", "default", "--server", url, "--audit", audit.id).err
    assert tmp_path.is_dir()
