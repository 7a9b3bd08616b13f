"""``sslmem encoders``, ``datasets`` and ``audits`` as people type them."""

import csv
import io
import json
import uuid
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from service import audits
from service.context import Context
from service.embedded.process import free_port
from service.settings import Settings
from service.workers import beat, beat_of_sweeper
from tests.integration.cli.conftest import Run
from tests.support import rows
from tests.support.driver import working
from tests.support.materials import EncoderFile, Material


def push(sslmem: Run, file: EncoderFile, *more: object) -> str:
    return sslmem("encoders", "push", file.path, "--architecture", file.architecture, "--input-size", 16, *more).id


def test_audit_from_upload_to_report(
    sslmem: Run,
    settings: Settings,
    material: Material,
    target_file: EncoderFile,
    reference_file: EncoderFile,
    tmp_path: Path,
) -> None:
    table = tmp_path / "roles.csv"
    table.write_text(material.roles)
    with working(settings):
        target, reference = push(sslmem, target_file), push(sslmem, reference_file)
        dataset = sslmem("datasets", "push", material.folder).id
        roles = sslmem("datasets", "roles", dataset, table).id
        ended = sslmem(
            "audits", "request", "--target", target, "--reference", reference, "--dataset", dataset, "--roles", roles,
            "--views", 4, "--follow"
        )  # fmt: skip
    assert "memorization found" in ended.out.lower()
    assert "score spec sha256:" in ended.out
    audit = ended.id
    for name in ("scores.csv", "scores.parquet"):
        assert sslmem("audits", "scores", audit, "--out", tmp_path / name).status == 0
    with (tmp_path / "scores.csv").open(newline="") as file:
        found = [row["sample"] for row in csv.DictReader(file)]
    assert found == pq.read_table(tmp_path / "scores.parquet").column("sample").to_pylist() == sorted(material.paths)
    assert sslmem("audits", "report", audit, "--out", tmp_path / "report.html").status == 0
    assert "<html" in (tmp_path / "report.html").read_text()
    assert sslmem("audits", "show", audit).out in ended.out
    assert json.loads(sslmem("audits", "show", audit, "--json").out)["summary"]["num_samples"] == 40


def test_refused_encoder_is_one_line(sslmem: Run, settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "garbage.pt"
    path.write_bytes(b"nothing of the kind")
    with working(settings):
        line = sslmem("encoders", "push", path).line
    assert "garbage was refused" in line
    assert "[checkpoint-unreadable]" in line


def test_several_encoders_are_named_after_one_option(sslmem: Run, context: Context) -> None:
    paths = rows.sample_paths(4)
    with context.sessions.begin() as session:
        ids = [rows.add_encoder(session, str(i)).id for i in range(4)]
        dataset = rows.add_dataset(session, paths)
        roles = rows.add_roles(session, dataset, paths)
    ended = sslmem(
        "audits", "request", "--target", *ids[:1], "--reference", *ids[1:], "--dataset", dataset.id, "--roles",
        roles.id, "--name", "mine", "--recipe", "paper-weak", "--seed", 7, "--distance", "cosine"
    )  # fmt: skip
    with context.sessions.begin() as session:
        audit = audits.get_audit(session, uuid.UUID(ended.id))
        parts = audits.encoders_of(session, audit.id)
    assert [encoder.id for encoder in parts["reference"]] == ids[1:]
    assert (audit.name, audit.spec["seed"], audit.spec["distance"]) == ("mine", 7, "cosine")


def test_lists_show_everything(sslmem: Run, context: Context) -> None:
    audit = rows.succeeded_audit(context)
    with context.sessions.begin() as session:
        ids = [rows.add_encoder(session, str(i)).id for i in range(120)]
    shown = sslmem("encoders", "list").out
    assert all(str(encoder_id) in shown for encoder_id in ids)
    assert str(audit.dataset_id) in sslmem("datasets", "list").out
    listed = sslmem("audits", "list").out
    assert str(audit.id) in listed
    assert "succeeded" in listed


def test_audit_that_waits_says_why(sslmem: Run, context: Context) -> None:
    audit = rows.request_audit(context)
    out = sslmem("audits", "show", audit.id).out
    assert out.splitlines() == [
        "queued: 0 of 40 samples",
        "no worker has connected in the last week; start one with python -m worker",
    ]


def test_audit_is_cancelled_and_deleted(sslmem: Run, context: Context) -> None:
    audit = rows.request_audit(context)
    assert "[audit-not-ended, HTTP 409]" in sslmem("audits", "delete", "--yes", audit.id).line
    assert sslmem("audits", "cancel", audit.id).out == "cancelled\n"
    assert sslmem("audits", "follow", audit.id).line == (
        f"sslmem: audit {audit.id}: the audit was cancelled [cancelled] [request-refused]\n"
    )
    assert sslmem("audits", "delete", "--yes", audit.id).status == 0
    assert "[audit-not-found, HTTP 404]" in sslmem("audits", "show", audit.id).line


def test_audit_is_paused_resumed_and_tried_again(sslmem: Run, context: Context) -> None:
    audit = rows.request_audit(context)
    assert sslmem("audits", "pause", audit.id).out == "paused\n"
    assert "no further chunk begins until it is resumed" in sslmem("audits", "show", audit.id).out
    assert sslmem("audits", "resume", audit.id).out == "queued\n"
    assert sslmem("audits", "cancel", audit.id).out == "cancelled\n"
    assert "[invalid-move, HTTP 409]" in sslmem("audits", "resume", audit.id).line
    assert sslmem("audits", "retry", audit.id).out == "queued\n"


def test_workers_and_what_waits_for_them_are_listed(sslmem: Run, context: Context) -> None:
    rows.request_audit(context)
    with context.sessions.begin() as session:
        beat(session, "host:1", "cpu")
        beat_of_sweeper(session, "host:2")
    assert "host:1" in sslmem("workers").out
    rows.request_audit(context, 16, worker_queue="gpu")
    default, gpu = sslmem("queues").out.splitlines()
    assert default == "default: 1 alive; waiting: 3 chunks of 1 audits, 0 checks; running: 0 chunks, 0 checks"
    assert gpu == (
        "gpu: 0 alive; waiting: 1 chunks of 1 audits, 0 checks; running: 0 chunks, 0 checks; "
        "no GPU worker has connected in the last week; start one with python -m worker"
    )


def test_failed_audit_is_one_line_with_its_sentence(sslmem: Run, context: Context) -> None:
    audit = rows.request_audit(context)
    rows.fail_first_chunk(context, audit.id)
    assert "Something odd. [odd]" in sslmem("audits", "follow", audit.id).line
    assert sslmem("audits", "show", audit.id).out.endswith("Something odd.\n")


def test_encoder_and_dataset_are_deleted(sslmem: Run, context: Context) -> None:
    audit = rows.request_audit(context)
    assert "[in-use, HTTP 409]" in sslmem("datasets", "delete", "--yes", audit.dataset_id).line
    with context.sessions.begin() as session:
        encoder = rows.add_encoder(session)
    assert sslmem("encoders", "delete", "--yes", encoder.id).status == 0
    assert "[encoder-not-found, HTTP 404]" in sslmem("encoders", "delete", "--yes", encoder.id).line


# What can be in the way


def test_service_that_is_not_there_is_one_line(alone: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLMEM_TOKEN", "sslmem_x")
    line = alone("encoders", "list", "--url", f"http://127.0.0.1:{free_port()}").line
    assert "expected a running service" in line
    assert "[service-unreachable]" in line


def test_missing_token_is_one_line(alone: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSLMEM_HOME", str(tmp_path))
    assert f"expected an API token in --token, SSLMEM_TOKEN or {tmp_path / 'token'}" in alone("audits", "list").line


def test_service_of_this_machine_is_found_by_its_folder(
    alone: Run, url: str, token: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSLMEM_HOME", str(tmp_path))
    (tmp_path / "token").write_text(token + "\n")
    (tmp_path / "service.json").write_text(json.dumps({"url": url}))
    assert alone("audits", "list").status == 0


def test_wrong_token_is_one_line(sslmem: Run, target_file: EncoderFile) -> None:
    for command in (("audits", "list"), ("encoders", "push", target_file.path)):
        assert "[unauthorized, HTTP 401]" in sslmem(*command, "--token", "sslmem_guess").line


def test_unusable_recipe_is_one_line(sslmem: Run, tmp_path: Path) -> None:
    ids = [arg for option in ("target", "reference", "dataset", "roles") for arg in (f"--{option}", uuid.uuid4())]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("- sepia: {}\n")
    assert "[recipe-invalid]" in sslmem("audits", "request", *ids, "--recipe", recipe).line
    assert "[recipe-invalid]" in sslmem("audits", "request", *ids, "--recipe", tmp_path / "none.yaml").line


def test_unusable_table_of_roles_is_one_line(sslmem: Run, context: Context, tmp_path: Path) -> None:
    with context.sessions.begin() as session:
        dataset = rows.add_dataset(session, ["a.png"])
    table = tmp_path / "roles.csv"
    for content, words in ((b"sample,role\n\xff\n", "UTF-8"), (b"sample,role\nb.png,shared\n", "b.png")):
        table.write_bytes(content)
        assert words in sslmem("datasets", "roles", dataset.id, table).line


def test_file_that_cannot_be_written_is_one_line(sslmem: Run, context: Context, tmp_path: Path) -> None:
    audit = rows.succeeded_audit(context)
    line = sslmem("audits", "scores", audit.id, "--out", tmp_path / "none" / "scores.csv").line
    assert "No such file or directory" in line


@pytest.mark.parametrize(
    "arguments",
    [
        ("audits", "show", "not-an-id"),
        ("audits", "show", "../encoders"),
        ("audits", "scores", str(uuid.uuid4()), "--out", "scores.xlsx"),
        ("encoders", "push", "/nowhere/encoder.pt"),
        ("encoders", "push", __file__, "--mean", "a,b,c"),
        ("encoders", "frobnicate"),
    ],
)
def test_misuse_is_explained_with_status_2(sslmem: Run, arguments: tuple[str, ...]) -> None:
    ended = sslmem(*arguments)
    assert ended.status == 2
    assert "Usage: " in ended.err
    assert "Traceback" not in ended.err


def test_deleting_asks_first(sslmem: Run, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = rows.succeeded_audit(context)
    for terminal, answer, words in (
        (False, "", "expected --yes to delete the audit"),
        (True, "n\n", "nothing was deleted"),
    ):
        monkeypatch.setattr("sys.stdin", _Typed(answer, terminal=terminal))
        ended = sslmem("audits", "delete", audit.id)
        assert ended.status == 2
        assert words in ended.err
    assert sslmem("audits", "show", audit.id).status == 0
    monkeypatch.setattr("sys.stdin", _Typed("y\n", terminal=True))
    assert sslmem("audits", "delete", audit.id).status == 0
    assert "[audit-not-found, HTTP 404]" in sslmem("audits", "show", audit.id).line


class _Typed(io.StringIO):
    """What somebody types."""

    def __init__(self, text: str, *, terminal: bool) -> None:
        super().__init__(text)
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def test_audit_is_kept_released_and_loses_its_scores(sslmem: Run, context: Context, tmp_path: Path) -> None:
    audit = rows.succeeded_audit(context)
    assert sslmem("audits", "keep", audit.id).status == 0
    assert "[audit-kept, HTTP 409]" in sslmem("audits", "delete-scores", "--yes", audit.id).line
    assert sslmem("audits", "release", audit.id).status == 0
    assert sslmem("audits", "delete-scores", "--yes", audit.id).status == 0
    out = tmp_path / "scores.csv"
    assert "[scores-deleted, HTTP 410]" in sslmem("audits", "scores", audit.id, "--out", out).line
    assert "score spec" in sslmem("audits", "show", audit.id).out


def test_roles_are_listed_and_deleted(sslmem: Run, context: Context) -> None:
    audit = rows.succeeded_audit(context)
    assert str(audit.role_set_id) in sslmem("datasets", "list-roles", audit.dataset_id).out
    delete = ("datasets", "delete-roles", "--yes", audit.dataset_id, audit.role_set_id)
    assert "[in-use, HTTP 409]" in sslmem(*delete).line
    sslmem("audits", "delete", "--yes", audit.id)
    assert sslmem(*delete).status == 0
    assert str(audit.role_set_id) not in sslmem("datasets", "list-roles", audit.dataset_id).out


def test_storage_and_retention_are_shown(sslmem: Run, context: Context) -> None:
    digest = rows.store(context, bytes(2048))
    assert sslmem("storage").out.splitlines()[4].split() == ["unnamed", "1", "2.0", "KiB"]
    lines = sslmem("retention").out.splitlines()
    assert lines[0] == "scores of audits that have ended: for ever"
    assert lines[3] == "files that nothing names: 1 days"
    assert lines[4] == "audits that are kept whatever the policies say: 0"
    assert digest in lines[-1]
