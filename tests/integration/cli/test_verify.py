"""``sslmem verify`` on what a gate of this machine wrote: from the signature down to single scores."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from sslmem.gate.case import make_case
from sslmem.gate.report import make_report, read_report
from sslmem.gate.statement import file_digest, make_statement
from sslmem.local import LocalScores, write_scores
from sslmem.merge import read_scores
from sslmem.policy import load_policy
from sslmem.report.evidence import gather_evidence
from sslmem.report.summary import summarize
from tests.integration.cli.conftest import Run
from tests.support.materials import EncoderFile, Material


@dataclass(frozen=True)
class Gate:
    """A gate's files, and what it was run on."""

    folder: Path
    policy: Path
    again: tuple[object, ...]

    def __getattr__(self, name: str) -> Path:
        return self.folder / {"scores": "scores.parquet", "public": "public.pem"}.get(name, f"{name}.json")


@pytest.fixture
def gate(alone: Run, material: Material, target_file: EncoderFile, reference_file: EncoderFile, tmp_path: Path) -> Gate:
    key = Ed25519PrivateKey.generate()
    private, public, roles = tmp_path / "private.pem", tmp_path / "public.pem", tmp_path / "roles.csv"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    roles.write_text(material.roles)
    policy = tmp_path / "policy.yaml"
    rule = {"id": "separation", "metric": "candidate.auc", "op": "<=", "value": 1.0}
    policy.write_text(yaml.safe_dump({"version": 1, "rules": [rule], "checks": ["roles-apart"]}))
    files = ("--target", target_file.path, "--reference", reference_file.path, "--data", material.archive)
    made = Gate(tmp_path, policy, files)
    ended = alone(
        "gate", "--policy", policy, *files, "--roles", roles, "--views", 4, "--input-size", 16,
        "--architecture", target_file.architecture, "--mean", "0.5", "--std", "0.25", "--json", made.report,
        "--scores", made.scores, "--statement", made.statement, "--sign", private,
    )  # fmt: skip
    assert ended.status == 0, ended
    return made


def test_all_holds_and_scores_come_out_again(alone: Run, gate: Gate) -> None:
    ended = alone(
        "verify", gate.statement, "--report", gate.report, "--key", gate.public, "--scores", gate.scores, *gate.again,
        "--rerun", 7,
    )  # fmt: skip
    assert ended.status == 0, ended
    assert ended.out == (
        "holds: Passed: the rule holds; signed by a key that was given; its metrics follow from 40 scores; "
        "7 of them came out again\n"
    )
    assert ended.err.count(": agrees") == 7


def test_samples_may_be_chosen(alone: Run, gate: Gate) -> None:
    names = [row.sample for row in read_scores(gate.scores).rows][:2]
    chosen = [part for name in names for part in ("--sample", name)]
    ended = alone("verify", gate.statement, "--report", gate.report, "--scores", gate.scores, *gate.again, *chosen)
    assert ended.status == 0, ended
    assert [line.partition(":")[0] for line in ended.err.splitlines()] == names
    unknown = alone(
        "verify", gate.statement, "--report", gate.report, "--scores", gate.scores, *gate.again, "--sample", "none.png"
    )
    assert unknown.status == 1
    assert "the scores have no sample none.png" in unknown.err


def test_scores_are_checked_without_encoders_as_well(alone: Run, gate: Gate) -> None:
    ended = alone("verify", gate.statement, "--report", gate.report, "--scores", gate.scores)
    assert (ended.status, ended.out) == (0, "holds: Passed: the rule holds; its metrics follow from 40 scores\n")


def test_other_key_did_not_sign_it(alone: Run, gate: Gate, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    public = Ed25519PrivateKey.generate().public_key()
    other.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    ended = alone("verify", gate.statement, "--report", gate.report, "--key", other)
    assert ended.status == 1
    assert "no signature of the statement is by a key that was given" in ended.err


def forge(gate: Gate, *, evidence_too: bool) -> None:
    """Somebody who runs no gate makes the most memorized candidate look harmless, and all digests fit."""
    stored, report = read_scores(gate.scores), read_report(gate.report)
    worst = max((row for row in stored.rows if row.role == "candidate"), key=lambda row: row.score or 0.0)
    forged = [replace(row, score=(row.score or 0.0) - 0.05) if row is worst else row for row in stored.rows]
    summary = summarize(
        forged,
        stored.summary.spec,
        target_digests=stored.summary.target_digests,
        reference_digests=stored.summary.reference_digests,
        conditions=stored.summary.conditions,
    )
    write_scores(gate.scores, LocalScores(forged, summary))
    case = report.case
    if evidence_too:
        evidence = json.loads(gather_evidence(forged, summary).model_dump_json())
        found = make_case(evidence, summary.model_dump(mode="json"), files=case.files, encoders=case.encoders)
        case = found
    case = case.model_copy(update={"files": {**case.files, "scores": file_digest(gate.scores)}})
    again = make_report(case, load_policy(str(gate.policy)), report.day)
    gate.report.write_text(again.to_json())
    gate.statement.write_text(make_statement(again))


def test_forged_scores_do_not_come_out_again(alone: Run, gate: Gate) -> None:
    forge(gate, evidence_too=True)
    where = ("verify", gate.statement, "--report", gate.report, "--scores", gate.scores)
    assert alone(*where).status == 0  # nothing but the encoders can tell
    ended = alone(*where, *gate.again, "--rerun", 40)
    assert ended.status == 1
    assert ended.err.count("DIFFERS") == 1
    assert "1 of 40 scores do not come out again" in ended.err


def test_evidence_that_does_not_follow_from_the_scores_is_found(alone: Run, gate: Gate) -> None:
    forge(gate, evidence_too=False)
    ended = alone("verify", gate.statement, "--report", gate.report, "--scores", gate.scores)
    assert ended.status == 1
    assert "by the scores" in ended.err


def test_scores_of_another_gate_are_found(alone: Run, gate: Gate) -> None:
    with gate.scores.open("ab") as file:
        file.write(b"\0")
    ended = alone("verify", gate.statement, "--report", gate.report, "--scores", gate.scores)
    assert ended.status == 1
    assert "the report is not about the scores" in ended.err


def test_other_dataset_or_reference_is_found(alone: Run, gate: Gate, material: Material, tmp_path: Path) -> None:
    where = ("verify", gate.statement, "--report", gate.report, "--scores", gate.scores)
    archive = tmp_path / "other.zip"
    archive.write_bytes(material.archive.read_bytes() + b"\0")
    target, data = gate.again[:2], gate.again[4:]
    ended = alone(*where, *gate.again[:5], archive)
    assert ended.status == 1
    assert "not about the dataset" in ended.err
    ended = alone(*where, *target, "--reference", gate.again[1], *data)
    assert ended.status == 1
    assert "expected the reference with digest sha256:" in ended.err


def test_images_are_compared_by_their_content(alone: Run, gate: Gate, material: Material, tmp_path: Path) -> None:
    """A folder has no digest of its own."""
    folder = tmp_path / "images"
    folder.mkdir()
    images = sorted(path for path in material.folder.rglob("*.png"))
    for here, there in zip(images, images[1:] + images[:1], strict=True):
        place = folder / here.relative_to(material.folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(there.read_bytes())
    where = ("verify", gate.statement, "--report", gate.report, "--scores", gate.scores, *gate.again[:4])
    assert alone(*where, "--data", material.folder).status == 0
    ended = alone(*where, "--data", folder, "--rerun", 3)
    assert ended.status == 1
    assert "3 of 3 scores do not come out again" in ended.err


@pytest.mark.parametrize("left_out", ["--target", "--reference", "--data", "--scores"])
def test_what_is_missing_to_score_again_is_named(alone: Run, gate: Gate, left_out: str) -> None:
    arguments: list[object] = ["--scores", gate.scores, *gate.again]
    at = arguments.index(left_out)
    ended = alone("verify", gate.statement, "--report", gate.report, *arguments[:at], *arguments[at + 2 :])
    assert ended.status == 2
    assert "expected --" in ended.line


def test_signing_needs_a_statement_and_a_key(alone: Run, gate: Gate) -> None:
    where = ("gate", "--policy", gate.policy, *gate.again, "--roles", gate.folder / "roles.csv")
    assert "expected --statement" in alone(*where, "--sign", gate.folder / "private.pem").line
    statement = ("--statement", gate.folder / "other.json")
    assert "is none that can sign" in alone(*where, *statement, "--sign", gate.public).line
    assert not (gate.folder / "other.json").exists()
