"""Real servers, started once; each test finds an empty database and a queue of its own."""

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from pydantic import SecretStr

from models.database import metadata
from service.context import Context
from service.embedded.postgres import Postgres
from service.embedded.redis import Redis
from service.migrate import upgrade
from service.settings import Settings
from service.tokens import create_token
from tests.support import materials
from tests.support.materials import EncoderFile, Material
from tests.support.servers import OwnRedis


@dataclass(frozen=True)
class Servers:
    """The servers of the test session; the database at ``postgres.url`` is migrated."""

    postgres: Postgres
    redis: Redis
    admin_url: str


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_the_developer() -> None:
    for name in [name for name in os.environ if name.startswith("SSLMEM_")]:
        del os.environ[name]


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("servers")
    postgres = Postgres.start(folder / "postgres", folder / "postgres.log", durable=False)
    try:
        redis = Redis.start(folder / "redis", folder / "redis.log")
        try:
            upgrade(postgres.url)
            yield Servers(postgres, redis, postgres.url.rpartition("/")[0] + "/postgres")
        finally:
            redis.stop()
    finally:
        postgres.stop()


@pytest.fixture
def empty_database_url(servers: Servers) -> Iterator[str]:
    """A database without tables."""
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(servers.admin_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield servers.admin_url.rpartition("/")[0] + "/" + name
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def database_url(servers: Servers) -> Iterator[str]:
    """A migrated database without rows: after each test, whoever is still connected is thrown out, then the rows."""
    yield servers.postgres.url
    with psycopg.connect(servers.postgres.url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        # Quicker than TRUNCATE for so few rows.
        tables = [sql.Identifier(table.name) for table in reversed(metadata.sorted_tables)]
        connection.execute(sql.SQL("; ").join(sql.SQL("DELETE FROM {}").format(table) for table in tables))


@pytest.fixture
def settings(servers: Servers, database_url: str, tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path / "home",
        database_url=SecretStr(database_url),
        broker_url=SecretStr(servers.redis.url),
        queue=f"test-{uuid.uuid4().hex}",
        device="cpu",
        log_level="WARNING",
    )


@pytest.fixture
def context(settings: Settings) -> Iterator[Context]:
    context = Context.from_settings(settings)
    yield context
    context.close()


@pytest.fixture
def token(context: Context) -> str:
    with context.sessions.begin() as session:
        return create_token(session, "test")


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[OwnRedis]:
    redis = OwnRedis(tmp_path)
    yield redis
    redis.stop()


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """Forty small images, ten of each role."""
    return materials.make_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="session")
def target_file(tmp_path_factory: pytest.TempPathFactory) -> EncoderFile:
    return materials.make_encoder(tmp_path_factory.mktemp("target"), seed=1)


@pytest.fixture(scope="session")
def reference_file(tmp_path_factory: pytest.TempPathFactory) -> EncoderFile:
    return materials.make_encoder(tmp_path_factory.mktemp("reference"), seed=2)
