"""Evidence: what an audit's rows say, whole."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sslmem
from sslmem.report.columns import ScoreColumns
from sslmem.report.effects import Difference
from sslmem.report.evidence import Evidence, gather_evidence
from sslmem.report.rows import ScoreRow
from sslmem.report.summary import summarize
from sslmem.roles import ROLES
from sslmem.spec import ScoreSpec
from tests.unit.builders import row

SPEC = ScoreSpec(input_size=32)
ROWS = st.lists(
    st.builds(
        row,
        st.from_regex(r"[a-z]{1,3}\.png", fullmatch=True),
        st.sampled_from([*ROLES, None]),
        st.none() | st.floats(-2, 2),
    ),
    max_size=30,
    unique_by=lambda one: one.sample,
)


def evidence_of(rows: list[ScoreRow], *, references: int = 1, confidence: float = 0.95, fdr: float = 0.05) -> Evidence:
    digests = [f"sha256:g{i}" for i in range(references)]
    summary = summarize(rows, SPEC, target_digests=["sha256:f"], reference_digests=digests)
    return gather_evidence(rows, summary, confidence=confidence, fdr=fdr)


def drawn(role: str, mean: float, count: int, seed: int) -> list[ScoreRow]:
    scores = np.random.default_rng(seed).normal(mean, 0.05, count)
    return [row(f"{role}-{i:03}.png", role, float(score)) for i, score in enumerate(scores)]


EXTERNAL = drawn("external", -0.02, 1000, seed=2)
MEMORIZED = [*drawn("candidate", 0.3, 40, 0), *drawn("shared", -0.02, 30, 1), *EXTERNAL]


def test_memorized_candidates_are_found_and_listed() -> None:
    found = evidence_of(MEMORIZED)
    excess = found.metrics["candidate.excess"]
    assert excess.low < 0.32 < excess.high
    assert excess.low > 0
    assert len(found.significant) == found.metrics["candidate.num_significant"].estimate > 35
    assert found.metrics["candidate.share_significant"].estimate == len(found.significant) / 40
    assert found.tests["candidate.welch"] < 1e-6
    assert found.tests["shared.mann_whitney"] > 0.05


def test_offset_between_target_and_reference_is_no_excess() -> None:
    moved = [dataclasses.replace(one, score=(one.score or 0) + 0.5) for one in MEMORIZED]
    before, after = evidence_of(MEMORIZED), evidence_of(moved)
    assert after.metrics["external.mean_score"].estimate == pytest.approx(0.48, abs=0.01)
    for name in ("candidate.excess", "candidate.hedges_g", "candidate.auc", "candidate.tpr_at_fpr_1%"):
        assert after.metrics[name].estimate == pytest.approx(before.metrics[name].estimate)


def test_excess_is_at_the_confidence_asked_for() -> None:
    scores = [
        np.array([one.score for one in MEMORIZED if one.role == role], dtype=np.float64)
        for role in ("candidate", "external")
    ]
    found = evidence_of(MEMORIZED, confidence=0.99).metrics["candidate.excess"]
    expected = Difference.of(scores[0], scores[1]).interval(0.99)
    assert (found.low, found.estimate, found.high) == pytest.approx((expected.low, expected.estimate, expected.high))
    assert found.confidence == 0.99
    assert found.n == 40


def test_every_metric_of_a_full_audit_is_there() -> None:
    rows = [*MEMORIZED, *drawn("independent", -0.3, 30, 3)]
    of_role = ["mean_score", "mean_score_bounded", "excess", "hedges_g", "auc"]
    of_role += [f"tpr_at_fpr_{rate}" for rate in ("0.1%", "1%", "5%")]
    expected = {f"{role}.{name}" for role in ("shared", "candidate", "independent") for name in of_role}
    expected |= {"external.mean_score", "candidate.share_significant", "candidate.num_significant"}
    assert set(evidence_of(rows).metrics) == expected


def test_detection_that_the_null_is_too_small_for_is_absent_and_said() -> None:
    found = evidence_of([*drawn("candidate", 0, 40, 0), *EXTERNAL[:300]])
    assert "candidate.tpr_at_fpr_1%" in found.metrics
    assert "candidate.tpr_at_fpr_0.1%" not in found.metrics
    assert any("0.1%" in limit and "needs 1000" in limit for limit in found.limits)


def test_one_reference_is_a_limit_and_several_give_an_interval_over_models() -> None:
    assert any("rests on one reference" in limit for limit in evidence_of(MEMORIZED).limits)
    several = [
        dataclasses.replace(one, alignment_targets=(1.0,), alignment_references=(1.0 + one.score, 1.1 + one.score))
        for one in MEMORIZED
        if one.score is not None
    ]
    found = evidence_of(several, references=2)
    assert not any("one reference" in limit for limit in found.limits)
    assert found.num_references == 2
    assert found.metrics["candidate.excess_over_models"].n == 40
    assert found.uncertainty is not None
    assert found.uncertainty.combined is not None


def test_null_too_small_to_resolve_single_candidates_is_said() -> None:
    found = evidence_of([*drawn("candidate", 0, 40, 0), *EXTERNAL[:100]])
    assert any("at least 8 of 40" in limit for limit in found.limits)


@given(ROWS)
def test_whatever_the_rows_each_interval_holds_its_estimate_and_everything_is_finite(rows: list[ScoreRow]) -> None:
    found = evidence_of(rows)
    for name, metric in found.metrics.items():
        assert name == metric.name
        assert all(math.isfinite(value) for value in (metric.low, metric.estimate, metric.high))
        assert metric.low <= metric.estimate <= metric.high
    assert Evidence.model_validate_json(found.model_dump_json()) == found
    json.loads(found.model_dump_json(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@given(ROWS, st.integers(0, 1000))
def test_order_of_rows_does_not_enter(rows: list[ScoreRow], seed: int) -> None:
    shuffled = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
    summary = summarize(rows, SPEC, target_digests=["sha256:f"], reference_digests=["sha256:g"])
    assert gather_evidence(shuffled, summary) == gather_evidence(rows, summary)


def test_audit_without_a_null_compares_nothing_and_says_so() -> None:
    found = evidence_of(drawn("candidate", 0.3, 40, 0))
    assert set(found.metrics) == {"candidate.mean_score", "candidate.mean_score_bounded"}
    assert found.significant == []
    assert found.uncertainty is None
    assert any("too few to compare" in limit for limit in found.limits)


@given(ROWS)
def test_columns_are_as_good_as_rows(rows: list[ScoreRow]) -> None:
    summary = summarize(rows, SPEC, target_digests=["sha256:f"], reference_digests=["sha256:g"])
    assert gather_evidence(ScoreColumns.of(rows), summary) == gather_evidence(rows, summary)


@pytest.mark.parametrize("strange", [float("nan"), float("inf"), -float("inf")])
def test_score_that_is_no_number_is_refused_rather_than_averaged(strange: float) -> None:
    summary = summarize(MEMORIZED, SPEC, target_digests=["sha256:f"], reference_digests=["sha256:g"])
    broken = dataclasses.replace(MEMORIZED[0], score=strange)
    with pytest.raises(ValueError, match="finite"):
        gather_evidence([broken, *MEMORIZED[1:]], summary)


@pytest.mark.parametrize(("confidence", "fdr"), [(1.0, 0.05), (0.95, 0.0)])
def test_levels_outside_zero_and_one_are_refused(confidence: float, fdr: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        evidence_of(MEMORIZED, confidence=confidence, fdr=fdr)


def test_evidence_is_gathered_without_torch() -> None:
    code = "import sys, sslmem.report.evidence; sys.exit('torch' in sys.modules)"
    source = str(Path(sslmem.__file__).parents[1])
    run = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": source}, check=False)
    assert run.returncode == 0
