"""What an audit found: aggregates, contrasts, the finding, extremes, skipped samples, histogram."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sslmem.report.columns import ScoreColumns
from sslmem.report.rows import ScoreRow
from sslmem.report.statistics import auc_interval, welch_interval
from sslmem.report.summary import NUM_BINS, NUM_EXTREMES, NUM_SKIPPED_SHOWN, PERCENTILES, Summary, summarize
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
)


def summary_of(rows: list[ScoreRow]) -> Summary:
    return summarize(rows, SPEC, target_digests=["sha256:t"], reference_digests=["sha256:r1", "sha256:r2"])


def drawn(role: str, mean: float, count: int = 20, seed: int = 0) -> list[ScoreRow]:
    scores = np.random.default_rng(seed).normal(mean, 0.05, count)
    return [row(f"{role}-{i:03}.png", role, float(score)) for i, score in enumerate(scores)]


MEMORIZED = [*drawn("candidate", 0.3), *drawn("shared", 0.0, seed=1), *drawn("external", 0.0, seed=2)]


def test_summary_says_what_determined_the_scores() -> None:
    found = summary_of(MEMORIZED)
    assert found.spec == SPEC
    assert found.spec_digest == SPEC.digest
    assert found.target_digests == ["sha256:t"]
    assert found.reference_digests == ["sha256:r1", "sha256:r2"]
    assert found.schema_version == 1


@given(ROWS)
def test_summary_reads_back_from_its_json(rows: list[ScoreRow]) -> None:
    found = summary_of(rows)
    assert Summary.model_validate_json(found.model_dump_json()) == found


@given(ROWS)
def test_every_sample_is_counted_once(rows: list[ScoreRow]) -> None:
    found = summary_of(rows)
    assert found.num_samples == len(rows)
    assert found.num_skipped == sum(r.score is None for r in rows)
    assert sum(r.n for r in found.roles) == len(rows) - found.num_skipped
    assert sum(r.num_skipped for r in found.roles) == found.num_skipped
    assert sum(sum(counts) for counts in found.histogram.counts.values()) == len(rows) - found.num_skipped


@given(ROWS)
def test_summary_does_not_depend_on_the_order_of_distinct_rows(rows: list[ScoreRow]) -> None:
    distinct = list({r.sample: r for r in rows if r.score is not None}.values())
    found, again = summary_of(distinct), summary_of(distinct[::-1])
    assert again.most_memorized == found.most_memorized
    assert again.least_memorized == found.least_memorized
    assert again.finding.code == found.finding.code
    assert again.histogram == found.histogram


def test_roles_come_in_their_order_with_their_aggregates() -> None:
    others = [row("x", None, 0.1), row("y", "candidate", None)]
    found = summary_of([*drawn("external", 0), *drawn("candidate", 0.3), *others])
    assert [r.role for r in found.roles] == ["candidate", "external", "unassigned"]
    candidate = found.roles[0]
    scores = np.array([r.score for r in drawn("candidate", 0.3)], dtype=float)
    assert (candidate.n, candidate.num_skipped) == (20, 1)
    assert candidate.mean_score == pytest.approx(scores.mean())
    assert candidate.standard_error == pytest.approx(scores.std(ddof=1) / 20**0.5)
    assert candidate.mean_score_bounded == pytest.approx(scores.mean() / 2)
    assert candidate.mean_alignment_target == pytest.approx(1 - scores.mean() / 2)
    assert candidate.mean_alignment_reference == pytest.approx(1 + scores.mean() / 2)
    assert found.roles[2].standard_error is None


def test_role_of_skipped_samples_alone_has_no_numbers() -> None:
    found = summary_of([row("a", "shared", None)]).roles[0]
    assert (found.n, found.num_skipped, found.mean_score, found.standard_error) == (0, 1, None, None)


# Contrasts and the null


def test_contrasts_are_those_of_the_roles_against_the_externals() -> None:
    found = summary_of([*MEMORIZED, *drawn("independent", -0.2, seed=3)])
    assert [(c.role, c.against) for c in found.contrasts] == [
        ("candidate", "external"),
        ("shared", "external"),
        ("independent", "external"),
    ]
    ours, theirs = (
        np.array([r.score for r in MEMORIZED if r.role == role], dtype=float) for role in ("candidate", "external")
    )
    assert found.contrasts[0].difference == welch_interval(ours, theirs)
    assert found.contrasts[0].auc == auc_interval(ours, theirs)


def test_contrast_needs_two_scored_samples_on_each_side() -> None:
    rows = [*drawn("external", 0, 2), row("a", "candidate", 0.1), row("b", "candidate", None), *drawn("shared", 0, 2)]
    assert [c.role for c in summary_of(rows).contrasts] == ["shared"]


def test_null_is_that_of_the_externals() -> None:
    found = summary_of(MEMORIZED)
    scores = np.array([r.score for r in MEMORIZED if r.role == "external"], dtype=float)
    assert found.scales.null == pytest.approx((scores.mean(), scores.std(ddof=1)))


@pytest.mark.parametrize("externals", [[], [row("e", "external", 0.1)], [row("e", "external", None)] * 3])
def test_without_two_externals_there_is_no_null(externals: list[ScoreRow]) -> None:
    found = summary_of([*drawn("candidate", 0.3), *externals])
    assert found.null is None
    assert found.scales.null is None


# The finding


def test_memorization_is_found_where_candidates_score_above_externals() -> None:
    finding = summary_of(MEMORIZED).finding
    assert finding.code == "memorization-found"
    assert finding.sentence.startswith("Memorization found: ")
    assert "candidates minus externals +0.2933" in finding.sentence
    assert "AUC 1.000" in finding.sentence


@pytest.mark.parametrize(("seed", "sign"), [(0, "-"), (1, "+")])
def test_nothing_memorized_is_an_answer_on_either_side_of_zero(seed: int, sign: str) -> None:
    finding = summary_of([*drawn("candidate", 0.0, seed=seed), *drawn("external", 0.0, seed=1 - seed)]).finding
    assert finding.code == "no-memorization-found"
    assert "not distinguishable from zero" in finding.sentence
    assert f"candidates minus externals {sign}0.0" in finding.sentence


def test_candidates_below_the_externals_are_no_memorization() -> None:
    finding = summary_of([*drawn("candidate", -0.3), *drawn("external", 0.0, seed=1)]).finding
    assert finding.code == "no-memorization-found"
    assert "candidates score below externals" in finding.sentence


def test_high_scores_of_candidates_are_no_memorization_when_externals_score_as_high() -> None:
    finding = summary_of([*drawn("candidate", 0.5), *drawn("external", 0.5, seed=1)]).finding
    assert finding.code == "no-memorization-found"


@pytest.mark.parametrize(
    ("rows", "counts"),
    [
        ([], "0 candidate and 0 external"),
        (drawn("shared", 0.1), "0 candidate and 0 external"),
        (drawn("candidate", 0.1), "20 candidate and 0 external"),
        ([*drawn("candidate", 0.1, 1), *drawn("external", 0.1)], "1 candidate and 20 external"),
        ([row(f"{i}", None, 0.1 * i) for i in range(5)], "0 candidate and 0 external"),
        ([row("a", "candidate", None)] * 3, "0 candidate and 0 external"),
    ],
)
def test_too_few_samples_leave_it_undecided(rows: list[ScoreRow], counts: str) -> None:
    finding = summary_of(rows).finding
    assert finding.code == "undecided"
    assert counts in finding.sentence


# Extremes


def test_extremes_are_those_of_the_candidates() -> None:
    found = summary_of([*MEMORIZED, row("loud.png", "shared", 9.0), row("low.png", "external", -9.0)])
    assert found.extremes_of == "candidate"
    assert {s.role for s in [*found.most_memorized, *found.least_memorized]} == {"candidate"}


def test_without_candidates_extremes_are_those_of_all() -> None:
    found = summary_of([row("a", "shared", 0.1), row("b", "external", 0.3), row("c", None, 0.2)])
    assert found.extremes_of is None
    assert [s.sample for s in found.most_memorized] == ["b", "c", "a"]
    assert [s.sample for s in found.least_memorized] == ["a", "c", "b"]


def test_extremes_come_in_order_and_are_few() -> None:
    found = summary_of(MEMORIZED)
    scores = sorted((r.score for r in MEMORIZED if r.role == "candidate" and r.score is not None), reverse=True)
    assert [s.score for s in found.most_memorized] == scores[:NUM_EXTREMES]
    assert [s.score for s in found.least_memorized] == scores[::-1][:NUM_EXTREMES]


def test_extremes_of_equal_score_come_in_the_order_of_their_names() -> None:
    found = summary_of([row(name, "candidate", 0.5) for name in ("c", "a", "b")])
    assert [s.sample for s in found.most_memorized] == ["a", "b", "c"]


def test_score_of_zero_is_a_score() -> None:
    found = summary_of([row("a", "candidate", 0.0), row("b", "candidate", -1.0)])
    assert [(s.sample, s.score) for s in found.most_memorized] == [("a", 0.0), ("b", -1.0)]


def test_extreme_carries_its_standard_error() -> None:
    assert summary_of([row("a", "candidate", 0.5, error=0.02)]).most_memorized[0].standard_error == 0.02


# Skipped samples


def test_skipped_samples_are_shown_with_their_reasons_up_to_a_number() -> None:
    rows = [row(f"{i}.png", "candidate", None) for i in range(30)]
    found = summary_of(rows)
    assert found.num_skipped == 30
    assert [s.sample for s in found.skipped] == [r.sample for r in rows[:NUM_SKIPPED_SHOWN]]
    assert found.skipped[0].reason == "image-undecodable: it is no image"


# Histogram


def test_histogram_has_common_bins_over_all_scores() -> None:
    found = summary_of(MEMORIZED).histogram
    scores = [r.score for r in MEMORIZED if r.score is not None]
    assert len(found.edges) == NUM_BINS + 1
    assert (found.edges[0], found.edges[-1]) == (min(scores), max(scores))
    assert set(found.counts) == {"candidate", "shared", "external"}
    assert all(len(counts) == NUM_BINS for counts in found.counts.values())


def test_histogram_of_one_value_has_a_width() -> None:
    found = summary_of([row("a", "shared", 0.25)] * 3).histogram
    assert (found.edges[0], found.edges[-1]) == (-0.25, 0.75)
    assert sum(found.counts["shared"]) == 3


def test_histogram_of_nothing_is_empty() -> None:
    found = summary_of([row("a", "shared", None)]).histogram
    assert (found.edges, found.counts) == ([], {})


@given(ROWS)
def test_columns_give_what_row_by_row_gives(rows: list[ScoreRow]) -> None:
    found = summary_of(rows)
    assert (
        summarize(
            ScoreColumns.of(rows), SPEC, target_digests=["sha256:t"], reference_digests=["sha256:r1", "sha256:r2"]
        )
        == found
    )
    groups: dict[str, list[ScoreRow]] = {}
    for r in rows:
        groups.setdefault(r.role or "unassigned", []).append(r)
    assert {r.role: (r.n, r.num_skipped, r.mean_score, r.standard_error) for r in found.roles} == {
        role: naive_role(group) for role, group in groups.items()
    }
    candidates = any(r.role == "candidate" and r.score is not None for r in rows)
    shown = [r for r in rows if r.score is not None and (r.role == "candidate" or not candidates)]
    shown.sort(key=lambda r: (-(r.score or 0.0), r.sample))
    for extremes, expected in ((found.most_memorized, shown), (found.least_memorized, shown[::-1])):
        assert [(s.sample, s.role, s.score, s.score_bounded, s.standard_error) for s in extremes] == [
            (r.sample, r.role, r.score, r.score_bounded, r.standard_error) for r in expected[:NUM_EXTREMES]
        ]
    assert [(s.sample, s.role, s.reason) for s in found.skipped] == [
        (r.sample, r.role, r.skipped) for r in rows if r.skipped is not None
    ][:NUM_SKIPPED_SHOWN]


def naive_role(rows: list[ScoreRow]) -> tuple[int, int, float | None, float | None]:
    scores = np.array([r.score for r in rows if r.score is not None])
    n = len(scores)
    mean = float(scores.mean()) if n else None
    return n, len(rows) - n, mean, float(scores.std(ddof=1) / np.sqrt(n)) if n > 1 else None


@given(ROWS)
def test_percentiles_are_those_of_the_roles_scores(rows: list[ScoreRow]) -> None:
    for role in summary_of(rows).roles:
        scores = [r.score for r in rows if (r.role or "unassigned") == role.role and r.score is not None]
        if not scores:
            assert role.percentiles is None
            continue
        assert role.percentiles is not None
        assert role.percentiles == {p: pytest.approx(float(np.percentile(scores, p))) for p in PERCENTILES}


def test_summary_of_an_earlier_version_is_read() -> None:
    old = summary_of(MEMORIZED).model_dump(mode="json")
    for role in old["roles"]:
        del role["percentiles"]
    assert [role.percentiles for role in Summary.model_validate(old).roles] == [None] * 3
