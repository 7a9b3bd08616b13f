"""What the database costs: ``python -m benchmarks.database``.

* Committing the scores of a chunk, against a bare COPY of the same rows by the same driver and of the same bytes made
  beforehand, each into a table without index or constraint, in turns.
* Summarising an audit, and then its summary, evidence and pages, by size.
* Bytes on the disk for each sample, indexes included, and the memory of this process at its peak.
"""

import argparse
import json
import random
import resource
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from benchmarks.servers import fresh_context, plan_audit
from service import chunks, results
from service.audits import get_audit
from service.chunks import SCORE_TYPES, RecordedScore
from service.claims import claim_next
from service.context import Context
from service.intake import copy_rows
from sslmem.roles import ROLES

COLUMNS = (
    "audit_id, position, sample, sample_key, role, score, score_bounded, standard_error, alignment_target, "
    "alignment_reference, skipped, alignment_targets, alignment_references, reference_spread, num_views"
)
PER_CHUNK = 20_000
OWNER = "benchmark"


def made_up(start: int, count: int) -> list[RecordedScore]:
    """Scores such as a worker has of one target and one reference."""
    found = []
    for position in range(start, start + count):
        dice = random.Random(position)  # noqa: S311  not for security
        score, alignment = dice.gauss(0, 0.1), dice.random()
        key = f"sha256:{dice.getrandbits(256):064x}"
        sides = (alignment, alignment + score)
        role = ROLES[position % len(ROLES)]
        found.append(
            RecordedScore(
                f"{role}/{position:08}.png",
                key,
                role,
                score,
                score / 2,
                0.01,
                *sides,
                None,
                [sides[0]],
                [sides[1]],
                None,
                10,
            )
        )
    return found


def timed(work: Callable[[], object]) -> float:
    """Seconds that something takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _record(context: Context, count: int) -> float:
    plan = claim_next(context.sessions, uuid.uuid4(), OWNER, 600)
    if plan is None:
        raise RuntimeError("there is no chunk to take")
    scores = made_up(plan.start, count)

    def work() -> None:
        with context.sessions.begin() as session:
            chunks.record_scores(session, context.queue, plan, OWNER, scores)

    return timed(work)


def _bare(context: Context, count: int, audit_id: uuid.UUID) -> tuple[float, float]:
    """Seconds of COPY by the driver, and of the same bytes as they are."""
    rows = [
        (audit_id, i, *(value for name, value in vars(score).items() if name != "skipped"))
        for i, score in enumerate(made_up(0, count))
    ]
    order = [name for name in RecordedScore.__dataclass_fields__ if name != "skipped"]
    types = dict(zip([name.strip() for name in COLUMNS.split(",")], SCORE_TYPES, strict=True))
    target = f"bare (audit_id, position, {', '.join(order)})"

    def driver() -> None:
        with context.sessions.begin() as session:
            copy_rows(session, target, rows, ["uuid", "int4", *(types[name] for name in order)])

    def prepared() -> None:
        with context.sessions.begin() as session, _cursor(session).copy("COPY bare FROM STDIN (FORMAT BINARY)") as copy:
            copy.write(made)

    by_driver = timed(driver)
    with context.sessions.begin() as session, _cursor(session).copy("COPY bare TO STDOUT (FORMAT BINARY)") as copy:
        made = b"".join(bytes(block) for block in copy)
    _empty(context)
    by_bytes = timed(prepared)
    _empty(context)
    return by_driver, by_bytes


def _cursor(session: Session) -> Any:  # noqa: ANN401  psycopg's
    driver = session.connection().connection.driver_connection
    if driver is None:
        raise RuntimeError("the session has no connection to the database")
    return driver.cursor()


def _empty(context: Context) -> None:
    with context.sessions.begin() as session:
        session.execute(text("TRUNCATE bare"))


def commit_against_copy(context: Context, turns: int, count: int) -> dict[str, Any]:
    """Rows per second of each, and the medians over the turns of the ratios."""
    audit = plan_audit(context, (turns + 2) * count, count)
    with context.sessions.begin() as session:
        session.execute(text(f"CREATE TABLE bare AS SELECT {COLUMNS} FROM scores LIMIT 0"))  # noqa: S608  a constant
    _record(context, count)
    _bare(context, count, audit.id)
    found = [(_record(context, count), *_bare(context, count, audit.id)) for _ in range(turns)]
    with context.sessions.begin() as session:
        session.execute(text("DROP TABLE bare"))
    return {
        "rows_per_chunk": count,
        "turns": turns,
        "commit_rows_per_second": count / median(one[0] for one in found),
        "copy_rows_per_second": count / median(one[1] for one in found),
        "copy_of_bytes_rows_per_second": count / median(one[2] for one in found),
        "ratio": median(one[1] / one[0] for one in found),
        "ratio_to_bytes": median(one[2] / one[0] for one in found),
    }


def by_size(context: Context, num_samples: int, per_chunk: int) -> dict[str, Any]:
    """Seconds of the end of an audit, and of what is asked of it then."""
    with context.sessions.begin() as session:  # earlier audits must not have a turn
        session.execute(text("UPDATE audits SET state = 'cancelled' WHERE state IN ('queued', 'running')"))
    audit_id = plan_audit(context, num_samples, per_chunk).id
    for start in range(0, num_samples, per_chunk):
        _record(context, min(per_chunk, num_samples - start))
    with context.sessions.begin() as session:
        session.execute(text("ANALYZE"))

    def finalise() -> None:
        with context.sessions.begin() as session:
            chunks.begin_finalising(session, audit_id, "worker", 600)
            chunks.finalise(session, audit_id, "worker")

    def evidence() -> None:
        results.evidence_of(context.sessions, audit_id, confidence=0.95, fdr=0.05)

    def summary() -> None:
        with context.sessions.begin() as session:
            results.summary_of(get_audit(session, audit_id))

    found: dict[str, Any] = {"num_samples": num_samples, "finalise": timed(finalise), "first_evidence": timed(evidence)}
    found["summary"] = median(timed(summary) for _ in range(5))
    found["evidence"] = median(timed(evidence) for _ in range(5))
    for sort in ("sample", "score", "-score"):
        for role in (None, "candidate"):
            found[f"page {sort} {role or 'all'}"] = _walk(context, audit_id, sort, role)
    return found


def _walk(context: Context, audit_id: uuid.UUID, sort: results.Sort, role: str | None) -> float:
    """Median seconds of the first pages of 100, which follow each other."""
    cursor, seconds = None, []
    for _ in range(8):
        with context.sessions.begin() as session:
            start = time.perf_counter()
            page = results.page_of_scores(session, audit_id, sort=sort, role=role, limit=100, cursor=cursor)
            seconds.append(time.perf_counter() - start)
        cursor = page.next_cursor
        if cursor is None:
            break
    return median(seconds)


# Tables that a sample has a row in before it has a score: the column of its owner, and what else it holds.
MADE_UP = {
    "dataset_samples": ("dataset_id", "looks", "decode(md5(i::text), 'hex')"),
    "role_entries": ("role_set_id", "role", "'candidate'"),
}


def bytes_of_a_sample(context: Context, count: int) -> dict[str, float]:
    """Bytes of a sample's rows by table: of its score as the audits before left it, of the others made up."""
    audit = plan_audit(context, count, count)
    owners = {"dataset_id": audit.dataset_id, "role_set_id": audit.role_set_id}
    with context.sessions.begin() as session:

        def size(table: str) -> float:
            return float(session.execute(text(f"SELECT pg_total_relation_size('{table}')")).scalar_one())

        scores = session.execute(text("SELECT count(*) FROM scores")).scalar_one()
        found = {table: size(table) / scores for table in ("scores", "score_blocks")}
        for table, (owner, column, value) in MADE_UP.items():
            before = size(table)
            made = (
                f"INSERT INTO {table} ({owner}, position, path, sample_key, {column}) SELECT :owner, i, "  # noqa: S608
                "'train/n' || lpad((i % 1000)::text, 8, '0') || '/n' || lpad(i::text, 17, '0') || '.JPEG', "
                f"'sha256:' || md5(i::text) || md5((-i)::text), {value} FROM generate_series(1, :count) AS i"
            )
            session.execute(text(made), {"owner": owners[owner], "count": count})
            found[table] = (size(table) - before) / count
    return found


def main() -> None:
    """Measures and prints; about a minute and a half."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.database", description=__doc__)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--rows", type=int, default=PER_CHUNK, help="of a chunk")
    parser.add_argument("--samples", type=int, nargs="+", default=[10_000, 1_000_000], help="sizes of audits")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    with fresh_context() as context:
        found: dict[str, Any] = {"commit": commit_against_copy(context, arguments.turns, arguments.rows)}
        found["sizes"] = [by_size(context, size, arguments.rows) for size in arguments.samples]
        found["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        found["bytes_of_a_sample"] = bytes_of_a_sample(context, 100_000)
    print(json.dumps(found, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
