"""Validity checks: what must hold before figures may decide."""

import dataclasses

import numpy as np
import pytest

from sslmem.report.checks import Check, EncoderFigures, EncoderQuality, run_checks
from sslmem.report.rows import ScoreRow
from sslmem.report.summary import Summary, summarize
from sslmem.spec import ScoreSpec
from tests.unit.builders import encoded, row, scene

IDS = [
    "enough-samples",
    "skipped-samples",
    "roles-apart",
    "few-twins",
    "reference-matches",
    "not-collapsed",
    "encoders-plausible",
]
COUNTS = {"shared": 20, "candidate": 40, "independent": 20, "external": 80}
GOOD = EncoderFigures(alignment=0.2, uniformity=-2.0, retrieval=0.8, chance=0.002)


def audit(**counts: int) -> list[ScoreRow]:
    """Sound rows: keys that differ, scores around zero."""
    generator = np.random.default_rng(0)
    return [
        dataclasses.replace(row(f"{role}-{i}.png", role, float(generator.normal(0, 0.05))), sample_key=f"{role}-{i}")
        for role, num in (COUNTS | counts).items()
        for i in range(num)
    ]


def summary_of(rows: list[ScoreRow], spec: ScoreSpec | None = None, *, target: str = "sha256:f") -> Summary:
    spec = spec or ScoreSpec(input_size=32)
    return summarize(rows, spec, target_digests=[target], reference_digests=["sha256:g"])


def checks_of(rows: list[ScoreRow], summary: Summary | None = None, **options: object) -> dict[str, Check]:
    quality, read_image = options.get("quality"), options.get("read_image")
    found = run_checks(rows, summary or summary_of(rows), quality, read_image)  # type: ignore[arg-type]
    return {check.id: check for check in found}


def quality_of(target: EncoderFigures = GOOD, reference: EncoderFigures = GOOD) -> EncoderQuality:
    return EncoderQuality(num_samples=100, targets=(target,), references=(reference,))


def changed(rows: list[ScoreRow], name: str, **changes: object) -> list[ScoreRow]:
    return [dataclasses.replace(one, **changes) if one.sample == name else one for one in rows]  # type: ignore[arg-type]


def test_sound_audit_passes_all_checks() -> None:
    found = checks_of(audit(), quality=quality_of())
    assert list(found) == IDS
    assert {check.status for check in found.values()} == {"ok"}


def test_audit_of_nothing_passes_no_check_that_needs_samples() -> None:
    found = checks_of([])
    assert list(found) == IDS
    assert found["enough-samples"].status == "failed"
    for name in ("roles-apart", "reference-matches", "not-collapsed"):
        assert found[name].status == "unknown"


@pytest.mark.parametrize(("role", "few"), [("candidate", 19), ("external", 49)])
def test_too_few_samples_of_a_role_fail(role: str, few: int) -> None:
    check = checks_of(audit(**{role: few}))["enough-samples"]
    assert check.status == "failed"
    assert f"{role}: expected at least {few + 1}, found {few}" in check.detail


def test_skipped_samples_fail_only_over_the_tolerance() -> None:
    rows = audit()
    for i in range(2):
        rows = changed(rows, f"candidate-{i}.png", score=None, skipped="image-undecodable")
    assert checks_of(rows)["skipped-samples"].status == "ok"
    rows = changed(rows, "candidate-2.png", score=None, skipped="image-undecodable")
    assert checks_of(rows)["skipped-samples"].status == "failed"
    assert "candidate: 3 of 40" in checks_of(rows)["skipped-samples"].detail


def test_image_in_two_roles_fails_and_is_named() -> None:
    check = checks_of(changed(audit(), "external-3.png", sample_key="candidate-7"))["roles-apart"]
    assert check.status == "failed"
    assert "candidate-7.png = external-3.png" in check.detail


def test_roles_and_twins_are_unknown_without_sample_keys() -> None:
    found = checks_of([dataclasses.replace(one, sample_key=None) for one in audit()])
    assert (found["roles-apart"].status, found["few-twins"].status) == ("unknown", "unknown")


def test_candidates_with_equal_files_fail_over_the_tolerance() -> None:
    rows = changed(audit(), "candidate-1.png", sample_key="candidate-0")
    check = checks_of(rows)["few-twins"]
    assert (check.status, "found 2 of 40" in check.detail) == ("ok", True)
    check = checks_of(changed(rows, "candidate-2.png", sample_key="candidate-0"))["few-twins"]
    assert (check.status, "found 3 of 40" in check.detail) == ("failed", True)


def test_near_duplicates_fail_where_images_can_be_read() -> None:
    rows = audit()
    images = {one.sample: encoded(scene(40, 40, i)) for i, one in enumerate(rows)}
    assert checks_of(rows, read_image=images.__getitem__)["few-twins"].status == "ok"
    for i in range(3):
        images[f"external-{i}.png"] = encoded(
            np.kron(scene(40, 40, 20 + i), np.ones((2, 2, 1), np.uint8))
        )  # candidates, twice as large
    check = checks_of(rows, read_image=images.__getitem__)["few-twins"]
    assert check.status == "failed"
    assert "candidate-0.png" in check.detail


def test_reference_of_another_alignment_fails() -> None:
    rows = [dataclasses.replace(one, alignment_reference=1.4) for one in audit()]
    assert checks_of(rows)["reference-matches"].status == "failed"


def test_reference_that_tells_images_apart_worse_fails_even_if_alignment_is_alike() -> None:
    worse = GOOD.model_copy(update={"retrieval": 0.4})
    for quality in (quality_of(GOOD, worse), quality_of(worse, GOOD)):
        check = checks_of(audit(), quality=quality)["reference-matches"]
        assert check.status == "failed"
        assert "0.800" in check.detail
        assert "0.400" in check.detail


def test_unmeasured_quality_is_said() -> None:
    assert "not measured" in checks_of(audit())["reference-matches"].detail


def test_alignment_near_zero_is_collapse() -> None:
    rows = [dataclasses.replace(one, alignment_target=2e-4) for one in audit()]
    assert checks_of(rows)["not-collapsed"].status == "failed"


def test_one_point_for_all_images_is_collapse_whatever_the_alignment() -> None:
    flat = GOOD.model_copy(update={"uniformity": -1e-4})
    assert checks_of(audit(), quality=quality_of(reference=flat))["not-collapsed"].status == "failed"


def test_collapse_is_unknown_where_distances_have_no_scale() -> None:
    rows = audit()
    summary = summary_of(rows, ScoreSpec(input_size=32, normalize=False))
    assert checks_of(rows, summary)["not-collapsed"].status == "unknown"
    assert checks_of(rows, summary, quality=quality_of())["not-collapsed"].status == "ok"


def test_reference_that_is_the_target_fails() -> None:
    rows = audit()
    check = checks_of(rows, summary_of(rows, target="sha256:g"))["encoders-plausible"]
    assert check.status == "failed"
    assert "also a reference" in check.detail


@pytest.mark.parametrize(("spread", "status"), [(1e-4, "failed"), (0.004, "failed"), (0.02, "ok"), (1.0, "ok")])
def test_reference_that_aligns_every_image_as_the_target_does_fails(spread: float, status: str) -> None:
    """A copy of the target, saved in another precision, has other digests, and finds nothing memorized."""
    rows = audit()
    scores = np.array([one.score for one in rows], dtype=np.float64)
    scale = spread * float(np.mean([one.alignment_reference or 0 for one in rows])) / scores.std()
    alike = [dataclasses.replace(one, score=(one.score or 0) * scale) for one in rows]
    check = checks_of(alike)["encoders-plausible"]
    assert check.status == status
    assert ("align every image alike" in check.detail) is (status == "failed")


def test_few_scores_do_not_tell_whether_encoders_are_alike() -> None:
    rows = [dataclasses.replace(one, score=0.0) for one in audit()][:19]
    assert checks_of(rows)["encoders-plausible"].status == "ok"


def test_candidates_far_below_the_null_contradict_their_role() -> None:
    rows = [
        dataclasses.replace(one, score=(one.score or 0) - 0.1) if one.role == "candidate" else one for one in audit()
    ]
    check = checks_of(rows)["encoders-plausible"]
    assert check.status == "failed"
    assert "roles exchanged" in check.detail


def test_encoder_that_finds_nothing_again_fails() -> None:
    blind = GOOD.model_copy(update={"retrieval": 0.004})
    check = checks_of(audit(), quality=quality_of(blind, blind))["encoders-plausible"]
    assert check.status == "failed"
    assert "untrained" in check.detail
