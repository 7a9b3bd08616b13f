"""Health, limits, workers and artifacts."""

from fastapi.testclient import TestClient

from service.context import Context
from service.settings import Settings
from service.workers import beat, beat_of_sweeper
from sslmem import __version__
from tests.support import rows
from tests.support.problems import problem


def test_health_is_ok_when_both_servers_answer_and_a_sweeper_lives(anonymous: TestClient, context: Context) -> None:
    expected = {"status": "degraded", "database": True, "broker": True, "sweeper": False, "version": __version__}
    response = anonymous.get("/v1/health")
    assert (response.status_code, response.json()) == (200, expected)
    with context.sessions.begin() as session:
        beat_of_sweeper(session, "host:1")
    assert anonymous.get("/v1/health").json() == expected | {"status": "ok", "sweeper": True}


def test_limits_are_those_of_the_settings(client: TestClient, settings: Settings) -> None:
    assert client.get("/v1/limits").json() == {
        "encoder_bytes": settings.max_encoder_bytes,
        "dataset_bytes": settings.max_dataset_bytes,
        "roles_bytes": settings.max_roles_bytes,
    }


def test_workers_are_listed_with_their_signs_of_life(client: TestClient, context: Context) -> None:
    assert client.get("/v1/workers").json() == {"items": [], "next_cursor": None}
    with context.sessions.begin() as session:
        beat(session, "host:1", "cpu")
    (worker,) = client.get("/v1/workers").json()["items"]
    assert (worker["id"], worker["device"], worker["queues"]) == ("host:1", "cpu", ["default"])
    assert worker["alive"]
    assert worker["started_at"] <= worker["last_seen_at"]


def test_artifact_that_is_held_is_found_with_its_size(client: TestClient, context: Context) -> None:
    digest = rows.store(context, b"abcd")
    response = client.head(f"/v1/artifacts/{digest}")
    assert response.status_code == 200
    assert response.headers["X-Artifact-Bytes"] == "4"


def test_artifact_that_is_not_held_is_not_found(client: TestClient) -> None:
    assert client.head(f"/v1/artifacts/{rows.digest_of('never')}").status_code == 404


def test_malformed_digest_is_a_clients_mistake(client: TestClient) -> None:
    assert client.head("/v1/artifacts/sha256:abc").status_code == 400
    assert client.head("/v1/artifacts/..%2f..%2fetc%2fpasswd").status_code in (400, 404)
    problem(client.get(f"/v1/artifacts/{rows.digest_of('never')}"), 405, "method-not-allowed")


def test_queues_count_what_waits_and_what_runs(client: TestClient, context: Context) -> None:
    audit = rows.request_audit(context)
    rows.claim(context, rows.chunks_of(context, audit.id)[0].id)
    with context.sessions.begin() as session:
        rows.add_encoder(session, "unchecked", state="received")
        rows.add_encoder(session, "under way", state="checking")
        beat(session, "host:1", "cpu")
        beat_of_sweeper(session, "host:2")
    rows.request_audit(context, 16, worker_queue="gpu")
    default, gpu = client.get("/v1/queues").json()["items"]
    assert default.pop("last_seen_at") is not None
    assert default == {
        "name": "default",
        "workers_alive": 1,
        "audits_open": 1,
        "chunks_waiting": 2,
        "chunks_running": 1,
        "checks_waiting": 1,
        "checks_running": 1,
        "reason": None,
    }
    assert gpu == {
        "name": "gpu",
        "workers_alive": 0,
        "last_seen_at": None,
        "audits_open": 1,
        "chunks_waiting": 1,
        "chunks_running": 0,
        "checks_waiting": 0,
        "checks_running": 0,
        "reason": "no GPU worker has connected in the last week; start one with python -m worker",
    }
