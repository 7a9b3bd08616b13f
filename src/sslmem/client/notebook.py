"""Audits of a service in a notebook or script: request, follow, and scores as an Arrow table."""

import io
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self

from sslmem.client.http import TERMINAL, Client, Json
from sslmem.client.plot import Picture, plot_scores
from sslmem.errors import AuditTakesLonger, RequestRefused

if TYPE_CHECKING:
    import pyarrow as pa


class Audit:
    """One audit of a service.

    Attributes:
        id: of the audit.
    """

    def __init__(self, client: Client, audit_id: str) -> None:
        self.id = audit_id
        self._client = client
        self._here = f"/v1/audits/{audit_id}"

    def state(self) -> Json:
        """The audit as it is now: state, progress, reason, failure."""
        return self._client.get(self._here)

    def wait(self, timeout: float | None = None, progress: Callable[[Json], None] = lambda _: None) -> Self:
        """Waits until it has succeeded.

        Args:
            timeout: in seconds; the audit goes on after it.
            progress: called with the audit's state every second and whenever it changes.

        Raises:
            AuditTakesLonger: the time is up.
            RequestRefused: it failed or was cancelled, with its reason.
        """
        start = time.monotonic()
        audit: Json = {}
        for audit in self._client.follow(self.id):
            progress(audit)
            if timeout is not None and time.monotonic() - start >= timeout and audit["state"] not in TERMINAL:
                raise AuditTakesLonger(f"audit {self.id} is {audit['state']} after {timeout:g} seconds; it goes on")
        if audit["state"] != "succeeded":
            failure = audit.get("failure") or {"code": audit["state"], "detail": f"the audit was {audit['state']}"}
            raise RequestRefused(f"audit {self.id}: {failure['detail']} [{failure['code']}]")
        return self

    def events(self, after: int = 0) -> Iterator[Json]:
        """What happened to it and what happens until it has ended; see :meth:`Client.events`."""
        return self._client.events(self.id, after)

    def summary(self) -> Json:
        """Scores by role, contrasts, extremes and the finding."""
        return self._client.get(f"{self._here}/summary")

    def evidence(self, *, confidence: float = 0.95, fdr: float = 0.05) -> Json:
        """Metrics with intervals, significant samples, validity checks and limits."""
        return self._client.get(f"{self._here}/evidence", confidence=confidence, fdr=fdr)

    def scores(self) -> "pa.Table":
        """The scores as an Arrow table, a row per sample, with what determined them in its metadata.

        Raises:
            RequestRefused: the audit has not succeeded.
            ModuleNotFoundError: pyarrow is not installed.
        """
        import pyarrow.parquet as pq  # noqa: PLC0415  the light wheel does without

        return pq.read_table(io.BytesIO(self._client.request("GET", f"{self._here}/scores.parquet").content))

    def plot(self) -> Picture:
        """The scores by role as a picture, which a notebook shows; ``.save("scores.svg")`` writes it."""
        return plot_scores(self.summary())

    def report(self) -> str:
        """The report as HTML."""
        return self._client.request("GET", f"{self._here}/report").text


class Audits:
    """The audits of a service; see :class:`sslmem.client.http.Client` for the arguments."""

    def __init__(self, url: str, token: str) -> None:
        self.client = Client(url, token)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.client.__exit__(*exc)

    def request(
        self,
        *,
        targets: Sequence[str],
        references: Sequence[str],
        dataset: str,
        roles: str,
        name: str = "notebook",
        **spec: Any,  # noqa: ANN401  the service checks them
    ) -> Audit:
        """Requests an audit.

        Args:
            targets: ids of the encoders under audit.
            references: ids of the reference encoders.
            dataset: id of the dataset.
            roles: id of its table of roles.
            name: of the audit.
            **spec: fields of the score spec, such as ``views=10``.

        Raises:
            RequestRefused: the service refused it, with its reason.
        """
        audit = self.client.request_audit(
            name=name,
            target_ids=list(targets),
            reference_ids=list(references),
            dataset_id=dataset,
            role_set_id=roles,
            spec=spec,
        )
        return Audit(self.client, str(audit["id"]))

    def get(self, audit_id: str) -> Audit:
        """An audit that was requested before; it is asked for when something of it is."""
        return Audit(self.client, audit_id)
