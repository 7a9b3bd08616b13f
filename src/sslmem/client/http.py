"""The service's HTTP client: typed where it matters, JSON as the service sends it elsewhere."""

import base64
import hashlib
import json as jsonlib
import re
import tempfile
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import httpx2 as httpx

from sslmem.errors import RequestRefused, ServiceUnreachable, UnreadableDataset

Json = dict[str, Any]
Advance = Callable[[int], None]
BLOCK = 2**20
WAIT_SECONDS = 20
# How long a service that is awaited may be away, and how often it is asked meanwhile.
PATIENCE_SECONDS = 60.0
PAUSE_SECONDS = 1.0
# The connection was there, so the request may have been carried out.
LOST = (httpx.ReadError, httpx.ReadTimeout, httpx.WriteError, httpx.WriteTimeout, httpx.RemoteProtocolError)
TERMINAL = frozenset({"succeeded", "failed", "cancelled"})


def _no_progress(_: int) -> None:
    """For callers without a progress bar."""


class Client:
    """A connection to a service.

    Args:
        url: of the service, such as ``http://127.0.0.1:8000``.
        token: an API token.

    Raises:
        ServiceUnreachable: the URL is none.
        RequestRefused: the token cannot be one.
    """

    def __init__(self, url: str, token: str) -> None:
        self.url = url.rstrip("/")
        if not re.fullmatch("[!-~]+", token):
            raise RequestRefused(
                "the API token is empty or holds characters that none has; expected one like sslmem_..."
            )
        # Reading may take as long as a long poll; connecting may not.
        timeout = httpx.Timeout(WAIT_SECONDS + 40, connect=10)
        try:
            self._http = httpx.Client(
                base_url=self.url, headers={"Authorization": f"Bearer {token}"}, timeout=timeout, trust_env=False
            )
        except httpx.InvalidURL as error:
            raise ServiceUnreachable(
                f"expected a URL such as http://127.0.0.1:8000; found {url!r} ({error})"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._http.close()

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:  # noqa: ANN401
        """Sends a request.

        Raises:
            ServiceUnreachable: there is no answer, it is not one of the service's, or the service cannot work now.
            RequestRefused: the answer is an error; the message is the service's.
        """
        response = self._send(method, path, **options)
        if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            raise ServiceUnreachable(_refusal(response))
        if response.is_error:
            raise RequestRefused(_refusal(response))
        return response

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:  # noqa: ANN401
        try:
            return self._http.request(method, path, **options)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ServiceUnreachable(
                f"no answer from {self.url} ({error}); expected a running service: start one with make run, "
                "or name another with --url or SSLMEM_URL"
            ) from error

    def json(self, method: str, path: str, **options: Any) -> Json:  # noqa: ANN401
        """Sends a request and returns the JSON object that it is answered with; see :meth:`request`."""
        response = self.request(method, path, **options)
        try:
            answer = response.json() if response.is_success else None
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise ServiceUnreachable(f"what answers at {self.url} is not an sslmem service; name another with --url")
        return answer

    def create(self, method: str, path: str, *, body: Callable[[], Any] | None = None, **options: Any) -> Json:  # noqa: ANN401
        """Sends a request that makes something, with a key; when the answer is lost, again with the same key.

        So nothing is made twice, whether or not the first request arrived. A service that is not there at all is an
        error at once.

        Args:
            method: of HTTP.
            path: of the collection.
            body: gives the content, anew for each time that it is sent.
            **options: as for :meth:`request`.
        """
        headers = {**options.pop("headers", {}), "Idempotency-Key": f'"{uuid.uuid4()}"'}
        deadline = time.monotonic() + PATIENCE_SECONDS
        sent = False
        while True:
            content = {} if body is None else {"content": body()}
            try:
                return self.json(method, path, headers=headers, **content, **options)
            except ServiceUnreachable as error:
                sent = sent or isinstance(error.__cause__, LOST)
                if not sent or time.monotonic() > deadline:
                    raise
                time.sleep(PAUSE_SECONDS)

    def get(self, path: str, **params: Any) -> Json:  # noqa: ANN401
        """Returns the JSON object at a path."""
        return self.json("GET", path, params=params)

    def items(self, path: str) -> Iterator[Json]:
        """Yields what is listed at a path, page by page."""
        page = self.get(path)
        yield from page["items"]
        while page["next_cursor"] is not None:
            page = self.get(path, cursor=page["next_cursor"])
            yield from page["items"]

    # Encoders and datasets

    def has_artifact(self, digest: str) -> bool:
        """Whether the service holds a file with this digest."""
        return self._send("HEAD", f"/v1/artifacts/{digest}").is_success

    def push_encoder(
        self,
        path: Path,
        *,
        name: str | None = None,
        architecture: str | None = None,
        input_size: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        method: str | None = None,
        branch: str | None = None,
        options: Mapping[str, Any] | None = None,
        advance: Advance = _no_progress,
    ) -> Json:
        """Uploads a checkpoint, or registers it alone if the service holds the file, and waits until it is checked.

        A folder of Hugging Face's form is sent as one archive. What was found is in the answer: the ``branch`` that is
        audited, the ``settings`` that weights do not show with who said them, and ``suspicions``.

        Args:
            path: the checkpoint.
            name: of the encoder; None is the file's.
            architecture: known to torchvision, timm or the service; None if the weights tell.
            input_size: side of the views in pixels.
            mean: of the normalisation; with neither it nor ``std``, what the file says, or else ImageNet's.
            std: likewise.
            method: how it was trained.
            branch: which of several encoders in the file; None is the producer's default.
            options: what weights do not show, such as ``{"num_heads": 6}``; docs/encoders.md lists them.
            advance: called with the number of bytes that were sent.

        Raises:
            RequestRefused: the service refused it, with its reason.
        """
        settings = {
            "name": name or path.stem,
            "architecture": architecture,
            "input_size": input_size,
            "mean": mean and list(mean),
            "std": std and list(std),
            "method": method,
            "branch": branch,
            "options": dict(options) if options else None,
        }
        if not path.is_dir():
            return self._wait(self._push("encoder", path, settings, advance))
        with tempfile.TemporaryDirectory(prefix="sslmem-") as folder:
            settings["name"] = name or path.resolve().name
            archive = zip_folder(path, Path(folder) / f"{path.resolve().name}.zip")
            return self._wait(self._push("encoder", archive, settings, advance))

    def push_dataset(self, path: Path, *, name: str | None = None, advance: Advance = _no_progress) -> Json:
        """Uploads a zip archive, or a folder as one, and waits until it is checked."""
        if not path.is_dir():
            return self._wait(self._push("dataset", path, {"name": name or path.stem}, advance))
        with tempfile.TemporaryDirectory(prefix="sslmem-") as folder:
            archive = zip_folder(path, Path(folder) / f"{path.resolve().name}.zip")
            return self._wait(self._push("dataset", archive, {"name": name or path.resolve().name}, advance))

    def push_roles(self, dataset_id: str, table: str | bytes, *, name: str | None = None) -> Json:
        """Registers a table of roles for a dataset: CSV, JSON lines or Parquet."""
        content = table.encode() if isinstance(table, str) else table
        return self.create(
            "PUT",
            f"/v1/datasets/{dataset_id}/roles",
            params={"name": name} if name else {},
            body=lambda: content,
            headers={"Content-Type": "application/octet-stream"},
        )

    def _push(self, kind: str, path: Path, settings: Json, advance: Advance) -> Json:
        # Asked first: a wrong token or too large a file shows before anything is read or sent.
        limit = self.get("/v1/limits")[f"{kind}_bytes"]
        if path.stat().st_size > limit:
            raise RequestRefused(
                f"{path.name} has {path.stat().st_size} bytes; the service takes at most {limit} bytes"
            )
        collection = f"/v1/{kind}s"
        settings = {key: value for key, value in settings.items() if value is not None}
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
        name = f"sha256:{digest.hexdigest()}"
        if self.has_artifact(name):
            try:
                resource = self.create("POST", collection, json={**settings, "artifact_digest": name})
            except RequestRefused as error:
                if "[artifact-not-found," not in error.detail:  # deleted since; then it is sent after all
                    raise
            else:
                advance(path.stat().st_size)
                return resource
        params = {key: _as_parameter(value) for key, value in settings.items()}
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(path.stat().st_size),
            "Content-Digest": f"sha-256=:{base64.b64encode(digest.digest()).decode()}:",
        }
        progress = _Progress(advance)
        return self.create(
            "PUT", collection, params=params, body=lambda: _blocks(path, progress.restart()), headers=headers
        )

    def _wait(self, resource: Json) -> Json:
        while resource["state"] not in ("ready", "refused"):
            resource = self._poll(resource["links"]["self"], wait=WAIT_SECONDS)
        if resource["state"] == "refused":
            failure = resource["failure"]
            raise RequestRefused(f"{resource['name']} was refused: {failure['detail']} [{failure['code']}]")
        return resource

    # Audits

    def request_audit(self, **body: Any) -> Json:  # noqa: ANN401
        """Requests an audit; see the service's documentation for the fields."""
        return self.create("POST", "/v1/audits", json=body)

    def follow(self, audit_id: str) -> Iterator[Json]:
        """Yields the audit's state every second and whenever it changes, the last time when it has ended."""
        audit = self.get(f"/v1/audits/{audit_id}")
        yield audit
        while audit["state"] not in TERMINAL:
            audit = self._poll(f"/v1/audits/{audit_id}", wait=1)
            yield audit

    def events(self, audit_id: str, after: int = 0) -> Iterator[Json]:
        """Yields what happened to an audit and what happens until it has ended, each event once and in order.

        Outlasts a restart of the service. Events of the type ``progress`` have no number and are not repeated.

        Args:
            audit_id: of the audit.
            after: the number of the event to begin after.
        """
        away_since: float | None = None
        while True:
            try:
                with self._http.sse(f"/v1/audits/{audit_id}/events", headers={"Last-Event-ID": str(after)}) as source:
                    response = source.response
                    if response.status_code == httpx.codes.NO_CONTENT:
                        return
                    if response.is_error and response.status_code < httpx.codes.INTERNAL_SERVER_ERROR:
                        response.read()
                        raise RequestRefused(_refusal(response))
                    response.raise_for_status()
                    away_since = None  # it may be silent for hours: an audit that waits has no news
                    for sent in source:
                        if sent.data:
                            event = {"type": sent.event, **jsonlib.loads(sent.data)}
                            after = event.get("number", after)
                            yield event
            except httpx.HTTPError as error:
                away_since = away_since or time.monotonic()
                if time.monotonic() - away_since > PATIENCE_SECONDS:
                    raise ServiceUnreachable(f"the events of {self.url} broke off ({error})") from error
                time.sleep(PAUSE_SECONDS)

    def _poll(self, path: str, wait: float) -> Json:
        """A long poll that outlasts a restart of the service."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return self.get(path, wait=wait)
            except ServiceUnreachable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(PAUSE_SECONDS)

    def download(self, path: str, destination: Path, **params: Any) -> None:  # noqa: ANN401
        """Writes what is at a path (CSV, Parquet or HTML) to a file, which is there only once it is complete."""
        part = destination.with_name(destination.name + ".part")
        try:
            with self._http.stream("GET", path, params=params) as response:
                if response.is_error:
                    response.read()
                    raise RequestRefused(_refusal(response))
                with part.open("wb") as file:
                    for block in response.iter_bytes():
                        file.write(block)
            part.replace(destination)
        except httpx.HTTPError as error:
            raise ServiceUnreachable(f"the download from {self.url}{path} broke off ({error})") from error
        finally:
            part.unlink(missing_ok=True)


class _Progress:
    """Counts what is sent, and takes it back when it is sent again."""

    def __init__(self, advance: Advance) -> None:
        self._advance, self._sent = advance, 0

    def restart(self) -> Advance:
        if self._sent:
            self._advance(-self._sent)
            self._sent = 0
        return self._add

    def _add(self, count: int) -> None:
        self._sent += count
        self._advance(count)


def _blocks(path: Path, advance: Advance) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            yield block
            advance(len(block))


def _refusal(response: httpx.Response) -> str:
    try:
        problem = response.json()
        return f"{problem['detail']} [{problem['code']}, HTTP {response.status_code}]"
    except (ValueError, KeyError, TypeError):
        return f"the service answered HTTP {response.status_code} to {response.request.method} {response.url.path}"


def _as_parameter(value: Any) -> Any:  # noqa: ANN401
    """A setting as it stands in an address."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    return jsonlib.dumps(value) if isinstance(value, dict) else value


def zip_folder(folder: Path, destination: Path) -> Path:
    """Packs a folder so that the same files always give the same archive, and so the same digest."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        raise UnreadableDataset(f"the folder {folder} holds no files")
    with zipfile.ZipFile(destination, "w", zipfile.ZIP_STORED) as archive:
        for path in files:
            name = path.relative_to(folder).as_posix()
            try:
                archive.writestr(zipfile.ZipInfo(name), path.read_bytes())
            except UnicodeEncodeError as error:
                raise UnreadableDataset(f"the name of the file {name!a} is not UTF-8; expected one that is") from error
    return destination
