"""Audits in a notebook."""

from collections.abc import Iterator

import pytest

from service.context import Context
from sslmem.client.notebook import Audits
from sslmem.errors import AuditTakesLonger, RequestRefused
from tests.support import rows


@pytest.fixture
def audits(url: str, token: str) -> Iterator[Audits]:
    with Audits(url, token) as audits:
        yield audits


def test_scores_are_an_arrow_table_with_a_row_per_sample(audits: Audits, context: Context) -> None:
    audit = audits.get(str(rows.succeeded_audit(context, 40).id)).wait(timeout=10)
    table = audit.scores()
    assert table.column("sample").to_pylist() == rows.sample_paths(40)
    assert b"sslmem.summary" in table.schema.metadata


def test_summary_and_evidence_are_of_the_audit(audits: Audits, context: Context) -> None:
    audit = audits.get(str(rows.succeeded_audit(context, 40).id))
    assert audit.summary()["num_samples"] == 40
    assert audit.evidence(confidence=0.9)["metrics"]["candidate.auc"]["confidence"] == 0.9


def test_scores_are_plotted_by_role(audits: Audits, context: Context) -> None:
    picture = audits.get(str(rows.succeeded_audit(context, 40).id)).plot()
    assert picture.svg.startswith("<svg")
    assert all(f">{role}</text>" in picture.svg for role in ("candidate", "external"))


def test_audit_is_requested_and_waited_for(audits: Audits, context: Context) -> None:
    paths = rows.sample_paths(8)
    with context.sessions.begin() as session:
        target, reference = (rows.add_encoder(session, name) for name in ("target", "reference"))
        dataset = rows.add_dataset(session, paths)
        roles = rows.add_roles(session, dataset, paths)
    audit = audits.request(
        targets=[str(target.id)], references=[str(reference.id)], dataset=str(dataset.id), roles=str(roles.id), views=4
    )
    assert audit.state()["spec"]["views"] == 4
    seen: list[str] = []
    with pytest.raises(AuditTakesLonger, match="is queued after 0 seconds; it goes on"):
        audit.wait(timeout=0, progress=lambda state: seen.append(state["state"]))
    assert seen == ["queued"]


def test_failed_audit_is_refused_with_its_reason(audits: Audits, context: Context) -> None:
    audit = rows.request_audit(context)
    rows.fail_first_chunk(context, audit.id)
    with pytest.raises(RequestRefused, match=r"Something odd. \[odd\]"):
        audits.get(str(audit.id)).wait()
