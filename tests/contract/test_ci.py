"""The files for CI systems, as far as they can be tried without these systems."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from sslmem.cli.main import app
from tests.support.schemas import schema_named
from tests.unit.cases import FAILING, FILE, STRADDLING, Interval, policy_text
from tests.unit.sslmem.cli.stand_in import AUDIT, DATASET_ID, REFERENCE_ID, ROLES_ID, Answers, answers, serving

ROOT = Path(__file__).parents[2]
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
GITLAB: dict[str, Any] = yaml.safe_load((ROOT / "docs" / "ci" / "gitlab.yml").read_text(encoding="utf-8"))
HOOKS: list[dict[str, Any]] = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
PAGE = (ROOT / "docs" / "gate.md").read_text(encoding="utf-8")
INSTALL, GATE = ACTION["runs"]["steps"]


def options_of(command: str) -> set[str]:
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}).output
    return set(re.findall(r"--[a-z][a-z-]+", shown))


def commands(text: str) -> Iterator[list[str]]:
    for line in re.findall(r"^\W*(sslmem [^#\n]+)", re.sub(r"\\\n", " ", text), flags=re.MULTILINE):
        yield shlex.split(line.replace("${arguments[@]}", "x"))


@pytest.mark.parametrize("text", [PAGE, GATE["run"], " ".join(GITLAB["sslmem-gate"]["script"][2:]), HOOKS[0]["entry"]])
def test_commands_have_the_options_they_use(text: str) -> None:
    found = [command for command in commands(text) if command[1] in ("gate", "verify", "check-policy")]
    assert found
    for command in found:
        used = {word for word in command if word.startswith("--")}
        assert used <= options_of(command[1]), command


def test_action_is_composite_and_gives_every_step_a_shell() -> None:
    assert ACTION["runs"]["using"] == "composite"
    assert all(step["shell"] == "bash" for step in ACTION["runs"]["steps"])
    assert all(item["description"] for item in (*ACTION["inputs"].values(), *ACTION["outputs"].values()))


@pytest.mark.parametrize(
    ("content", "schema"),
    [
        (ACTION, "https://json.schemastore.org/github-action.json"),
        (GITLAB, "https://gitlab.com/gitlab-org/gitlab/-/raw/master/app/assets/javascripts/editor/schema/ci.json"),
    ],
)
def test_files_are_valid_by_the_schemas_of_their_platforms(content: dict[str, Any], schema: str) -> None:
    schema_named(schema).validate(content)


def test_action_reads_the_inputs_that_it_has_and_none_as_code() -> None:
    text = (ROOT / "action.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"inputs\.([a-z-]+)", text)) == set(ACTION["inputs"])
    for step in ACTION["runs"]["steps"]:
        assert "${{" not in step["run"]


def run_action(folder: Path, given: Answers, **inputs: str) -> tuple[int, dict[str, str]]:
    """Runs the action's gate as a runner would, with sslmem from this checkout."""
    (folder / "policy.yaml").write_text(policy_text())
    tool = folder / "bin" / "sslmem"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\nexec {sys.executable} -c "from sslmem.cli.main import main; main()" "$@"\n')
    tool.chmod(0o755)
    with serving(given) as (url, _):
        values = {name: str(item.get("default", "")) for name, item in ACTION["inputs"].items()}
        values |= {"policy": "policy.yaml", "server": url, "token": "sslmem_x", **inputs}
        env = {
            key: re.sub(r"\$\{\{ inputs\.([a-z-]+) \}\}", lambda match: values[match[1]], text)
            for key, text in GATE["env"].items()
        }
        env |= {
            "PATH": f"{tool.parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "src"),
            "GITHUB_OUTPUT": str(folder / "output"),
            "GITHUB_STEP_SUMMARY": str(folder / "summary"),
        }
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", GATE["run"]]
        ended = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False)
    outputs = dict(line.split("=", 1) for line in (folder / "output").read_text().splitlines())
    return ended.returncode, outputs


@pytest.mark.parametrize(
    ("metrics", "soft", "status"),
    [(None, "false", 0), (FAILING, "false", 1), (STRADDLING, "false", 3), (FAILING, "true", 0)],
)
def test_action_ends_with_the_status_of_the_gate(
    tmp_path: Path, metrics: dict[str, Interval] | None, soft: str, status: int
) -> None:
    ended, outputs = run_action(tmp_path, answers(metrics), audit=AUDIT, **{"soft-fail": soft})
    assert (ended, outputs) == (status, {"status": str(status), "folder": "sslmem-gate"})
    written = {path.name for path in (tmp_path / "sslmem-gate").iterdir()}
    assert written == {"report.json", "junit.xml", "gate.sarif", "statement.json", "summary.md"}
    assert (tmp_path / "summary").read_text() == (tmp_path / "sslmem-gate" / "summary.md").read_text()


def test_action_requests_an_audit(tmp_path: Path) -> None:
    inputs = {"target": FILE, "reference": REFERENCE_ID, "dataset": DATASET_ID, "roles": ROLES_ID}
    assert run_action(tmp_path, answers(), **inputs)[0] == 0


def test_action_without_a_token_is_not_evaluated_and_says_so_in_the_summary(tmp_path: Path) -> None:
    ended, outputs = run_action(tmp_path, answers(), audit=AUDIT, token="")
    assert (ended, outputs["status"]) == (2, "2")
    assert "not evaluated" in (tmp_path / "summary").read_text()


def test_gitlab_shows_what_the_gate_writes() -> None:
    job = GITLAB["sslmem-gate"]
    command = shlex.split(job["script"][-1])
    assert command[command.index("--junit") + 1] == job["artifacts"]["reports"]["junit"]
    assert job["artifacts"]["when"] == "always"


def test_hook_refuses_what_the_gate_could_not_read(tmp_path: Path) -> None:
    (hook,) = HOOKS
    assert {"id", "name", "entry", "language", "files"} <= hook.keys()
    assert re.search(hook["files"], "ci/sslmem-policy.yaml")
    command = [sys.executable, "-c", "from sslmem.cli.main import main; main()", *hook["entry"].split()[1:]]
    policy = tmp_path / "sslmem-policy.yaml"
    statuses = []
    for text in (policy_text(), policy_text(surprise=1)):
        policy.write_text(text)
        env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        statuses.append(subprocess.run([*command, str(policy)], env=env, capture_output=True, check=False).returncode)
    assert statuses == [0, 2]
