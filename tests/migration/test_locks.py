"""What the statements of a migration do to those who use the tables meanwhile."""

import re
from collections.abc import Iterator

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, event, inspect

from models.database import create_database_engine
from service.migrate import alembic_config

# Tables with a row for each sample: what reads one of them whole under a lock makes others wait.
LARGE = ("scores", "dataset_samples", "role_entries")
# Of before the first release, when nobody had large tables.
LOOKED_AT = {
    ("0008", "an index of role_entries is made without CONCURRENTLY"),
    ("0009", "an index of dataset_samples is made without CONCURRENTLY"),
}


def concerns(statement: str, existing: set[str]) -> Iterator[str]:
    """What is wrong with a statement, for tables that were there before the migration."""
    sql = " ".join(statement.split())
    index = re.match(r"CREATE (?:UNIQUE )?INDEX (?!CONCURRENTLY).*? ON (\w+)", sql)
    if index is not None and index[1] in existing.intersection(LARGE):
        yield f"an index of {index[1]} is made without CONCURRENTLY"
    if dropped := re.match(r"DROP TABLE (\w+)", sql):
        yield f"the table {dropped[1]} is dropped, which the older version uses"
    found = re.match(r"ALTER TABLE (\w+) (.*)", sql)
    if found is None or found[1] not in existing:
        return
    table, change = found.groups()
    if re.match(r"ADD COLUMN .* NOT NULL", change) and "DEFAULT" not in change:
        yield f"a column of {table} must be given that the older version does not know"
    if re.match(r"ADD COLUMN .* DEFAULT (clock_timestamp|gen_random_uuid|random)", change) and table in LARGE:
        yield f"{table} is rewritten for a default that is another one for each row"
    if re.match(r"(DROP COLUMN|RENAME)", change):
        yield f"something of {table} goes that the older version uses"
    if re.match(r"ALTER COLUMN \w+ (TYPE|SET NOT NULL)", change):
        yield f"{table} is read or rewritten whole, or refuses what the older version writes"
    if re.match(r"ADD (CONSTRAINT|CHECK|FOREIGN KEY|UNIQUE)", change) and table in LARGE and "NOT VALID" not in change:
        yield f"a constraint of {table} is checked for all rows under a lock"


@pytest.fixture
def engine(empty_database_url: str) -> Iterator[Engine]:
    engine = create_database_engine(empty_database_url)
    yield engine
    engine.dispose()


def test_migrations_neither_hold_large_tables_nor_take_away_what_serves(engine: Engine) -> None:
    found, statements = set[tuple[str, str]](), list[str]()
    revisions = [script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()]
    for revision in reversed(revisions):
        with engine.connect() as connection:
            existing = set(inspect(connection).get_table_names())
            connection.rollback()
            event.listen(
                connection, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]), named=False
            )
            command.upgrade(alembic_config(connection), revision)
            connection.commit()
        found |= {(revision, concern) for statement in statements for concern in concerns(statement, existing)}
        statements.clear()
    assert found == LOOKED_AT


@pytest.mark.parametrize(
    ("statement", "harmful"),
    [
        ("CREATE INDEX ix ON scores (role)", True),
        ("CREATE UNIQUE INDEX ix ON scores (role)", True),
        ("CREATE INDEX CONCURRENTLY ix ON scores (role)", False),
        ("CREATE INDEX ix ON audits (state)", False),
        ("CREATE INDEX ix ON fresh (state)", False),
        ("ALTER TABLE audits ADD COLUMN a INTEGER NOT NULL", True),
        ("ALTER TABLE audits ADD COLUMN a INTEGER DEFAULT '0' NOT NULL", False),
        ("ALTER TABLE audits ADD COLUMN a INTEGER", False),
        ("ALTER TABLE scores ADD COLUMN a TIMESTAMP DEFAULT clock_timestamp() NOT NULL", True),
        ("ALTER TABLE audits\n DROP COLUMN a", True),
        ("ALTER TABLE audits RENAME a TO b", True),
        ("ALTER TABLE audits ALTER COLUMN a TYPE BIGINT", True),
        ("ALTER TABLE audits ALTER COLUMN a SET NOT NULL", True),
        ("ALTER TABLE audits ALTER COLUMN a SET DEFAULT 1", False),
        ("ALTER TABLE scores ADD CONSTRAINT c CHECK (score > 0)", True),
        ("ALTER TABLE scores ADD CONSTRAINT c CHECK (score > 0) NOT VALID", False),
        ("ALTER TABLE audits ADD CONSTRAINT c CHECK (num_samples > 0)", False),
        ("DROP TABLE workers", True),
    ],
)
def test_statement_that_harms_what_serves_is_found(statement: str, *, harmful: bool) -> None:
    assert bool(list(concerns(statement, {"scores", "audits", "workers"}))) == harmful
