"""What a server found, as the gate's case: nothing is computed here, so this needs neither torch nor numpy."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import typer
from pydantic import ValidationError

from sslmem.cli.options import samples_progress, stderr
from sslmem.client.http import TERMINAL, Client, Json
from sslmem.errors import AuditTakesLonger, EvidenceError, RequestRefused
from sslmem.gate.case import Case, EncoderUsed, make_case
from sslmem.gate.statement import file_digest
from sslmem.policy import Policy

SAY_AGAIN_SECONDS = 30.0
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Wanted:
    """What to audit, by the names that the server knows."""

    targets: Sequence[str]
    references: Sequence[str]
    dataset: UUID
    roles: UUID
    spec: Json


def encoder_id(client: Client, name: str) -> str:
    """The id of an encoder by its id, or by the digest of its file or weights.

    Raises:
        RequestRefused: the service has no such encoder, or it is not ready.
        typer.BadParameter: it is neither an id nor a digest.
    """
    if not DIGEST.fullmatch(name):
        try:
            return str(UUID(name))
        except ValueError as error:
            raise typer.BadParameter(
                f"expected an encoder's id or sha256:DIGEST with a server; found {name!r} "
                "(upload a file with sslmem encoders push)"
            ) from error
    found = [
        encoder
        for encoder in client.items("/v1/encoders")
        if name in (encoder["artifact_digest"], encoder["weights_digest"]) and encoder["state"] == "ready"
    ]
    if not found:
        raise RequestRefused(f"the service has no checked encoder {name}; upload it with sslmem encoders push")
    return str(found[0]["id"])


def request(client: Client, wanted: Wanted) -> str:
    """Requests an audit and returns its id."""
    audit = client.request_audit(
        name="gate",
        target_ids=[encoder_id(client, name) for name in wanted.targets],
        reference_ids=[encoder_id(client, name) for name in wanted.references],
        dataset_id=str(wanted.dataset),
        role_set_id=str(wanted.roles),
        spec=wanted.spec,
    )
    return str(audit["id"])


def wait_for(client: Client, audit_id: str, *, timeout: float | None, again: str) -> Json:
    """Waits for an audit, saying how far it is; returns it when it has succeeded.

    Args:
        client: of the service.
        audit_id: of the audit.
        timeout: in seconds; the audit goes on after it.
        again: the command that goes on waiting.

    Raises:
        AuditTakesLonger: the time is up.
        RequestRefused: the audit failed or was cancelled, with its reason.
    """
    start, said = time.monotonic(), (0.0, "")
    audit: Json = {}
    with samples_progress() as progress:
        task = progress.add_task("waiting", total=None)
        for audit in client.follow(audit_id):
            done, waited = audit["progress"], time.monotonic() - start
            text = f"{audit['state']}, {done['samples_done']} of {done['samples_total']} samples"
            progress.update(
                task, description=audit["state"], completed=done["samples_done"], total=done["samples_total"]
            )
            state = f"{audit['state']}: {audit.get('reason') or ''}"
            if state != said[1] or waited - said[0] >= SAY_AGAIN_SECONDS:
                said = (waited, state)
                reason = f" ({audit['reason']})" if audit.get("reason") else ""
                stderr.print(f"audit {audit_id}: {text}{reason}", highlight=False, soft_wrap=True, markup=False)
            if timeout is not None and waited >= timeout and audit["state"] not in TERMINAL:
                raise AuditTakesLonger(
                    f"audit {audit_id} is {text}, after {waited:.0f} seconds; it goes on: wait for it with {again}"
                )
    if audit["state"] != "succeeded":
        failure = audit.get("failure") or {"code": audit["state"], "detail": f"the audit was {audit['state']}"}
        raise RequestRefused(f"audit {audit_id}: {failure['detail']} [{failure['code']}]")
    return audit


def fetch_case(client: Client, audit: Json, policy: Policy, keep: Path | None = None) -> tuple[Case, Json]:
    """Fetches what an audit that succeeded found, at the levels that the policy states, and its summary.

    The scores are written to ``keep``, if it is given.

    Raises:
        EvidenceError: what the service sends is not of the form that this version reads.
    """
    here = f"/v1/audits/{audit['id']}"
    summary = client.get(f"{here}/summary")
    evidence = client.get(f"{here}/evidence", confidence=policy.confidence, fdr=policy.fdr)
    files, encoders = _encoders(client, audit)
    dataset = f"/v1/datasets/{audit['dataset_id']}"
    files["dataset"] = client.get(dataset)["artifact_digest"]
    tables: list[dict[str, Any]] = client.get(f"{dataset}/roles")["items"]
    files.update(("roles", table["digest"]) for table in tables if table["id"] == audit["role_set_id"])
    if keep is not None:
        keep.write_bytes(client.request("GET", f"{here}/scores.parquet").content)
        files["scores"] = file_digest(keep)
    return make_case(evidence, summary, files=files, encoders=encoders, audit=str(audit["id"])), summary


def _encoders(client: Client, audit: Json) -> tuple[dict[str, str], list[EncoderUsed]]:
    """Digests of the encoders' files by name, and how these were read."""
    files: dict[str, str] = {}
    used = []
    for part in ("target", "reference"):
        for i, item in enumerate(audit[f"{part}_ids"]):
            encoder = client.get(f"/v1/encoders/{item}")
            name = f"{part}:{encoder['name']}"
            files[f"{name}#{i + 1}" if name in files else name] = encoder["artifact_digest"]
            try:
                used.append(EncoderUsed.model_validate({**encoder, "part": part, "file": encoder["artifact_digest"]}))
            except ValidationError as error:
                raise EvidenceError(f"the encoder {item} is not of the expected form: {error}") from error
    return files, used
