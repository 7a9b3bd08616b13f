"""What the worker records of the engine besides the scores."""

import pytest

from service.context import Context
from tests.integration.worker.conftest import Drain, Setting
from tests.integration.worker.test_scoring import SMALL, scores_of
from tests.support import rows


def test_conditions_are_recorded_with_each_chunk_and_in_the_summary(
    context: Context, setting: Setting, drain: Drain
) -> None:
    audit = setting.request(chunk_seconds=SMALL)
    drain()
    found = [chunk.conditions for chunk in rows.chunks_of(context, audit.id)]
    assert len(found) == 3
    assert all(one is not None and one["precision"] == "float32" and one["device"] == "cpu" for one in found)
    summary = rows.audit_of(context, audit.id).summary
    assert summary is not None
    assert summary["conditions"] == [found[0]]


def test_each_encoders_alignment_and_the_number_of_views_are_stored(
    context: Context, setting: Setting, drain: Drain
) -> None:
    audit = setting.request()
    drain()
    for row in scores_of(context, audit.id):
        assert row.alignment_targets == [row.alignment_target]
        assert row.alignment_references == [row.alignment_reference]
        assert row.num_views == audit.spec["views"]
        assert row.reference_spread is None


def test_tensor_that_the_encoder_lacks_ends_the_audit_with_the_reason(
    context: Context, setting: Setting, drain: Drain
) -> None:
    audit = setting.request(spec={"views": 4, "representation": "cls"})
    drain()
    ended = rows.audit_of(context, audit.id)
    assert (ended.state, ended.failure_code) == ("failed", "spec-invalid")
    assert "no class token" in (ended.failure_detail or "")


def test_convention_divides_by_the_range_over_all_roles(context: Context, setting: Setting, drain: Drain) -> None:
    audit = setting.request(spec={"compat": "paper"})
    drain()
    scores = [row.score for row in scores_of(context, audit.id) if row.score is not None]
    summary = rows.audit_of(context, audit.id).summary
    assert summary is not None
    assert summary["compat"]["divisor"] == pytest.approx(max(scores) - min(scores))
