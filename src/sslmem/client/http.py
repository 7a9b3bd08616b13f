"""The service's HTTP client: typed where it matters, JSON as the service sends it elsewhere."""

import base64
import hashlib
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import httpx2 as httpx

from sslmem.errors import RequestRefused, ServiceUnreachable, UnreadableDataset

Json = dict[str, Any]
Advance = Callable[[int], None]
BLOCK = 2**20
WAIT_SECONDS = 20
TERMINAL = frozenset({"succeeded", "failed", "cancelled"})


def _no_progress(_: int) -> None:
    """For callers without a progress bar."""


class Client:
    """A connection to a service.

    Args:
        url: of the service, such as ``http://127.0.0.1:8000``.
        token: an API token.
    """

    def __init__(self, url: str, token: str) -> None:
        self.url = url.rstrip("/")
        # Reading may take as long as a long poll; connecting may not.
        timeout = httpx.Timeout(WAIT_SECONDS + 40, connect=10)
        self._http = httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {token}"}, timeout=timeout, trust_env=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._http.close()

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:  # noqa: ANN401
        """Sends a request.

        Raises:
            ServiceUnreachable: there is no answer.
            RequestRefused: the answer is an error; the message is the service's.
        """
        try:
            response = self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            raise ServiceUnreachable(
                f"no answer from {self.url} ({error}); expected a running service: start one with make run, "
                "or name another with --url or SSLMEM_URL"
            ) from error
        if response.is_error:
            raise RequestRefused(_refusal(response))
        return response

    def get(self, path: str, **params: Any) -> Json:  # noqa: ANN401
        """Returns the JSON object at a path."""
        answer: Json = self.request("GET", path, params=params).json()
        return answer

    # Encoders and datasets

    def has_artifact(self, digest: str) -> bool:
        """Whether the service holds a file with this digest."""
        try:
            self.request("HEAD", f"/v1/artifacts/{digest}")
        except RequestRefused:
            return False
        return True

    def push_encoder(
        self,
        path: Path,
        *,
        name: str | None = None,
        architecture: str | None = None,
        input_size: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        advance: Advance = _no_progress,
    ) -> Json:
        """Uploads a checkpoint, or registers it alone if the service holds the file, and waits until it is checked.

        Raises:
            RequestRefused: the service refused it, with its reason.
        """
        settings = {
            "name": name or path.stem,
            "architecture": architecture,
            "input_size": input_size,
            "mean": mean and list(mean),
            "std": std and list(std),
        }
        return self._wait(self._push("/v1/encoders", path, settings, advance))

    def push_dataset(self, path: Path, *, name: str | None = None, advance: Advance = _no_progress) -> Json:
        """Uploads a zip archive, or a folder as one, and waits until it is checked."""
        if not path.is_dir():
            return self._wait(self._push("/v1/datasets", path, {"name": name or path.stem}, advance))
        with tempfile.TemporaryDirectory(prefix="sslmem-") as folder:
            archive = zip_folder(path, Path(folder) / f"{path.resolve().name}.zip")
            return self._wait(self._push("/v1/datasets", archive, {"name": name or path.resolve().name}, advance))

    def push_roles(self, dataset_id: str, text: str, *, name: str | None = None) -> Json:
        """Registers a CSV table of roles for a dataset."""
        answer: Json = self.request(
            "PUT",
            f"/v1/datasets/{dataset_id}/roles",
            params={"name": name} if name else {},
            content=text.encode(),
            headers={"Content-Type": "text/csv"},
        ).json()
        return answer

    def _push(self, collection: str, path: Path, settings: Json, advance: Advance) -> Json:
        settings = {key: value for key, value in settings.items() if value is not None}
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
        name = f"sha256:{digest.hexdigest()}"
        if self.has_artifact(name):
            advance(path.stat().st_size)
            answer: Json = self.request("POST", collection, json={**settings, "artifact_digest": name}).json()
            return answer
        params = {k: ",".join(map(str, v)) if isinstance(v, list) else v for k, v in settings.items()}
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(path.stat().st_size),
            "Content-Digest": f"sha-256=:{base64.b64encode(digest.digest()).decode()}:",
        }
        response = self.request("PUT", collection, params=params, content=_blocks(path, advance), headers=headers)
        resource: Json = response.json()
        return resource

    def _wait(self, resource: Json) -> Json:
        while resource["state"] not in ("ready", "refused"):
            resource = self.get(resource["links"]["self"], wait=WAIT_SECONDS)
        if resource["state"] == "refused":
            failure = resource["failure"]
            raise RequestRefused(f"{resource['name']} was refused: {failure['detail']} [{failure['code']}]")
        return resource

    # Audits

    def request_audit(self, **body: Any) -> Json:  # noqa: ANN401
        """Requests an audit; see the service's documentation for the fields."""
        answer: Json = self.request("POST", "/v1/audits", json=body).json()
        return answer

    def follow(self, audit_id: str) -> Iterator[Json]:
        """Yields the audit's state whenever something changed, the last time when it has ended."""
        audit = self.get(f"/v1/audits/{audit_id}")
        yield audit
        while audit["state"] not in TERMINAL:
            audit = self.get(f"/v1/audits/{audit_id}", wait=1)
            yield audit

    def download(self, path: str, destination: Path, **params: Any) -> None:  # noqa: ANN401
        """Writes what is at a path (CSV, Parquet or HTML) to a file."""
        try:
            with self._http.stream("GET", path, params=params) as response:
                if response.is_error:
                    response.read()
                    raise RequestRefused(_refusal(response))
                with destination.open("wb") as file:
                    for block in response.iter_bytes():
                        file.write(block)
        except httpx.HTTPError as error:
            raise ServiceUnreachable(f"the download from {self.url}{path} broke off ({error})") from error


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


def zip_folder(folder: Path, destination: Path) -> Path:
    """Packs a folder so that the same files always give the same archive, and so the same digest."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        raise UnreadableDataset(f"the folder {folder} holds no files")
    with zipfile.ZipFile(destination, "w", zipfile.ZIP_STORED) as archive:
        for path in files:
            archive.writestr(zipfile.ZipInfo(path.relative_to(folder).as_posix()), path.read_bytes())
    return destination
