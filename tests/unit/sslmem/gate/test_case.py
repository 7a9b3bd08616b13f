"""What a server sends becomes a case, or is refused."""

import pytest

from sslmem.errors import EvidenceError
from sslmem.gate.case import make_case
from tests.unit.cases import AUC, FILE, OTHER, TARGET, evidence, summary

GOOD = {AUC: (0.5, 0.52, 0.54)}


def test_counts_come_from_the_summary() -> None:
    case = make_case(evidence(GOOD), summary(num_skipped=3))
    assert (case.samples, case.num_samples, case.num_skipped) == ({"candidate": 400, "external": 400}, 800, 3)


def test_fields_of_a_later_version_are_left_alone() -> None:
    assert make_case(evidence(GOOD, something_new=1), summary(roles=[])).samples == {}


@pytest.mark.parametrize("version", [2, None, "1"])
def test_other_schema_versions_are_refused(version: object) -> None:
    with pytest.raises(EvidenceError, match="expected evidence of schema version 1"):
        make_case(evidence(GOOD, schema_version=version), summary())
    with pytest.raises(EvidenceError, match="expected summary of schema version 1"):
        make_case(evidence(GOOD), summary(schema_version=version))


@pytest.mark.parametrize("key", ["spec_digest", "target_digests", "reference_digests"])
def test_evidence_of_another_audit_is_refused(key: str) -> None:
    other = OTHER if key == "spec_digest" else [OTHER]
    with pytest.raises(EvidenceError, match="different audits"):
        make_case(evidence(GOOD, **{key: other}), summary())


@pytest.mark.parametrize("key", ["metrics", "checks", "num_references", "limits", "significant", "fdr"])
def test_evidence_that_lacks_a_field_is_refused(key: str) -> None:
    found = {name: value for name, value in evidence(GOOD).items() if name != key}
    with pytest.raises(EvidenceError, match="not of the expected form"):
        make_case(found, summary())


@pytest.mark.parametrize("key", ["roles", "num_samples", "num_skipped"])
def test_summary_that_lacks_a_field_is_refused(key: str) -> None:
    with pytest.raises(EvidenceError, match="not of the expected form"):
        make_case(evidence(GOOD), {name: value for name, value in summary().items() if name != key})


def test_interval_out_of_order_is_none() -> None:
    case = make_case(evidence({AUC: (0.5, 0.4, 0.6)}), summary())
    assert case.metrics[AUC].interval is None


def test_target_is_known_by_its_weights_and_by_its_file() -> None:
    known = make_case(evidence(GOOD), summary(), files={"target:f.pth": FILE, "dataset": OTHER})
    assert known.targets == [{TARGET, FILE}]
    assert make_case(evidence(GOOD), summary()).targets == [{TARGET}]
