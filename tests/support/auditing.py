"""An audit through the client, for tests of the whole service."""

from dataclasses import dataclass
from typing import Any

from sslmem.client.http import TERMINAL, Client
from sslmem.errors import SslmemError
from tests.support.materials import EncoderFile, Material
from tests.support.processes import Service
from tests.support.waiting import eventually

AUDIT_SECONDS = 120


@dataclass(frozen=True)
class Uploaded:
    """What an audit of the service can be requested with, and how many samples it has."""

    body: dict[str, Any]
    num_samples: int


def upload(client: Client, material: Material, target: EncoderFile, reference: EncoderFile) -> Uploaded:
    """Uploads everything and waits until it is checked."""
    ids = [
        client.push_encoder(file.path, architecture=file.architecture, input_size=file.input_size)["id"]
        for file in (target, reference)
    ]
    dataset = client.push_dataset(material.archive)
    role_set = client.push_roles(dataset["id"], material.roles)
    body = {
        "target_ids": ids[:1],
        "reference_ids": ids[1:],
        "dataset_id": dataset["id"],
        "role_set_id": role_set["id"],
        "spec": {"views": 24},  # so many that the audit lasts
    }
    return Uploaded(body, dataset["num_samples"])


def look(service: Service, audit_id: str) -> dict[str, Any]:
    """The audit as it is now, or nothing while the service does not answer."""
    try:
        with service.client() as client:
            return client.get(f"/v1/audits/{audit_id}")
    except SslmemError:
        return {}


def in_the_middle(service: Service, uploaded: Uploaded) -> str:
    """Requests an audit, waits until some of it is done, and returns its id."""
    with service.client() as client:
        audit_id: str = client.request_audit(**uploaded.body, force=True)["id"]
        audit = eventually(lambda: running(client, audit_id), AUDIT_SECONDS, interval=0.01)
    assert audit["state"] == "running", "the audit ended too soon"
    return audit_id


def running(client: Client, audit_id: str) -> dict[str, Any]:
    audit = client.get(f"/v1/audits/{audit_id}")
    return audit if audit["progress"]["samples_done"] or audit["state"] in TERMINAL else {}


def ended(service: Service, audit_id: str) -> dict[str, Any]:
    """Waits for the end of an audit, however long the service is away meanwhile."""

    def end() -> dict[str, Any]:
        audit = look(service, audit_id)
        return audit if audit.get("state") in TERMINAL else {}

    return eventually(end, AUDIT_SECONDS, interval=0.1)


def scored_samples(service: Service, audit_id: str) -> list[str]:
    """The samples that have a score, page by page."""
    with service.client() as client:
        rows = list(client.items(f"/v1/audits/{audit_id}/scores"))
    assert all(row["score"] is not None for row in rows)
    return [row["sample"] for row in rows]
