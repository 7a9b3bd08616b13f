"""Migrations on a real database."""

import os
import subprocess
import sys
import uuid
from pathlib import Path

import psycopg
import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import inspect

from models.database import create_database_engine, metadata, session_factory
from service.migrate import MIGRATION_LOCK, alembic_config, differences, downgrade, upgrade
from service.results import page_of_scores
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]


def tables(url: str) -> set[str]:
    engine = create_database_engine(url)
    try:
        return set(inspect(engine).get_table_names())
    finally:
        engine.dispose()


def test_upgrade_downgrade_and_upgrade_again_leave_the_same_tables(empty_database_url: str) -> None:
    upgrade(empty_database_url)
    first = tables(empty_database_url)
    assert first == set(metadata.tables) | {"alembic_version"}
    downgrade(empty_database_url)
    assert tables(empty_database_url) == {"alembic_version"}
    upgrade(empty_database_url)
    assert tables(empty_database_url) == first


def test_downgrade_leaves_no_index_sequence_or_type_behind(empty_database_url: str) -> None:
    upgrade(empty_database_url)
    downgrade(empty_database_url)
    with psycopg.connect(empty_database_url) as connection:
        left = connection.execute(
            "SELECT relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace "
            "WHERE nspname = 'public' AND relname NOT LIKE 'alembic_version%'"
        ).fetchall()
    assert left == []


def test_models_and_migrations_agree(database_url: str) -> None:
    assert differences(database_url) == []


def test_scores_of_an_older_version_are_paged_in_order_and_deleted_with_their_audit(empty_database_url: str) -> None:
    upgrade(empty_database_url, "0003")
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        audit, other = uuid.uuid4(), uuid.uuid4()
        for row_id, state, summary in ((audit, "succeeded", "{}"), (other, "running", None)):
            connection.execute(
                "INSERT INTO audits "
                "(id, name, state, dataset_id, role_set_id, spec, spec_digest, num_samples, summary) "
                "VALUES (%s, 'a', %s, %s, %s, '{}', '', 600, %s)",
                (row_id, state, uuid.uuid4(), uuid.uuid4(), summary),
            )
            connection.execute(
                "INSERT INTO scores (audit_id, position, sample, sample_key, role, score, skipped) "
                "SELECT %s, n, n, n, CASE WHEN n %% 2 = 0 THEN 'shared' ELSE 'external' END, "
                "CASE WHEN n > 9 THEN (n * 7919) %% 13 END, CASE WHEN n <= 9 THEN 'lost' END "
                "FROM generate_series(0, 599) n",
                (row_id,),
            )
    upgrade(empty_database_url)
    engine = create_database_engine(empty_database_url)
    with session_factory(engine).begin() as session:
        found, cursor = list[int](), None
        while found == [] or cursor is not None:
            page = page_of_scores(session, audit, sort="-score", role=None, limit=100, cursor=cursor)
            found, cursor = found + [row.position for row in page.items], page.next_cursor
    engine.dispose()
    assert found == sorted(range(10, 600), key=lambda n: (-((n * 7919) % 13), n))
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute("DELETE FROM audits WHERE id = %s", (audit,))
        left = connection.execute("SELECT audit_id, count(*) FROM scores GROUP BY 1").fetchall()
        assert left == [(other, 600)]


def test_model_without_a_migration_is_noticed(empty_database_url: str) -> None:
    upgrade(empty_database_url)
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute("ALTER TABLE audits DROP COLUMN finalise_attempts")
    assert "finalise_attempts" in str(differences(empty_database_url))


CATALOGUE = """
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text <> 'alembic_version'
UNION SELECT tablename, indexname, indexdef FROM pg_indexes
WHERE schemaname = 'public' AND tablename <> 'alembic_version'
UNION SELECT table_name, column_name, concat_ws(' ', data_type, is_nullable, column_default)
FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'alembic_version'
"""


def test_migrations_make_exactly_what_the_models_describe(empty_database_url: str, database_url: str) -> None:
    """Alembic compares neither check constraints nor the direction of an index."""
    engine = create_database_engine(empty_database_url)
    metadata.create_all(engine)
    engine.dispose()
    with psycopg.connect(empty_database_url) as described, psycopg.connect(database_url) as migrated:
        wanted, found = (set(connection.execute(CATALOGUE).fetchall()) for connection in (described, migrated))
    assert found == wanted
    assert any("CHECK" in definition for _, _, definition in found)


def test_there_is_one_head() -> None:
    assert len(ScriptDirectory.from_config(alembic_config()).get_heads()) == 1


def test_upgrading_a_database_that_is_new_enough_changes_nothing(database_url: str) -> None:
    before = tables(database_url)
    upgrade(database_url)
    assert tables(database_url) == before


def test_several_processes_migrate_at_once_and_all_succeed(empty_database_url: str) -> None:
    environment = {**os.environ, "SSLMEM_DATABASE_URL": empty_database_url}
    command_line = [sys.executable, "-m", "service", "migrate"]
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        # All of them stand before the lock when it is released.
        connection.execute("SELECT pg_advisory_lock(%s)", (MIGRATION_LOCK,))
        processes = [
            subprocess.Popen(command_line, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
            for _ in range(3)
        ]
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        eventually(lambda: connection.execute(waiting).fetchone() == (len(processes),))
        connection.execute("SELECT pg_advisory_unlock(%s)", (MIGRATION_LOCK,))
        ends = [(*process.communicate(timeout=60), process.returncode) for process in processes]
    assert [(error, code) for _, error, code in ends] == [("", 0)] * len(processes)
    assert tables(empty_database_url) == set(metadata.tables) | {"alembic_version"}


def test_interrupted_migration_leaves_nothing_and_can_be_repeated(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import alembic.op  # noqa: PLC0415

    real = alembic.op.create_table

    def create_table(name: str, *columns: object, **options: object) -> object:
        if name == "scores":
            raise KeyboardInterrupt
        return real(name, *columns, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(alembic.op, "create_table", create_table)
    with pytest.raises(KeyboardInterrupt):
        upgrade(empty_database_url)
    assert tables(empty_database_url) == set()
    monkeypatch.undo()
    upgrade(empty_database_url)
    assert "scores" in tables(empty_database_url)
