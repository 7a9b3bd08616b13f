"""What the gate sees of a service, with answers that a test chooses; the real one is in tests/integration/cli."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from tests.unit.cases import AUC, FILE, OTHER, SPEC, Interval, evidence, summary

AUDIT = "11111111-1111-4111-8111-111111111111"
TARGET_ID, REFERENCE_ID, DATASET_ID, ROLES_ID = (f"{i}" * 8 + "-2222-4222-8222-222222222222" for i in "3456")

Answers = dict[str, Any]  # by path: a JSON value, or a status of HTTP


def audit(state: str = "succeeded", **changes: object) -> dict[str, Any]:
    ended = state in ("succeeded", "failed", "cancelled")
    return {
        "id": AUDIT,
        "state": state,
        "progress": {"samples_done": 800 if ended else 10, "samples_total": 800, "seconds_left": None},
        "reason": None if ended else "waiting for a worker",
        "failure": {"code": "odd", "detail": "Something odd."} if state == "failed" else None,
        "target_ids": [TARGET_ID],
        "reference_ids": [REFERENCE_ID],
        "dataset_id": DATASET_ID,
        "role_set_id": ROLES_ID,
        "finished_at": "2026-11-24T00:00:00Z" if ended else None,
        **changes,
    }


def encoder(name: str, digest: str) -> dict[str, Any]:
    return {
        "id": TARGET_ID, "name": name, "state": "ready", "artifact_digest": digest, "weights_digest": SPEC,
        "architecture": "resnet18", "input_size": 32, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25],
    }  # fmt: skip


def answers(metrics: Mapping[str, Interval] | None = None, **changes: object) -> Answers:
    """Of a service that holds an audit which has ended; changes are of its evidence."""
    found = {AUC: (0.50, 0.52, 0.54)} if metrics is None else metrics
    here = f"/v1/audits/{AUDIT}"
    return {
        here: audit(),
        f"{here}/summary": summary(),
        f"{here}/evidence": evidence(found, **changes),
        f"/v1/encoders/{TARGET_ID}": encoder("f", FILE),
        f"/v1/encoders/{REFERENCE_ID}": encoder("g", OTHER),
        f"/v1/datasets/{DATASET_ID}": {"artifact_digest": SPEC},
        f"/v1/datasets/{DATASET_ID}/roles": {"items": [{"id": ROLES_ID, "digest": SPEC}], "next_cursor": None},
        "/v1/encoders": {"items": [encoder("f", FILE)], "next_cursor": None},
        "/v1/audits": audit("queued"),
    }


@contextmanager
def serving(given: Answers) -> Iterator[tuple[str, list[tuple[str, str, bytes]]]]:
    """Serves answers; gives the URL and the list of requests: method, path with query, body."""
    seen: list[tuple[str, str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            seen.append((self.command, self.path, body))
            answer = given.get(urlsplit(self.path).path, 404)
            problem = {"detail": "It is not there.", "code": "not-there"}
            content = json.dumps(problem if isinstance(answer, int) else answer).encode()
            self.send_response(answer if isinstance(answer, int) else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with suppress(BrokenPipeError):  # who asked may be gone
                self.wfile.write(content)

        do_POST = do_GET  # noqa: N815  the name is http.server's

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
