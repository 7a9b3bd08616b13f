"""Scores, summary and report over HTTP."""

import csv
import io
import json
from typing import Any

import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from models.audit import Audit
from models.dataset import Dataset
from service.context import Context
from sslmem.report.rows import CSV_COLUMNS
from tests.support import rows
from tests.support.materials import png, zip_of
from tests.support.problems import problem

NUM_SAMPLES = 100


@pytest.fixture
def audit(context: Context) -> Audit:
    return rows.succeeded_audit(context, NUM_SAMPLES)


def pages(client: TestClient, audit: Audit, **params: str | int) -> list[dict[str, Any]]:
    """All rows of a listing, page by page."""
    found: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        page = client.get(f"/v1/audits/{audit.id}/scores", params={"limit": 30, **params, **cursor}).json()
        found += page["items"]
        if page["next_cursor"] is None:
            return found
        assert len(page["items"]) == params.get("limit", 30)
        cursor = {"cursor": page["next_cursor"]}


def test_pages_hold_every_sample_once(client: TestClient, audit: Audit) -> None:
    assert [row["sample"] for row in pages(client, audit)] == rows.sample_paths(NUM_SAMPLES)


def test_pages_are_sorted_either_way_by_score(client: TestClient, audit: Audit) -> None:
    upwards = [row["score"] for row in pages(client, audit, sort="score")]
    downwards = [row["score"] for row in pages(client, audit, sort="-score", limit=7)]
    assert upwards == sorted(upwards) == downwards[::-1]
    assert len(upwards) == 95


def test_pages_are_filtered_by_role(client: TestClient, audit: Audit) -> None:
    for role in ("shared", "candidate", "independent", "external"):
        found = pages(client, audit, role=role, sort="-score", limit=10)
        assert {row["role"] for row in found} == {role}
    problem(client.get(f"/v1/audits/{audit.id}/scores", params={"role": "member"}), 422, "request-invalid")


def test_skipped_sample_has_a_reason_and_no_score(client: TestClient, audit: Audit) -> None:
    skipped = [row for row in pages(client, audit) if row["skipped"]]
    assert len(skipped) == 5
    assert skipped[0]["skipped"] == "image-undecodable: damaged"
    assert skipped[0]["score"] is None


def test_unknown_order_is_invalid(client: TestClient, audit: Audit) -> None:
    problem(client.get(f"/v1/audits/{audit.id}/scores", params={"sort": "role"}), 422, "request-invalid")


def test_hostile_cursor_is_a_clients_mistake(client: TestClient, audit: Audit) -> None:
    for sort in ("sample", "score", "-score"):
        for cursor in ("!", "AAAA", "bnVsbA", "WzEsMl0", "WyJzYW1wbGUiLCJ4Il0", "WyJzYW1wbGUiLDFlOTk5XQ", "\0"):
            response = client.get(f"/v1/audits/{audit.id}/scores", params={"sort": sort, "cursor": cursor})
            problem(response, 400, "invalid-request")


def numbers(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the API as CSV has it: single values alone."""
    return {key: value for key, value in row.items() if not key.endswith(("_targets", "_references"))}


def test_csv_agrees_with_the_pages(client: TestClient, audit: Audit) -> None:
    response = client.get(f"/v1/audits/{audit.id}/scores.csv")
    assert response.headers["Content-Type"].startswith("text/csv")
    assert response.headers["Content-Disposition"] == f'attachment; filename="scores-{audit.id}.csv"'
    table = list(csv.DictReader(io.StringIO(response.text)))
    assert tuple(table[0]) == CSV_COLUMNS
    texts = ("sample", "role", "sample_key", "skipped")
    typed = [
        {key: (value or None) if key in texts else float(value) if value else None for key, value in row.items()}
        for row in table
    ]
    assert typed == [numbers(r) for r in pages(client, audit)]


def test_parquet_agrees_with_the_pages_and_carries_the_summary(client: TestClient, audit: Audit) -> None:
    response = client.get(f"/v1/audits/{audit.id}/scores.parquet")
    assert response.headers["Content-Type"] == "application/vnd.apache.parquet"
    table = pq.read_table(io.BytesIO(response.content))
    assert table.to_pylist() == pages(client, audit)
    metadata = table.schema.metadata
    assert metadata[b"sslmem.spec_digest"].decode() == audit.spec_digest
    assert json.loads(metadata[b"sslmem.summary"]) == client.get(f"/v1/audits/{audit.id}/summary").json()


def test_z_is_the_score_in_standard_deviations_of_the_external_samples(client: TestClient, audit: Audit) -> None:
    null = client.get(f"/v1/audits/{audit.id}/summary").json()["null"]
    table = pq.read_table(io.BytesIO(client.get(f"/v1/audits/{audit.id}/scores.parquet").content)).to_pylist()
    for row in table:
        if row["score"] is None:
            assert row["z"] is None
        else:
            assert row["z"] == pytest.approx((row["score"] - null["mean"]) / null["standard_deviation"])


def test_summary_answers_in_one_sentence(client: TestClient, audit: Audit) -> None:
    summary = client.get(f"/v1/audits/{audit.id}/summary").json()
    assert summary["finding"]["code"] == "memorization-found"
    assert (summary["num_samples"], summary["num_skipped"]) == (100, 5)
    assert [row["role"] for row in summary["roles"]] == ["shared", "candidate", "independent", "external"]
    highest = pages(client, audit, sort="-score", limit=10)[:10]
    assert [row["sample"] for row in summary["most_memorized"]] == [row["sample"] for row in highest]


def test_report_is_one_file_that_needs_nothing_else(client: TestClient, context: Context, audit: Audit) -> None:
    archive = zip_of({path: png(i) for i, path in enumerate(rows.sample_paths(NUM_SAMPLES))})
    with context.sessions.begin() as session:
        session.execute(update(Dataset).values(artifact_digest=rows.store(context, archive)))
        session.execute(update(Audit).values(name="<b>mine & yours</b>"))
    response = client.get(f"/v1/audits/{audit.id}/report")
    assert response.headers["Content-Type"].startswith("text/html")
    assert "Memorization found" in response.text
    assert "data:image/png;base64," in response.text
    assert "&lt;b&gt;mine &amp; yours" in response.text
    assert "<b>mine" not in response.text
    assert "<script" not in response.text
    assert "http://" not in response.text.replace("http://www.w3.org", "")


def test_report_without_its_images_says_what_is_missing(client: TestClient, audit: Audit) -> None:
    problem(client.get(f"/v1/audits/{audit.id}/report"), 404, "artifact-not-found")
