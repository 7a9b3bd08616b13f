"""The two published conventions, and the two-stage fields of the spec."""

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from sslmem.errors import SpecError
from sslmem.recipe import Recipe
from sslmem.report.rows import ScoreRow, values_of
from sslmem.report.summary import summarize
from sslmem.spec import ScoreSpec


def test_paper_is_two_views_of_unnormalised_output() -> None:
    spec = ScoreSpec(compat="paper", input_size=32)
    assert (spec.views, spec.pairing, spec.distance, spec.normalize) == (2, "views", "l2", False)
    assert spec.recipe == Recipe.named("simclr").sized(32)


def test_official_code_is_original_against_five_views_of_unit_tokens() -> None:
    spec = ScoreSpec(compat="official-code", input_size=32)
    assert (spec.views, spec.pairing, spec.distance, spec.normalize) == (5, "original", "l2", True)
    assert spec.representation == "tokens"
    assert spec.recipe == Recipe.named("official-code").sized(32)


@pytest.mark.parametrize(
    "fields",
    [{"views": 10}, {"pairing": "original"}, {"normalize": True}, {"distance": "l1"}, {"refine": {"views": 64}}],
)
def test_a_convention_refuses_what_contradicts_it(fields: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="compat=paper fixes"):
        ScoreSpec(compat="paper", input_size=32, **fields)


def test_a_convention_has_a_digest_of_its_own() -> None:
    plain = ScoreSpec(views=2, normalize=False, input_size=32)
    assert plain.digest != ScoreSpec(compat="paper", input_size=32).digest


def test_a_convention_reads_back_from_its_json() -> None:
    spec = ScoreSpec(compat="official-code", input_size=32)
    assert ScoreSpec.model_validate_json(spec.canonical_json()) == spec


def test_unknown_convention_is_refused() -> None:
    with pytest.raises(ValidationError, match="paper"):
        ScoreSpec(compat="nature", input_size=32)


def test_second_stage_needs_more_views_than_the_first() -> None:
    with pytest.raises(SpecError, match="found 8 after 10"):
        ScoreSpec(views=10, refine={"views": 8}, input_size=32)


def row(name: str, role: str, score: float | None) -> ScoreRow:
    return ScoreRow(name, role, score, None, None, None, None, None if score is not None else "damaged")


def test_scores_by_a_convention_are_divided_by_the_range_over_all_roles() -> None:
    values = {"candidate": [0.3, 0.1], "external": [-0.1, 0.0], "independent": [-0.2, -0.1]}
    rows = [row(f"{role}{i}", role, v) for role, part in values.items() for i, v in enumerate(part)]
    rows.append(row("broken", "shared", None))
    summary = summarize(rows, ScoreSpec(compat="paper", input_size=32), target_digests=["f"], reference_digests=["g"])
    assert summary.compat is not None
    assert summary.compat.divisor == pytest.approx(0.5)
    assert summary.compat.mean_scores == pytest.approx({"candidate": 0.4, "independent": -0.3, "external": -0.1})
    scaled = [values_of(one, summary.scales, ["score_compat"])[0] for one in rows]
    assert scaled[-1] is None
    present = np.array(scaled[:-1], dtype=np.float64)
    assert np.ptp(present) == pytest.approx(1.0)
    assert (np.abs(present) <= 1).all()


def test_without_a_convention_nothing_is_rescaled() -> None:
    rows = [row("a", "candidate", 0.3), row("b", "external", 0.1)]
    summary = summarize(rows, ScoreSpec(input_size=32), target_digests=["f"], reference_digests=["g"])
    assert summary.compat is None
    assert values_of(rows[0], summary.scales, ["score_compat"]) == (None,)


def test_equal_scores_have_no_range_to_divide_by() -> None:
    rows = [row("a", "candidate", 0.1), row("b", "external", 0.1)]
    summary = summarize(rows, ScoreSpec(compat="paper", input_size=32), target_digests=["f"], reference_digests=["g"])
    assert summary.compat is None
