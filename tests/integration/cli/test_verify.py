"""``sslmem verify`` on what a gate of this machine wrote: from the signature down to single scores."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from sslmem.gate.case import Case, make_case
from sslmem.gate.report import make_report, read_report
from sslmem.gate.statement import file_digest, make_statement
from sslmem.local import LocalScores, write_scores
from sslmem.merge import read_scores
from sslmem.policy import load_policy
from sslmem.report.evidence import gather_evidence
from sslmem.report.rows import ScoreRow
from sslmem.report.summary import summarize
from tests.integration.cli.conftest import Run
from tests.support.materials import EncoderFile, Material


@dataclass(frozen=True)
class Gate:
    """A gate's files, and what it was run on."""

    folder: Path
    material: Material
    target: Path
    reference: Path

    @property
    def report(self) -> Path:
        return self.folder / "report.json"

    @property
    def statement(self) -> Path:
        return self.folder / "statement.json"

    @property
    def scores(self) -> Path:
        return self.folder / "scores.parquet"

    @property
    def roles(self) -> Path:
        return self.folder / "roles.csv"

    @property
    def policy(self) -> Path:
        return self.folder / "policy.yaml"

    @property
    def public(self) -> Path:
        return self.folder / "public.pem"

    @property
    def inputs(self) -> tuple[object, ...]:
        return ("--target", self.target, "--reference", self.reference, "--data", self.material.archive)

    @property
    def where(self) -> tuple[object, ...]:
        return ("verify", self.statement, "--report", self.report)

    @property
    def again(self) -> tuple[object, ...]:
        """All it takes to score again."""
        return (*self.where, "--scores", self.scores, "--roles", self.roles, *self.inputs)


@pytest.fixture
def gate(alone: Run, material: Material, target_file: EncoderFile, reference_file: EncoderFile, tmp_path: Path) -> Gate:
    made = Gate(tmp_path, material, target_file.path, reference_file.path)
    key, private = Ed25519PrivateKey.generate(), tmp_path / "private.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    made.public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    made.roles.write_text(material.roles)
    rule = {"id": "separation", "metric": "candidate.auc", "op": "<=", "value": 1.0}
    made.policy.write_text(yaml.safe_dump({"version": 1, "rules": [rule], "checks": ["roles-apart"]}))
    ended = alone(
        "gate", "--policy", made.policy, *made.inputs, "--roles", made.roles, "--views", 4, "--input-size", 16,
        "--architecture", target_file.architecture, "--mean", "0.5", "--std", "0.25", "--json", made.report,
        "--scores", made.scores, "--statement", made.statement, "--sign", private,
    )  # fmt: skip
    assert ended.status == 0, ended
    return made


def test_all_holds_and_scores_come_out_again(alone: Run, gate: Gate) -> None:
    ended = alone(*gate.again, "--key", gate.public, "--policy", gate.policy, "--rerun", 7)
    assert ended.status == 0, ended
    assert ended.out.splitlines()[0] == (
        "the statement holds; signed by a key that was given; by this policy; its evidence follows from 40 scores; "
        "its scores have the roles' samples; 7 of them came out again"
    )
    assert ended.out.splitlines()[-1].endswith(": Passed: the rule holds.")
    assert "16 px, mean (0.5, 0.5, 0.5), std (0.25, 0.25, 0.25)" in ended.out
    assert ended.err.count(": agrees") == 7
    assert "not checked" not in ended.err


def test_samples_may_be_chosen(alone: Run, gate: Gate) -> None:
    names = [row.sample for row in read_scores(gate.scores).rows][:2]
    chosen = [part for name in names for part in ("--sample", name)]
    ended = alone(*gate.again, *chosen)
    assert ended.status == 0, ended
    assert [line.partition(":")[0] for line in ended.err.splitlines() if ": agrees" in line] == names
    unknown = alone(*gate.again, "--sample", "none.png")
    assert unknown.status == 1
    assert "the scores have no sample none.png" in unknown.err


def test_scores_are_checked_without_encoders_as_well(alone: Run, gate: Gate) -> None:
    ended = alone(*gate.where, "--scores", gate.scores)
    assert ended.status == 0, ended
    assert "its evidence follows from 40 scores" in ended.out
    assert "not checked: who signed it (--key)" in ended.err


def test_other_key_did_not_sign_it(alone: Run, gate: Gate, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    public = Ed25519PrivateKey.generate().public_key()
    other.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    ended = alone(*gate.where, "--key", other)
    assert ended.status == 1
    assert "no signature of the statement is by a key that was given" in ended.err


def test_other_policy_was_not_applied(alone: Run, gate: Gate) -> None:
    ended = alone(*gate.where, "--policy", "default")
    assert ended.status == 1
    assert "another policy was applied than default" in ended.err


def test_statement_of_a_failed_gate_holds_but_is_no_pass(alone: Run, gate: Gate) -> None:
    strict = gate.policy.read_text().replace("1.0", "-1.0")
    gate.policy.write_text(strict)
    rewrite(gate, lambda rows: rows)
    ended = alone(*gate.where, "--policy", gate.policy)
    assert ended.status == 1
    assert ended.out.startswith("the statement holds")
    assert "Failed: separation" in ended.out
    assert alone(*gate.where, "--any-verdict").status == 0


Rows = list[ScoreRow]


def rewrite(
    gate: Gate,
    change: Callable[[Rows], Rows],
    case_of: Callable[[Case], Case] = lambda case: case,
    *,
    evidence_too: bool = True,
) -> None:
    """Somebody who runs no gate changes scores, and whatever follows from them, so that all digests fit."""
    stored, report = read_scores(gate.scores), read_report(gate.report)
    rows = change(stored.rows)
    summary = summarize(
        rows,
        stored.summary.spec,
        target_digests=stored.summary.target_digests,
        reference_digests=stored.summary.reference_digests,
        conditions=stored.summary.conditions,
    )
    write_scores(gate.scores, LocalScores(rows, summary))
    case = report.case
    if evidence_too:
        evidence = json.loads(gather_evidence(rows, summary).model_dump_json())
        statuses = {check.id: check for check in case.checks}
        evidence["limits"] = case.limits
        evidence["checks"] = [statuses[check["id"]].model_dump(mode="json") for check in evidence["checks"]]
        case = make_case(evidence, summary.model_dump(mode="json"), files=case.files, encoders=case.encoders)
    case = case_of(case.model_copy(update={"files": {**case.files, "scores": file_digest(gate.scores)}}))
    again = make_report(case, load_policy(str(gate.policy)), report.day)
    gate.report.write_text(again.to_json())
    gate.statement.write_text(make_statement(again))


def worst_of(rows: Rows) -> ScoreRow:
    return max((row for row in rows if row.role == "candidate"), key=lambda row: row.score or 0.0)


def one_changed(**changes: object) -> Callable[[Rows], Rows]:
    return lambda rows: [replace(row, **changes) if row is worst_of(rows) else row for row in rows]  # type: ignore[arg-type]


FORGERIES: dict[str, Callable[[Rows], Rows]] = {
    "another score": one_changed(score=-0.05),
    "alignments so large that everything is rounding": one_changed(
        score=-3.0, alignment_target=1e5, alignment_reference=1e5, standard_error=1e5
    ),
    "another bounded score": one_changed(score_bounded=-0.9),
    "another standard error": one_changed(standard_error=9.0),
    "other alignments of the single encoders": one_changed(alignment_targets=(9.0,)),
}


@pytest.mark.parametrize("change", FORGERIES.values(), ids=FORGERIES)
def test_forged_scores_do_not_come_out_again(alone: Run, gate: Gate, change: Callable[[Rows], Rows]) -> None:
    rewrite(gate, change)
    assert alone(*gate.where, "--scores", gate.scores, "--roles", gate.roles).status == 0  # encoders can tell
    ended = alone(*gate.again, "--rerun", 40)
    assert ended.status == 1
    assert ended.err.count("DIFFERS") == 1, ended
    assert "1 of 40 scores do not come out again" in ended.err


def without_the_worst(rows: Rows) -> Rows:
    worst = worst_of(rows)
    return [row for row in rows if row is not worst]


def in_another_role(rows: Rows) -> Rows:
    worst = worst_of(rows)
    return [replace(row, role="independent") if row is worst else row for row in rows]


def one_more(rows: Rows) -> Rows:
    return [*rows, replace(rows[0], sample="more.png")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_the_worst, "1 samples have a role and no score"),
        (in_another_role, "by the roles, and independent in the scores"),
        (one_more, "1 scores are of samples that were not to be scored, such as more.png"),
    ],
)
def test_scores_of_other_samples_than_the_roles_say_are_found(
    alone: Run, gate: Gate, change: Callable[[Rows], Rows], message: str
) -> None:
    rewrite(gate, change)
    ended = alone(*gate.where, "--scores", gate.scores, "--roles", gate.roles)
    assert ended.status == 1
    assert message in ended.err


def test_the_same_sample_many_times_is_found(alone: Run, gate: Gate) -> None:
    rewrite(gate, lambda rows: [*rows, rows[-1]])
    ended = alone(*gate.where, "--scores", gate.scores)
    assert ended.status == 1
    assert "more than once" in ended.err


def narrower(case: Case) -> Case:
    auc = case.metrics["candidate.auc"]
    tight = auc.model_copy(update={"low": auc.estimate, "high": auc.estimate})
    return case.model_copy(update={"metrics": {**case.metrics, "candidate.auc": tight}})


def of_two_confidences(case: Case) -> Case:
    metrics = dict(case.metrics)
    first = next(iter(metrics))
    metrics[first] = metrics[first].model_copy(update={"confidence": 1e-6})
    return case.model_copy(update={"metrics": metrics})


def with_confidence_one(case: Case) -> Case:
    metrics = {name: metric.model_copy(update={"confidence": 1.0}) for name, metric in case.metrics.items()}
    return case.model_copy(update={"metrics": metrics})


def one_metric_less(case: Case) -> Case:
    return case.model_copy(update={"metrics": {"candidate.auc": case.metrics["candidate.auc"]}})


def all_well(case: Case) -> Case:
    return case.model_copy(update={"checks": [check.model_copy(update={"status": "ok"}) for check in case.checks]})


CLAIMS: dict[str, tuple[Callable[[Case], Case], str]] = {
    "an interval of no width": (narrower, "candidate.auc has low"),
    "metrics of two confidences": (of_two_confidences, "expected metrics of one confidence"),
    "a metric left out": (one_metric_less, "is in only one of the report and what follows"),
    "more samples": (lambda case: case.model_copy(update={"samples": {"candidate": 9999}}), "the report counts"),
    "more references": (lambda case: case.model_copy(update={"num_references": 3}), "other encoders than it names"),
    "a level that is none": (with_confidence_one, "no evidence can be had"),
    "no skipped samples": (lambda case: case.model_copy(update={"num_skipped": 7}), "the report counts"),
    "checks that are ok": (all_well, "the check enough-samples is failed by the scores, and ok in the report"),
    "no checks": (lambda case: case.model_copy(update={"checks": case.checks[2:3]}), "are not those that are made"),
}


@pytest.mark.parametrize(("case_of", "message"), CLAIMS.values(), ids=CLAIMS)
def test_evidence_that_does_not_follow_from_the_scores_is_found(
    alone: Run, gate: Gate, case_of: Callable[[Case], Case], message: str
) -> None:
    rewrite(gate, lambda rows: rows, case_of)
    ended = alone(*gate.where, "--scores", gate.scores)
    assert ended.status == 1
    assert message in ended.err


def test_many_small_differences_that_change_the_verdict_are_found(
    alone: Run, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is within what another machine may make; here that is a lot."""
    monkeypatch.setattr("sslmem.rerun.TOLERANCE", 1.0)
    bound = read_report(gate.report).case.metrics["candidate.auc"].high
    assert bound is not None
    gate.policy.write_text(gate.policy.read_text().replace("1.0", f"{bound - 0.05:.4f}"))

    def lower(rows: Rows) -> Rows:
        return [replace(row, score=(row.score or 0.0) - 0.05 * (row.role == "candidate")) for row in rows]

    rewrite(gate, lower)
    assert read_report(gate.report).decision.verdict == "passed"
    assert alone(*gate.again, "--policy", gate.policy, "--rerun", 3).status == 0
    ended = alone(*gate.again, "--policy", gate.policy, "--rerun", 40)
    assert ended.status == 1
    assert "by the scores that came out now the verdict is" in ended.err


def test_checks_that_a_service_could_not_make_are_made(alone: Run, gate: Gate) -> None:
    """Whoever calls a local gate one of a service does not get around them."""
    gate.policy.write_text(gate.policy.read_text().replace("- roles-apart", "- encoders-plausible"))

    def of_a_service(case: Case) -> Case:
        return all_well(case).model_copy(update={"audit": "11111111-1111-4111-8111-111111111111"})

    rewrite(gate, lambda rows: rows, of_a_service)
    ended = alone(*gate.again, "--policy", gate.policy)
    assert ended.status == 1
    assert "with all checks made the verdict is inconclusive" in ended.err


def test_forged_baseline_is_found(alone: Run, gate: Gate) -> None:
    last = gate.folder / "last.json"
    last.write_text(gate.report.read_text())
    text = gate.policy.read_text().replace("value: 1.0", "value: 0.5\n  baseline: last.json")
    gate.policy.write_text(text)
    report = read_report(gate.report)
    policy = load_policy(str(gate.policy))
    for case, status in ((report.case, 0), (report.case.model_copy(update={"limits": ["none"]}), 1)):
        again = make_report(report.case, policy, report.day, {"last.json": case})
        gate.report.write_text(again.to_json())
        gate.statement.write_text(make_statement(again))
        ended = alone(*gate.where, "--policy", gate.policy, "--any-verdict")
        assert ended.status == status, ended
    assert "the baseline last.json is not the one at" in ended.err


def test_encoder_that_was_not_scored_is_named(alone: Run, gate: Gate, tmp_path: Path) -> None:
    other = tmp_path / "other.pth"
    other.write_bytes(b"something else")
    ended = alone(*gate.again, "--reference", other)
    assert ended.status == 1
    assert "was not scored" in ended.err


def test_scores_of_another_gate_are_found(alone: Run, gate: Gate) -> None:
    with gate.scores.open("ab") as file:
        file.write(b"\0")
    ended = alone(*gate.where, "--scores", gate.scores)
    assert ended.status == 1
    assert "the statement is not about the scores" in ended.err


def test_other_roles_dataset_or_reference_are_found(alone: Run, gate: Gate, tmp_path: Path) -> None:
    archive, roles = tmp_path / "other.zip", tmp_path / "other.csv"
    archive.write_bytes(gate.material.archive.read_bytes() + b"\0")
    roles.write_text(gate.roles.read_text() + "\n")
    for changed, what in (
        (("--data", archive), "not about the dataset"),
        (("--roles", roles), "not about the roles"),
    ):
        ended = alone(*gate.again, *changed)
        assert ended.status == 1
        assert what in ended.err
    ended = alone(*gate.where, "--scores", gate.scores, "--roles", gate.roles, "--target", gate.target,
                  "--reference", gate.target, "--data", gate.material.archive)  # fmt: skip
    assert ended.status == 1
    assert "expected the reference with digest sha256:" in ended.err


def test_images_are_compared_by_their_content(alone: Run, gate: Gate, tmp_path: Path) -> None:
    """A folder has no digest of its own."""
    folder = tmp_path / "images"
    images = sorted(path for path in gate.material.folder.rglob("*.png"))
    for here, there in zip(images, images[1:] + images[:1], strict=True):
        place = folder / here.relative_to(gate.material.folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(there.read_bytes())
    assert alone(*gate.again, "--data", gate.material.folder).status == 0
    ended = alone(*gate.again, "--data", folder, "--rerun", 3)
    assert ended.status == 1
    assert "3 of 3 scores do not come out again" in ended.err


@pytest.mark.parametrize("left_out", ["--target", "--reference", "--data", "--scores", "--roles"])
def test_what_is_missing_to_score_again_is_named(alone: Run, gate: Gate, left_out: str) -> None:
    arguments = [*gate.again, "--rerun", 3]
    at = arguments.index(left_out)
    ended = alone(*arguments[:at], *arguments[at + 2 :])
    assert ended.status == 2
    assert "expected --" in ended.line


def test_signing_needs_a_statement_and_a_key(alone: Run, gate: Gate) -> None:
    where = ("gate", "--policy", gate.policy, *gate.inputs, "--roles", gate.roles)
    assert "expected --statement" in alone(*where, "--sign", gate.folder / "private.pem").line
    statement = ("--statement", gate.folder / "other.json")
    assert "is none that can sign" in alone(*where, *statement, "--sign", gate.public).line
    assert not (gate.folder / "other.json").exists()
