"""Migrations run while an older version still serves: what it did before, it can do after."""

import itertools
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, MetaData, Table, delete, insert, select, text, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import OperationalError

from models.database import create_database_engine
from service import migrate
from service.migrate import alembic_config, upgrade
from tests.support.waiting import eventually

REVISIONS = [
    script.revision for script in reversed(list(ScriptDirectory.from_config(alembic_config()).walk_revisions()))
]
# In the order in which rows refer to each other.
SCENE = ("encoders", "datasets", "dataset_samples", "role_sets", "role_entries", "audits", "audit_encoders", "chunks")
STATES = {"encoders": "ready", "datasets": "ready", "audits": "queued", "chunks": "queued"}
numbers = itertools.count()


class OldVersion:
    """What a version of the service knows of the database: the tables and columns of its time, and no others."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.tables = MetaData()
        self.tables.reflect(engine)

    def table(self, name: str) -> Table:
        return self.tables.tables[name]

    def add(self, connection: Connection, name: str, **values: Any) -> dict[str, Any]:  # noqa: ANN401
        """Adds a row, with a value for every column that has no default."""
        table = self.table(name)
        row = {"state": STATES[name], **values} if name in STATES else dict(values)
        for column in table.columns:
            if column.name not in row and not column.nullable and column.server_default is None:
                row[column.name] = _value(column.type)
        connection.execute(insert(table).values(row))
        return row

    def scene(self, connection: Connection) -> dict[str, dict[str, Any]]:
        """An audit with all that it needs."""
        ids = {name: uuid.uuid4() for name in ("encoders", "datasets", "role_sets", "audits", "chunks")}
        known: dict[str, dict[str, Any]] = {
            "dataset_samples": {"dataset_id": ids["datasets"], "position": 0},
            "role_sets": {"dataset_id": ids["datasets"]},
            "role_entries": {"role_set_id": ids["role_sets"], "position": 0, "role": "candidate"},
            "audits": {"dataset_id": ids["datasets"], "role_set_id": ids["role_sets"], "num_samples": 1},
            "audit_encoders": {"audit_id": ids["audits"], "encoder_id": ids["encoders"], "part": "target"},
            "chunks": {"audit_id": ids["audits"], "start": 0, "stop": 1},
        }
        own = {name: {"id": ids[name]} for name in ids}
        return {name: self.add(connection, name, **known.get(name, {}), **own.get(name, {})) for name in SCENE}

    def work(self, connection: Connection, scene: dict[str, dict[str, Any]]) -> None:
        """Takes an audit from queued to succeeded, and deletes it, as every version has done it."""
        audit_id, chunk_id = scene["audits"]["id"], scene["chunks"]["id"]

        def move(name: str, row_id: uuid.UUID, state: str, **values: Any) -> None:  # noqa: ANN401
            table = self.table(name)
            connection.execute(update(table).where(table.c.id == row_id).values(state=state, **values))

        move("audits", audit_id, "running")
        move("chunks", chunk_id, "running", lease_owner="old")
        scores = self.table("scores")
        names = [column.name for column in scores.columns]
        row = {"audit_id": audit_id, "position": 0, "sample": "a", "sample_key": "b", "role": "candidate", "score": 0.5}
        driver = connection.connection.driver_connection
        assert driver is not None
        with driver.cursor() as cursor, cursor.copy(f"COPY scores ({', '.join(names)}) FROM STDIN") as copy:
            copy.write_row([row.get(name) for name in names])
        move("chunks", chunk_id, "done", lease_owner=None)
        move("audits", audit_id, "finalising")
        move("audits", audit_id, "succeeded", summary={})
        for name in SCENE:
            assert connection.execute(select(self.table(name))).all()
        audits = self.table("audits")
        connection.execute(delete(audits).where(audits.c.id == audit_id))
        for name, column in (("scores", "audit_id"), ("chunks", "audit_id"), ("audit_encoders", "audit_id")):
            table = self.table(name)
            assert connection.execute(select(table).where(table.c[column] == audit_id)).all() == []


def _value(kind: Any) -> Any:  # noqa: ANN401
    if isinstance(kind, postgresql.ARRAY):
        return [0.5] * 3
    if isinstance(kind, postgresql.JSONB):
        return {}
    if kind.python_type is str:
        return f"value {next(numbers)}"
    return uuid.uuid4() if kind.python_type is uuid.UUID else next(numbers)


@pytest.fixture
def engine(empty_database_url: str) -> Iterator[Engine]:
    engine = create_database_engine(empty_database_url)
    yield engine
    engine.dispose()


@pytest.mark.parametrize(("before", "after"), list(itertools.pairwise(REVISIONS)))
def test_what_a_version_did_before_a_migration_it_can_do_after(
    empty_database_url: str, engine: Engine, before: str, after: str
) -> None:
    upgrade(empty_database_url, before)
    old = OldVersion(engine)
    with engine.begin() as connection:
        under_way, waiting = old.scene(connection), old.scene(connection)
        old.work(connection, old.scene(connection))
    upgrade(empty_database_url, after)
    with engine.begin() as connection:
        old.work(connection, under_way)  # what was there
        old.work(connection, old.scene(connection))  # what comes
        chunks = old.table("chunks")
        assert (
            connection.execute(select(chunks.c.state).where(chunks.c.id == waiting["chunks"]["id"])).scalar()
            == "queued"
        )


def version(engine: Engine) -> str | None:
    with engine.connect() as connection:
        return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def test_migration_gives_way_to_what_uses_the_tables_and_is_made_when_they_are_free(
    empty_database_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "LOCK_SECONDS", 0.2)
    monkeypatch.setattr(migrate, "PAUSE_SECONDS", 0.1)
    upgrade(empty_database_url, REVISIONS[2])
    with psycopg.connect(empty_database_url) as busy:
        busy.execute("SELECT count(*) FROM audits")  # a transaction of the older version, which stays open
        thread = threading.Thread(target=upgrade, args=(empty_database_url,))
        thread.start()
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'relation'"
        with engine.connect() as other:
            eventually(lambda: other.execute(text(waits)).scalar())
            eventually(lambda: not other.execute(text(waits)).scalar(), interval=0.005)  # it gave way
        assert thread.is_alive()
        assert version(engine) == REVISIONS[2]
    thread.join(60)
    assert version(engine) == REVISIONS[-1]


def test_migration_that_never_gets_its_lock_fails_and_changes_nothing(
    empty_database_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "LOCK_SECONDS", 0.1)
    monkeypatch.setattr(migrate, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(migrate, "TRIES", 3)
    upgrade(empty_database_url, REVISIONS[2])
    with psycopg.connect(empty_database_url) as busy:
        busy.execute("SELECT count(*) FROM audits")
        with pytest.raises(OperationalError, match="lock timeout"):
            upgrade(empty_database_url)
    assert version(engine) == REVISIONS[2]
    upgrade(empty_database_url)
    assert version(engine) == REVISIONS[-1]
