"""The service on servers that are there already."""

import signal
import uuid
from pathlib import Path

from tests.conftest import Servers
from tests.support.processes import Service, gone
from tests.support.waiting import eventually


def test_servers_given_by_url_are_used_and_no_others_started(
    servers: Servers, empty_database_url: str, tmp_path: Path
) -> None:
    service = Service(
        tmp_path / "home",
        SSLMEM_DATABASE_URL=empty_database_url,
        SSLMEM_BROKER_URL=servers.redis.url,
        SSLMEM_QUEUE=f"test-{uuid.uuid4().hex}",
    )
    try:
        with service.client() as client:
            health = client.get("/v1/health")
            assert (health["database"], health["broker"]) == (True, True)
            eventually(lambda: client.get("/v1/workers")["items"])
        below = service.below()
        names = {process.name() for process in below}
        assert not names & {"postgres", "redis-server", "initdb"}, names
        assert not (service.home / "postgres").exists()
        assert not (service.home / "redis").exists()
        assert service.stop(signal.SIGINT) == 0
        assert [process for process in below if not gone(process)] == []
    finally:
        service.ensure_stopped()
    assert servers.postgres.child.poll() is None
    assert servers.redis.child.poll() is None
