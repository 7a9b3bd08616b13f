"""``sslmem gate`` as CI runs it. What its statuses are is seen from outside, in a process without torch and numpy."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sslmem.cli import main
from sslmem.gate.report import make_report
from tests.unit.cases import (
    AUC,
    FAILING,
    FILE,
    OTHER,
    STRADDLING,
    TODAY,
    Interval,
    a_case,
    a_rule,
    a_waiver,
    policy_text,
)
from tests.unit.cases import a_policy_file as policy_file
from tests.unit.sslmem.cli.stand_in import (
    AUDIT,
    DATASET_ID,
    REFERENCE_ID,
    ROLES_ID,
    TARGET_ID,
    Answers,
    answers,
    audit,
    serving,
)

ROOT = Path(__file__).parents[4]
# The light wheel's world: what is not installed with it cannot be imported.
LIGHT = """
import sys
for name in ("torch", "torchvision", "timm", "numpy", "scipy", "pyarrow", "jinja2", "PIL", "safetensors"):
    sys.modules[name] = None
sys.argv[0] = "sslmem"
from sslmem.cli.main import main
main()
"""


@dataclass(frozen=True)
class Ended:
    status: int
    out: str
    err: str


@dataclass(frozen=True)
class Place:
    """A folder with a policy, in which the gate runs."""

    folder: Path

    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def policy(self, **changes: object) -> Path:
        path = self.folder / "policy.yaml"
        path.write_text(policy_text(**changes))
        return path

    def start(self, *arguments: object) -> "subprocess.Popen[str]":
        """The gate as a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-c", LIGHT, "gate", *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def process(self, *arguments: object) -> Ended:
        """The gate as a process of its own, to its end."""
        with self.start(*arguments) as process:
            out, err = process.communicate(timeout=60)
            return Ended(process.returncode, out, err)

    def run(self, *arguments: object) -> Ended:
        """The gate in this process, which is faster."""
        self.monkeypatch.setattr("sys.argv", ["sslmem", "gate", *map(str, arguments)])
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main.main()
        assert isinstance(end.value.code, int)
        return Ended(end.value.code, *self.capsys.readouterr())

    def ask(self, given: Answers, *more: object, policy: object = None, process: bool = False) -> Ended:
        """The gate on the audit of a service with these answers."""
        with serving(given) as (url, _):
            run = self.process if process else self.run
            return run("--policy", policy or self.policy(), "--server", url, "--audit", AUDIT, *more)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Place:
    for name in [name for name in os.environ if name.startswith(("GITHUB_", "SSLMEM_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SSLMEM_TOKEN", "sslmem_x")
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path, monkeypatch, capsys)


def not_evaluated(ended: Ended, words: str) -> None:
    assert ended.status == 2, ended
    assert words in ended.err
    assert "Traceback" not in ended.err
    assert "Passed" not in ended.out


# One test per cell of outcome and status


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(
    ("metrics", "status", "words"),
    [(None, 0, "Passed: the rule holds."), (FAILING, 1, "Failed: separation: "), (STRADDLING, 3, "Inconclusive: ")],
)
def test_status_of_each_verdict(
    place: Place, metrics: dict[str, Interval] | None, status: int, words: str, soft: bool
) -> None:
    ended = place.ask(answers(metrics), *(["--soft-fail"] if soft else []), process=True)
    assert ended.status == (0 if soft else status), ended
    assert ended.out.splitlines()[-1].startswith(words)
    assert (f"--soft-fail: the status would be {status}, and is 0" in ended.err) == (soft and status != 0)


@pytest.mark.parametrize(("means", "status"), [("fail", 3), ("warn", 0), ("pass", 0)])
def test_status_of_inconclusive_is_what_the_policy_says(place: Place, means: str, status: int) -> None:
    ended = place.ask(answers(STRADDLING), policy=place.policy(on_inconclusive=means))
    assert ended.status == status
    assert "Inconclusive" in ended.out


def test_waived_violation_passes_and_says_who_answers_for_it(place: Place) -> None:
    policy = place.policy(waivers=[a_waiver(expires="2026-11-25")], max_waiver_days=10**6)
    policy.write_text(policy.read_text().replace("2026-11-25", "2999-01-01"))
    ended = place.ask(answers(FAILING), policy=policy)
    assert ended.status == 0
    assert "waived: separation by Ada until 2999-01-01" in ended.out


def test_failed_check_is_inconclusive(place: Place) -> None:
    check = {"id": "reference-matches", "status": "failed", "detail": "found 0.5 and 0.2"}
    assert place.ask(answers(checks=[check])).status == 3


# Status 2


@pytest.mark.parametrize("soft", [[], ["--soft-fail"]])
def test_failed_audit_is_not_evaluated(place: Place, soft: list[str]) -> None:
    given = answers() | {f"/v1/audits/{AUDIT}": audit("failed")}
    not_evaluated(place.ask(given, *soft, process=True), f"audit {AUDIT}: Something odd. [odd]")


def test_cancelled_audit_is_not_evaluated(place: Place) -> None:
    given = answers() | {f"/v1/audits/{AUDIT}": audit("cancelled")}
    not_evaluated(place.ask(given), "the audit was cancelled")


def test_timeout_is_not_evaluated_and_says_how_to_go_on_waiting(place: Place) -> None:
    given = answers() | {f"/v1/audits/{AUDIT}": audit("running")}
    with serving(given) as (url, seen):
        policy = place.policy()
        ended = place.process("--policy", policy, "--server", url, "--audit", AUDIT, "--timeout", 0)
    not_evaluated(ended, f"it goes on: wait for it with sslmem gate --policy {policy} --server {url} --audit {AUDIT}")
    assert "running, 10 of 800 samples (waiting for a worker)" in ended.err
    assert [method for method, _, _ in seen if method != "GET"] == []


def test_service_that_is_not_there_is_not_evaluated(place: Place) -> None:
    with serving({}) as (url, _):
        pass
    ended = place.process("--policy", place.policy(), "--server", url, "--audit", AUDIT)
    not_evaluated(ended, "expected a running service")


def test_unknown_audit_is_not_evaluated(place: Place) -> None:
    not_evaluated(place.ask({}), "[not-there, HTTP 404]")


@pytest.mark.parametrize("status", [401, 409, 500, 503])
def test_evidence_that_is_refused_is_not_evaluated(place: Place, status: int) -> None:
    not_evaluated(place.ask(answers() | {f"/v1/audits/{AUDIT}/evidence": status}), f"HTTP {status}")


@pytest.mark.parametrize(
    "answer", [{}, [], {"schema_version": 2}, {"schema_version": 1}, {"schema_version": 1, "metrics": {}}]
)
def test_evidence_of_another_form_is_not_evaluated(place: Place, answer: object) -> None:
    not_evaluated(place.ask(answers() | {f"/v1/audits/{AUDIT}/evidence": answer}), "sslmem: ")


@pytest.mark.parametrize("answer", [{}, {"state": "succeeded"}, audit("a state of a later version", finished_at="now")])
def test_audit_of_another_form_is_never_passed(place: Place, answer: dict[str, Any]) -> None:
    with serving(answers() | {f"/v1/audits/{AUDIT}": answer}) as (url, _):
        ended = place.run("--policy", place.policy(), "--server", url, "--audit", AUDIT, "--timeout", 0)
    assert ended.status == 2, ended


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("version: 1\nrules: []\n", "rules"),
        (policy_text(rules=[a_rule(vlaue=1)]), "rules.0.vlaue is not known"),
        (policy_text(rules=[a_rule(metric="auc")]), "rules.0.metric"),
        ("{", "no YAML"),
    ],
)
def test_unusable_policy_is_not_evaluated(place: Place, text: str, words: str) -> None:
    policy = place.folder / "policy.yaml"
    policy.write_text(text)
    not_evaluated(place.ask(answers(), policy=policy), words)


def test_missing_policy_is_not_evaluated(place: Place) -> None:
    not_evaluated(place.ask(answers(), policy=place.folder / "none.yaml"), "is not readable")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--policy", "default"],
        ["--policy", "default", "--target", "f.pth"],
        ["--policy", "default", "--audit", "7"],
        ["--policy", "default", "--frobnicate"],
        ["--policy", "default", "--server", "http://127.0.0.1:9", "--audit", AUDIT, "--target", "f.pth"],
        ["--policy", "default", "--server", "http://127.0.0.1:9", "--audit", AUDIT, "--data", "."],
        ["--policy", "default", "--server", "http://127.0.0.1:9", "--target", "a", "--reference", "b"],
        ["--policy", "default", "--server", "http://127.0.0.1:9", "--target", "a", "--reference", "b", "--dataset",
         DATASET_ID, "--roles", "roles.csv"],
        ["--policy", "default", "--server", "http://127.0.0.1:9", "--audit", AUDIT, "--timeout", "-1"],
    ],
)  # fmt: skip
def test_misuse_is_not_evaluated(place: Place, arguments: list[str]) -> None:
    not_evaluated(place.run(*arguments), "Usage: ")


def test_scoring_here_without_torch_is_not_evaluated(place: Place) -> None:
    (place.folder / "roles.csv").write_text("sample,role\na.png,candidate\n")
    ended = place.process(
        "--policy", "default", "--target", "f", "--reference", "g", "--data", ".", "--roles", "roles.csv"
    )
    not_evaluated(ended, "pip install 'sslmem[score]'")


@pytest.mark.parametrize("option", ["--json", "--junit", "--sarif", "--markdown", "--statement"])
def test_output_that_cannot_be_written_is_not_evaluated(place: Place, option: str) -> None:
    not_evaluated(
        place.ask(answers(), option, place.folder / "none" / "file"), "expected a file in a folder that exists"
    )


def test_job_summary_that_cannot_be_written_is_not_evaluated(place: Place) -> None:
    place.monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(place.folder))
    not_evaluated(place.ask(answers()), "Is a directory")


def test_page_without_its_packages_is_refused_before_the_work(place: Place) -> None:
    not_evaluated(place.ask(answers(), "--html", "gate.html", process=True), "pip install 'sslmem[score]'")


def test_interrupted_gate_is_not_evaluated(place: Place) -> None:
    policy = place.policy()
    with (
        serving(answers() | {f"/v1/audits/{AUDIT}": audit("running")}) as (url, seen),
        place.start("--policy", policy, "--server", url, "--audit", AUDIT) as process,
    ):
        deadline = time.monotonic() + 30
        while len(seen) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 2, err


def test_broken_pipe_is_not_evaluated(place: Place) -> None:
    given = answers() | {f"/v1/audits/{AUDIT}": audit("succeeded")}
    policy = place.policy()
    with serving(given) as (url, _), place.start("--policy", policy, "--server", url, "--audit", AUDIT) as process:
        assert process.stdout is not None
        process.stdout.close()
        process.wait(timeout=30)
    assert process.returncode == 2


def test_unexpected_error_is_not_evaluated(place: Place) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("nobody thought of this")

    place.monkeypatch.setattr("sslmem.cli.gate.make_report", fail)
    ended = place.ask(answers())
    assert ended.status == 2
    assert "nobody thought of this" in ended.err


# What it writes


def test_all_files_are_written_and_agree(place: Place) -> None:
    files = [
        arg for kind in ("json", "junit", "sarif", "markdown", "statement") for arg in (f"--{kind}", f"out.{kind}")
    ]
    summary = place.folder / "summary.md"
    summary.write_text("before\n")
    place.monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    ended = place.ask(answers(FAILING), *files)
    assert ended.status == 1
    report = json.loads((place.folder / "out.json").read_text())
    assert report["decision"]["status"] == 1
    markdown = (place.folder / "out.markdown").read_text()
    assert report["digest"] in markdown
    assert summary.read_text() == "before\n" + markdown
    (result,) = json.loads((place.folder / "out.sarif").read_text())["runs"][0]["results"]
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "policy.yaml"
    assert "<failure" in (place.folder / "out.junit").read_text()
    statement = json.loads((place.folder / "out.statement").read_text())
    assert statement["subject"] == [{"name": "f", "digest": {"sha256": FILE.removeprefix("sha256:")}}]
    assert statement["predicate"]["result"] == "FAILED"


def test_job_summary_is_written_even_without_a_verdict(place: Place) -> None:
    summary = place.folder / "summary.md"
    place.monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    place.ask(answers() | {f"/v1/audits/{AUDIT}": audit("failed")})
    assert summary.read_text().startswith("## ❌ Memorization gate: not evaluated")
    assert "Something odd." in summary.read_text()


@pytest.mark.parametrize("fault", ["policy", "audit"])
def test_without_a_verdict_the_summary_says_so_and_no_earlier_files_are_left(place: Place, fault: str) -> None:
    summary, junit = place.folder / "summary.md", place.folder / "junit.xml"
    place.monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    earlier = [place.folder / name for name in ("report.json", "log.sarif", "statement.json")]
    for file in earlier:
        file.write_text("of an earlier gate that passed")
    policy = place.policy()
    if fault == "policy":
        policy.write_text("version: 2")
    given = answers() | ({f"/v1/audits/{AUDIT}": audit("failed")} if fault == "audit" else {})
    files = ("--json", earlier[0], "--sarif", earlier[1], "--statement", earlier[2], "--junit", junit)
    assert place.ask(given, *files, policy=policy).status == 2
    assert summary.read_text().startswith("## ❌ Memorization gate: not evaluated")
    assert 'errors="1"' in junit.read_text()
    kept = [earlier[0]] if fault == "policy" else []  # it might be the policy's baseline
    assert [file for file in earlier if file.exists()] == kept


@pytest.mark.parametrize("option", ["--json", "--scores", "--statement"])
def test_outputs_that_are_inputs_are_refused_and_left_alone(place: Place, option: str) -> None:
    target = place.folder / "f.pth"
    target.write_bytes(b"weights")
    files = ("--target", target, "--reference", target, "--data", place.folder, "--roles", place.policy())
    ended = place.run("--policy", place.policy(), *files, option, target)
    not_evaluated(ended, "is an input or another output")
    assert target.read_bytes() == b"weights"


def test_two_outputs_in_one_file_are_refused(place: Place) -> None:
    file = place.folder / "x"
    ended = place.ask(answers(), "--json", file, "--statement", file)
    not_evaluated(ended, "is an input or another output")


def test_baseline_that_the_new_report_would_replace_is_kept_when_there_is_none(place: Place) -> None:
    policy = place.policy(rules=[a_rule(value=0.1, baseline="last.json")])
    last = place.folder / "last.json"
    last.write_text(make_report(a_case(), policy_file(), TODAY).to_json())
    given = answers() | {f"/v1/audits/{AUDIT}": audit("failed")}
    assert place.ask(given, "--json", last, policy=policy).status == 2
    assert last.exists()
    assert place.ask(answers(), "--json", last, policy=policy).status == 0


def test_levels_of_the_policy_are_asked_for(place: Place) -> None:
    with serving(answers()) as (url, seen):
        policy = place.policy(confidence=0.99, fdr=0.1)
        ended = place.run("--policy", policy, "--server", url, "--audit", AUDIT)
    assert f"/v1/audits/{AUDIT}/evidence?confidence=0.99&fdr=0.1" in [path for _, path, _ in seen]
    assert ended.status == 3  # the stand-in answers with a lower confidence


# Requesting an audit


def request(place: Place, target: str) -> tuple[Ended, list[dict[str, Any]]]:
    with serving(answers()) as (url, seen):
        ended = place.run(
            "--policy", place.policy(), "--server", url, "--target", target, "--reference", REFERENCE_ID,
            "--dataset", DATASET_ID, "--roles", ROLES_ID, "--views", 4, "--recipe", "paper-weak",
        )  # fmt: skip
    return ended, [json.loads(body) for method, path, body in seen if (method, path) == ("POST", "/v1/audits")]


@pytest.mark.parametrize("target", [TARGET_ID, FILE])
def test_audit_is_requested_by_id_or_digest(place: Place, target: str) -> None:
    ended, (body,) = request(place, target)
    assert ended.status == 0, ended
    assert (body["target_ids"], body["reference_ids"]) == ([TARGET_ID], [REFERENCE_ID])
    assert (body["dataset_id"], body["role_set_id"]) == (DATASET_ID, ROLES_ID)
    assert (body["spec"]["views"], body["spec"]["representation"]) == (4, "auto")


@pytest.mark.parametrize(
    ("target", "words"), [(OTHER, f"the service has no checked encoder {OTHER}"), ("f.pth", "Usage: ")]
)
def test_encoder_that_the_service_does_not_hold_is_not_audited(place: Place, target: str, words: str) -> None:
    ended, requests = request(place, target)
    not_evaluated(ended, words)
    assert requests == []


# Baselines


def test_baseline_is_an_earlier_report(place: Place) -> None:
    policy = place.policy(rules=[a_rule(value=0.1, baseline="last.json")])
    earlier = make_report(a_case({AUC: (0.50, 0.52, 0.54)}), policy_file(), TODAY)
    (place.folder / "last.json").write_text(earlier.to_json())
    assert place.ask(answers(), policy=policy).status == 0
    assert place.ask(answers({AUC: (0.75, 0.77, 0.79)}), policy=policy).status == 1
    (place.folder / "last.json").write_text(earlier.to_json().replace("0.52", "0.9"))
    not_evaluated(place.ask(answers(), policy=policy), "was changed since it was written")
    (place.folder / "last.json").unlink()
    not_evaluated(place.ask(answers(), policy=policy), "not readable")


def test_baseline_is_an_earlier_audit(place: Place) -> None:
    rules = [a_rule(value=0.1, baseline=AUDIT)]
    assert place.ask(answers(), policy=place.policy(rules=rules)).status == 0
