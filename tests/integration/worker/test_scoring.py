"""A whole audit by the runner."""

import uuid
from pathlib import Path

import pytest
from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import OperationalError

from models.audit import Audit, Chunk, Score
from models.encoder import Encoder
from service import chunks, lifecycle, roles
from service.chunks import ChunkPlan, RecordedScore
from service.context import Context
from service.queue import FINALISE_AUDIT, SCORE_CHUNK
from sslmem.datasets.source import open_dataset
from sslmem.encoders.load import load_checkpoint
from sslmem.errors import ScoringError
from sslmem.report.summary import summarize
from sslmem.scoring import SampleScore, pick_device, read_samples, score
from sslmem.spec import ScoreSpec
from tests.integration.worker.conftest import Drain, Setting
from tests.support import driver, rows
from tests.support.materials import EncoderFile, Material, png, zip_of
from tests.support.queue import clear, messages
from tests.unit.builders import save_torch
from tests.unit.sslmem.encoders.test_producers import dino
from worker.board import Board
from worker.lease import Lease
from worker.run import Runner

SMALL = 1e-9  # seconds a chunk: as few samples as there may be


def scores_of(context: Context, audit_id: uuid.UUID) -> list[Score]:
    with context.sessions.begin() as session:
        return list(session.scalars(select(Score).where(Score.audit_id == audit_id).order_by(Score.position)))


def directly(audit: Audit, material: Material, target: EncoderFile, reference: EncoderFile) -> list[SampleScore]:
    """The same scores from the library alone."""
    f, g = (
        load_checkpoint(
            file.path, architecture=file.architecture, input_size=16, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
        )
        for file in (target, reference)
    )
    with open_dataset(material.archive) as dataset:
        samples = read_samples(dataset, sorted(material.paths))
        spec = ScoreSpec.model_validate(audit.spec)
        return [row for batch in score([f], [g], samples, spec, device=pick_device("cpu")) for row in batch]


def test_audit_gives_what_the_library_gives_bit_for_bit(
    context: Context, drain: Drain, material: Material, target_file: EncoderFile, reference_file: EncoderFile
) -> None:
    """From the upload on: nothing that the service does on the way changes a score."""
    target = driver.upload_encoder(context, target_file, "target")
    reference = driver.upload_encoder(context, reference_file, "reference")
    dataset = driver.upload_material(context, material)
    assert drain() == 3
    with context.sessions.begin() as session:
        role_set, _ = roles.register_roles(session, dataset.id, material.roles, "roles")
    audit = Setting(context, {"name": "audit", "spec": {"views": 4, "seed": 5}}).request(
        target_ids=[target.id], reference_ids=[reference.id], dataset_id=dataset.id, role_set_id=role_set.id
    )
    assert drain() == 2
    wanted = directly(audit, material, target_file, reference_file)
    found = scores_of(context, audit.id)
    assert [(row.sample, row.sample_key, row.skipped) for row in found] == [(s.name, s.key, s.skipped) for s in wanted]
    assert [row.role for row in found] == [row.sample.partition("/")[0] for row in found]
    for name in ("score", "score_bounded", "standard_error", "alignment_target", "alignment_reference"):
        assert [getattr(row, name) for row in found] == [getattr(row, name) for row in wanted]
    ended = rows.audit_of(context, audit.id)
    assert (ended.state, ended.failure_code) == ("succeeded", None)
    assert ended.summary is not None
    assert ended.summary["num_samples"] == 40


def test_several_chunks_give_what_one_gives(context: Context, setting: Setting, drain: Drain) -> None:
    one, several = setting.request(), setting.request(chunk_seconds=SMALL)
    drain()
    assert [len(rows.chunks_of(context, audit.id)) for audit in (one, several)] == [1, 3]
    for a, b in zip(scores_of(context, one.id), scores_of(context, several.id), strict=True):
        assert a.sample == b.sample
        assert b.score == pytest.approx(a.score, abs=1e-5)
        assert b.standard_error == pytest.approx(a.standard_error, abs=1e-5)


def test_same_audit_twice_gives_the_same_scores(context: Context, setting: Setting, drain: Drain) -> None:
    first, second = setting.request(), setting.request()
    drain()
    assert [row.score for row in scores_of(context, first.id)] == [row.score for row in scores_of(context, second.id)]
    assert rows.audit_of(context, first.id).summary == rows.audit_of(context, second.id).summary


def test_exchanging_target_and_reference_changes_the_sign(context: Context, setting: Setting, drain: Drain) -> None:
    first = setting.request()
    second = setting.request(target_ids=setting.values["reference_ids"], reference_ids=setting.values["target_ids"])
    drain()
    for a, b in zip(scores_of(context, first.id), scores_of(context, second.id), strict=True):
        assert a.score == -(b.score or 0)


def test_image_that_cannot_be_decoded_is_skipped_with_a_reason(
    context: Context, setting: Setting, drain: Drain
) -> None:
    dataset = driver.upload_dataset(context, zip_of({"a.png": png(1), "b.png": b"no image", "c.png": png(3)}), "odd")
    drain()
    with context.sessions.begin() as session:
        table = "sample,role\na.png,candidate\nb.png,candidate\nc.png,external\n"
        role_set, _ = roles.register_roles(session, dataset.id, table, "roles")
    audit = setting.request(dataset_id=dataset.id, role_set_id=role_set.id)
    drain()
    a, b, c = scores_of(context, audit.id)
    assert [row.score is None for row in (a, b, c)] == [False, True, False]
    assert (b.skipped or "").startswith("image-undecodable: ")
    assert rows.audit_of(context, audit.id).state == "succeeded"


def test_redelivered_chunk_is_not_scored_twice(
    context: Context, setting: Setting, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = setting.request()
    (chunk,) = rows.chunks_of(context, audit.id)
    computed = count_scoring(runner, monkeypatch)
    for _ in range(3):
        runner.score_chunk(chunk.id)
    assert len(computed) == 1
    assert len(scores_of(context, audit.id)) == 40
    assert rows.chunks_of(context, audit.id)[0].attempts == 1


def count_scoring(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> list[ChunkPlan]:
    """Notes the plan of each chunk that is computed."""
    computed: list[ChunkPlan] = []
    real = runner._score

    def counted(plan: ChunkPlan, lease: Lease) -> list[RecordedScore]:
        computed.append(plan)
        return real(plan, lease)

    monkeypatch.setattr(runner, "_score", counted)
    return computed


def test_encoders_stay_loaded_between_chunks(
    context: Context, setting: Setting, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sslmem.encoders import load  # noqa: PLC0415

    loaded: list[object] = []
    real = load.load_encoder

    def counted(*arguments: object, **options: object) -> object:
        loaded.append(arguments)
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(load, "load_encoder", counted)
    audit = setting.request(chunk_seconds=SMALL)
    drain()
    assert len(loaded) == 2
    assert rows.audit_of(context, audit.id).state == "succeeded"


def test_last_chunk_summarises_the_audit_at_once_and_its_message_finds_nothing_to_do(
    context: Context, setting: Setting, runner: Runner, drain: Drain
) -> None:
    audit = setting.request()
    clear(context.settings)
    runner.score_chunk(rows.chunks_of(context, audit.id)[0].id)
    assert rows.audit_of(context, audit.id).state == "succeeded"
    assert messages(context.settings) == [(FINALISE_AUDIT, str(audit.id))]
    drain()
    assert rows.audit_of(context, audit.id).finalise_attempts == 1


# Failures


def failing(runner: Runner, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def score_nothing(*_: object) -> list[RecordedScore]:
        raise error

    monkeypatch.setattr(runner, "_score", score_nothing)


def succeeding(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_score", lambda plan, _: rows.scores_for(plan))


def make_available(context: Context) -> None:
    with context.sessions.begin() as session:
        session.execute(update(Chunk).values(available_at=func.clock_timestamp()))


def test_unexpected_failure_is_tried_again_and_then_ends_the_audit(
    context: Context, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = rows.request_audit(context, 16)
    (chunk,) = rows.chunks_of(context, audit.id)
    failing(runner, monkeypatch, RuntimeError("cosmic ray"))
    states = []
    for _ in range(context.settings.max_attempts):
        make_available(context)
        runner.score_chunk(chunk.id)
        states.append(rows.audit_of(context, audit.id).state)
    assert states == ["running", "running", "failed"]
    ended = rows.audit_of(context, audit.id)
    assert ended.failure_code == "internal-error"
    assert ended.failure_detail == (
        "scoring failed unexpectedly (RuntimeError: cosmic ray); the worker's log has the details"
    )


def test_failure_that_passes_costs_nothing_but_time(
    context: Context, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = rows.request_audit(context, 16)
    (chunk,) = rows.chunks_of(context, audit.id)
    failing(runner, monkeypatch, RuntimeError("cosmic ray"))
    runner.score_chunk(chunk.id)
    succeeding(runner, monkeypatch)
    make_available(context)
    runner.score_chunk(chunk.id)
    assert rows.audit_of(context, audit.id).state == "succeeded"
    assert len(scores_of(context, audit.id)) == 16


def test_failure_of_the_input_ends_the_audit_at_once_with_its_own_code(
    context: Context, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = rows.request_audit(context, 16)
    failing(runner, monkeypatch, ScoringError("It cannot be measured."))
    runner.score_chunk(rows.chunks_of(context, audit.id)[0].id)
    ended = rows.audit_of(context, audit.id)
    assert (ended.state, ended.failure_code, ended.failure_detail) == (
        "failed",
        "scoring-error",
        "It cannot be measured.",
    )


@pytest.mark.parametrize("stop", [SystemExit, KeyboardInterrupt])
def test_chunk_is_handed_back_when_the_worker_is_told_to_stop(
    context: Context,
    runner: Runner,
    monkeypatch: pytest.MonkeyPatch,
    stop: type[BaseException],
) -> None:
    audit = rows.request_audit(context, 16)
    (chunk,) = rows.chunks_of(context, audit.id)
    failing(runner, monkeypatch, stop())
    with pytest.raises(stop):
        runner.score_chunk(chunk.id)
    row = rows.chunks_of(context, audit.id)[0]
    assert (row.state, row.attempts, row.lease_owner, row.failure_code) == ("queued", 0, None, None)
    succeeding(runner, monkeypatch)
    runner.score_chunk(chunk.id)
    assert rows.audit_of(context, audit.id).state == "succeeded"


@pytest.mark.parametrize("error", [SystemExit, RuntimeError, ScoringError])
@pytest.mark.parametrize("end", ["cancelled", "deleted"])
def test_worker_whose_audit_is_gone_drops_what_became_of_its_chunk(
    context: Context,
    runner: Runner,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
    end: str,
) -> None:
    audit = rows.request_audit(context, 16)
    (chunk,) = rows.chunks_of(context, audit.id)

    def too_late(*_: object) -> list[RecordedScore]:
        with context.sessions.begin() as session:
            lifecycle.cancel(session, audit.id)
            if end == "deleted":
                session.execute(delete(Audit))
        raise error

    monkeypatch.setattr(runner, "_score", too_late)
    if error is SystemExit:
        with pytest.raises(SystemExit):
            runner.score_chunk(chunk.id)
    else:
        runner.score_chunk(chunk.id)
    with context.sessions.begin() as session:
        states = list(session.scalars(select(Audit.state)))
    assert states == (["cancelled"] if end == "cancelled" else [])


def test_summary_that_fails_once_is_made_later(
    context: Context, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = rows.request_audit(context, 16)

    def broken(*_: object, **__: object) -> None:
        raise MemoryError

    succeeding(runner, monkeypatch)
    monkeypatch.setattr("service.chunks.summarize", broken)
    runner.score_chunk(rows.chunks_of(context, audit.id)[0].id)
    failed = rows.audit_of(context, audit.id)
    assert (failed.state, failed.lease_owner) == ("finalising", None)
    monkeypatch.setattr("service.chunks.summarize", summarize)
    runner.finalise_audit(audit.id)
    ended = rows.audit_of(context, audit.id)
    assert (ended.state, ended.finalise_attempts) == ("succeeded", 2)


def test_summary_whose_message_was_lost_is_made_before_the_next_chunk(
    context: Context, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the messages of a long audit it would wait for all of its chunks."""
    scored, long = rows.request_audit(context, 16), rows.request_audit(context, 16 * 3)
    rows.score_all(context, scored.id)
    with context.sessions.begin() as session:
        session.execute(update(Audit).where(Audit.id == scored.id).values(enqueued_at=None))
    succeeding(runner, monkeypatch)
    runner.score_chunk(rows.chunks_of(context, long.id)[0].id)
    assert rows.audit_of(context, scored.id).state == "succeeded"
    assert [chunk.state for chunk in rows.chunks_of(context, long.id)] == ["done", "queued", "queued"]


def test_summary_that_was_just_announced_is_left_to_its_message(context: Context) -> None:
    audit = rows.request_audit(context, 16)
    rows.score_all(context, audit.id)
    with context.sessions.begin() as session:
        assert chunks.first_unsummarised(session) is None


def test_worker_that_fails_again_and_again_pauses_longer_each_time(
    context: Context, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("worker.run.MAX_PAUSE_SECONDS", 30)
    monkeypatch.setattr("worker.run.time.sleep", pauses.append)

    def fail(*_: object) -> None:
        raise RuntimeError("a broken driver")

    audits = [rows.request_audit(context, 16) for _ in range(7)]
    monkeypatch.setattr(runner, "_score", fail)
    for audit in audits[:6]:
        runner.score_chunk(rows.chunks_of(context, audit.id)[0].id)
    assert pauses == [2, 4, 8, 16, 30, 30]
    succeeding(runner, monkeypatch)
    runner.score_chunk(uuid.uuid4())
    monkeypatch.setattr(runner, "_score", fail)
    make_available(context)
    runner.score_chunk(uuid.uuid4())
    assert pauses[6:] == [2]


def test_database_that_is_away_does_not_count_as_a_try(
    context: Context, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise OperationalError("SELECT 1", {}, Exception("the connection broke"))

    monkeypatch.setattr(runner, "_score", away)
    audit = rows.request_audit(context, 16)
    for _ in range(context.settings.max_attempts + 1):
        make_available(context)
        runner.score_chunk(rows.chunks_of(context, audit.id)[0].id)
    (chunk,) = rows.chunks_of(context, audit.id)
    assert (chunk.state, chunk.attempts, chunk.failure_code) == ("queued", 0, "internal-error")
    assert rows.audit_of(context, audit.id).state == "running"


def test_order_of_delivery_does_not_matter(context: Context, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = rows.request_audit(context)
    succeeding(runner, monkeypatch)
    assert [task for task, _ in messages(context.settings)].count(SCORE_CHUNK) == 3
    for chunk in reversed(rows.chunks_of(context, audit.id)):
        runner.score_chunk(chunk.id)
    assert rows.audit_of(context, audit.id).state == "succeeded"
    assert [row.position for row in scores_of(context, audit.id)] == list(range(40))


def test_check_that_waits_goes_before_the_next_chunk(
    context: Context, setting: Setting, target_file: EncoderFile
) -> None:
    """Behind the messages of a long audit it would wait for all of its chunks."""
    audit = setting.request(chunk_seconds=SMALL)
    clear(context.settings)
    encoder = driver.upload_encoder(context, target_file, "waiting")
    clear(context.settings)
    runner = Runner(context.settings, "test:1", Board())
    try:
        runner.score_chunk(rows.chunks_of(context, audit.id)[0].id)
    finally:
        runner.context.close()
    with context.sessions.begin() as session:
        assert session.get_one(Encoder, encoder.id).state == "ready"
    assert [chunk.state for chunk in rows.chunks_of(context, audit.id)] == ["done", "queued", "queued"]


# Encoders of one file


def test_audit_reads_each_branch_as_its_check_did(
    context: Context, setting: Setting, drain: Drain, material: Material, tmp_path: Path
) -> None:
    """Target and reference from one file: were the branch not heeded, both would be the teacher, and every score 0."""
    path = save_torch(dino().content, tmp_path / "dino.pth")
    none: dict[str, object] = {"architecture": None, "input_size": None, "mean": [], "std": []}
    options = {"num_heads": 6}
    teacher = driver.upload_encoder(context, EncoderFile(path), "teacher", **none)
    student = driver.upload_encoder(context, EncoderFile(path), "student", **none, branch="student", options=options)
    drain()
    audit = setting.request(target_ids=[teacher.id], reference_ids=[student.id])
    drain()
    assert rows.audit_of(context, audit.id).state == "succeeded"
    found = {row.sample: row.score for row in scores_of(context, audit.id)}
    assert all(score for score in found.values())
    target, reference = load_checkpoint(path), load_checkpoint(path, branch="student", options=options)
    spec = ScoreSpec.model_validate(rows.audit_of(context, audit.id).spec)
    with open_dataset(material.archive) as dataset:
        samples = read_samples(dataset, sorted(material.paths))
        wanted = [
            row for batch in score([target], [reference], samples, spec, device=pick_device("cpu")) for row in batch
        ]
    assert found == {row.name: row.score for row in wanted}
