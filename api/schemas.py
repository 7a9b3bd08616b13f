"""Request and response bodies. Words are those of docs/glossary.md; times are UTC; digests begin with sha256:."""

import uuid
from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from sslmem.roles import Role
from sslmem.spec import REPRESENTATIONS, Compat, Distance, Pairing, Precision, Stratify

Item = TypeVar("Item")
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$", examples=["sha256:" + "0" * 64])]
# PostgreSQL keeps any character in text but NUL.
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]
Architecture = Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$", examples=["resnet18"])]
QueueName = Literal["default", "gpu"]
Method = Annotated[str, Field(max_length=50, pattern=r"^[A-Za-z0-9_.-]+$", examples=["simclr", "dino", "mae"])]
Branch = Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$", examples=["teacher", "ema"])]
Option = Annotated[str, Field(max_length=50, pattern=r"^[^\x00]*$")]
Options = Annotated[dict[Option, bool | int | FiniteFloat | Option], Field(max_length=20, examples=[{"num_heads": 6}])]
Channels = Annotated[list[FiniteFloat], Field(min_length=3, max_length=3)]
PositiveChannels = Annotated[list[Annotated[FiniteFloat, Field(gt=0)]], Field(min_length=3, max_length=3)]


WebhookEvent = Literal["audit.succeeded", "audit.failed", "audit.cancelled"]


class Body(BaseModel):
    """Root of the request bodies: unknown fields are errors."""

    model_config = ConfigDict(extra="forbid")


class Problem(BaseModel):
    """An error (RFC 9457, application/problem+json) with a stable code."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    instance: str | None = None
    errors: list[dict[str, Any]] | None = None
    audits: list[uuid.UUID] | None = Field(default=None, description="With `in-use`: the audits that use it.")


class Failure(BaseModel):
    """Why something failed or was refused."""

    code: str
    detail: str


class EncoderBody(Body):
    """Registers an encoder whose file the service holds already."""

    name: Name
    artifact_digest: Digest
    architecture: Architecture | None = None
    input_size: int | None = Field(default=None, ge=1, le=2048)
    mean: Channels | None = Field(default=None, description="With neither mean nor std: what the file says.")
    std: PositiveChannels | None = None
    method: Method | None = None
    branch: Branch | None = Field(default=None, description="Which of several encoders in the file, such as student.")
    options: Options = Field(default={}, description="What weights do not show; docs/encoders.md lists them.")


class DatasetBody(Body):
    """Registers a dataset whose file the service holds already."""

    name: Name
    artifact_digest: Digest


class Resource(BaseModel):
    """What encoders and datasets share; ``reason`` says why the check does not begin, if it does not."""

    id: uuid.UUID
    name: str
    state: Literal["received", "checking", "ready", "refused"]
    reason: str | None
    failure: Failure | None
    artifact_digest: str
    num_bytes: int
    num_audits: int = Field(description="How many audits use it; while there is one, it cannot be deleted.")
    created_at: datetime
    links: dict[str, str]


class SettingOut(BaseModel):
    """Something that weights do not show, and who said it: told, weights, file, producer or default."""

    value: bool | int | float | str | list[float]
    source: Literal["told", "weights", "file", "producer", "default"]


class EncoderOut(Resource):
    """An encoder; what the check found is null until it is ready.

    ``branch`` is which of the encoders in the file is audited, ``other_branches`` are the others. ``settings`` are
    what weights do not show, ``options`` those of them that can be told. An encoder with ``suspicions`` is suspect: it
    can be audited, but the gate passes no verdict on it.
    """

    architecture: str | None
    input_size: int | None
    mean: list[float] | None
    std: list[float] | None
    method: str | None
    branch: str | None
    other_branches: list[str] | None
    options: dict[str, Any]
    settings: dict[str, SettingOut] | None
    suspect: bool | None
    suspicions: list[str]
    weights_digest: str | None
    representation_dim: int | None
    views_per_second: float | None
    load_report: dict[str, Any] | None


class DatasetOut(Resource):
    """A dataset; what the check found is null until it is ready.

    ``num_skipped`` samples cannot be scored, ``num_equal`` are the same file as another one; ``labels`` counts samples.
    """

    format: str | None
    num_samples: int | None
    num_skipped: int | None
    num_equal: int | None
    labels: dict[str, int] | None


class SampleOut(BaseModel):
    """A sample of a dataset; ``skipped`` says why it cannot be scored, if so."""

    model_config = ConfigDict(from_attributes=True)

    path: str
    sample_key: str
    label: str | None
    skipped: str | None


class TwinsOut(BaseModel):
    """Samples of a role that are the same file as one of another role, or else look like one; a few pairs of them."""

    role: Role
    other: Role
    num_exact: int
    num_near: int
    examples: list[list[str]]


class RoleSetOut(BaseModel):
    """A table of roles."""

    id: uuid.UUID
    dataset_id: uuid.UUID
    name: str
    digest: str
    num_samples: int
    counts: dict[str, int]
    twins: list[TwinsOut] | None = Field(description="By pair of roles; pairs without any are left out.")
    num_audits: int
    created_at: datetime


class SpecBody(Body):
    """How to measure; the input size is the encoders'. The recipe is a name or a list of augmentations."""

    views: int = Field(default=10, ge=1, le=1024)
    pairing: Pairing = "views"
    distance: Distance = "l2"
    normalize: bool = True
    recipe: str | list[dict[str, dict[str, Any] | None] | str] = "simclr"
    seed: int = Field(default=0, ge=0, lt=2**63)
    representation: str = Field(
        default="auto",
        pattern=rf"^(auto|{REPRESENTATIONS})$",
        description="The tensor that is measured; auto is what the encoders' method asks for.",
    )
    precision: Precision = "float32"
    stratify: Stratify | None = Field(
        default=None, description="Views in a group that spreads evenly; null: independent."
    )
    compat: Compat | None = Field(default=None, description="A published convention, which fixes other fields.")


class AuditBody(Body):
    """Requests an audit."""

    name: Name = "audit"
    target_ids: list[uuid.UUID] = Field(min_length=1, max_length=64)
    reference_ids: list[uuid.UUID] = Field(min_length=1, max_length=64)
    dataset_id: uuid.UUID
    role_set_id: uuid.UUID
    spec: SpecBody = Field(default_factory=SpecBody)
    priority: int = Field(default=0, ge=-100, le=100, description="Higher goes first.")
    queue: QueueName = Field(default="default", description="`gpu`: only workers with a GPU may take it.")
    force: bool = Field(default=False, description="Make a new audit even if the same was requested before.")


class ProgressOut(BaseModel):
    """How far an audit is."""

    samples_done: int
    samples_total: int
    seconds_left: float | None


class AuditOut(BaseModel):
    """An audit; ``reason`` says why nothing moves, if nothing does; ``deadline_at`` is when it fails if that lasts.

    ``kept_at`` is since when no policy touches it, ``scores_deleted_at`` when its scores were deleted.
    """

    id: uuid.UUID
    name: str
    state: Literal["queued", "running", "paused", "finalising", "succeeded", "failed", "cancelled"]
    project: str
    priority: int
    queue: QueueName
    progress: ProgressOut
    reason: str | None
    deadline_at: datetime | None
    failure: Failure | None
    dataset_id: uuid.UUID
    role_set_id: uuid.UUID
    target_ids: list[uuid.UUID]
    reference_ids: list[uuid.UUID]
    spec: dict[str, Any]
    spec_digest: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    kept_at: datetime | None
    scores_deleted_at: datetime | None
    suspicions: list[str] = Field(description="What speaks against its encoders; the gate passes none with any.")
    links: dict[str, str]


class ChunkOut(BaseModel):
    """A part of an audit that one worker computes at a time; ``failure`` is of the last try, if that failed."""

    number: int
    start: int
    stop: int
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    attempts: int
    samples_done: int
    worker: str | None
    lease_expires_at: datetime | None
    available_at: datetime
    failure: Failure | None


class ScoreOut(BaseModel):
    """One sample's scores; null with a reason in ``skipped`` when it could not be scored.

    ``z`` and ``score_compat`` relate it to the other samples: they are null until the audit has succeeded.
    """

    model_config = ConfigDict(from_attributes=True)

    sample: str
    sample_key: str
    role: Role
    score: float | None
    score_bounded: float | None
    standard_error: float | None
    z: float | None = None
    score_compat: float | None = None
    alignment_target: float | None
    alignment_reference: float | None
    alignment_targets: list[float] | None
    alignment_references: list[float] | None
    reference_spread: float | None
    num_views: int | None
    skipped: str | None


class EventOut(BaseModel):
    """What happened to an audit; ``type`` is audit. or chunk. and the state moved to."""

    model_config = ConfigDict(from_attributes=True)

    number: int
    type: str
    created_at: datetime
    data: dict[str, Any]


class WebhookBody(Body):
    """Adds a webhook."""

    url: str = Field(max_length=2000, description="https, at a public address.", examples=["https://hooks.example/x"])
    events: list[WebhookEvent] = Field(default=["audit.succeeded", "audit.failed", "audit.cancelled"], min_length=1)


class WebhookOut(BaseModel):
    """A webhook, without its secret."""

    model_config = ConfigDict(from_attributes=True)

    id: uuid.UUID
    url: str
    events: list[str]
    created_at: datetime
    disabled_at: datetime | None


class NewWebhook(WebhookOut):
    """A webhook that was just added, with the secret that it verifies deliveries with; it is not shown again."""

    secret: str


class AttemptOut(BaseModel):
    """One attempt to deliver; neither status nor error while it is under way."""

    model_config = ConfigDict(from_attributes=True)

    number: int
    started_at: datetime
    ended_at: datetime | None
    status: int | None
    error: str | None


class DeliveryOut(BaseModel):
    """What is or was delivered to a webhook."""

    id: uuid.UUID
    type: str
    state: Literal["waiting", "sending", "delivered", "failed"]
    payload: dict[str, Any]
    created_at: datetime
    next_attempt_at: datetime | None
    attempts: list[AttemptOut]


class QueueOut(BaseModel):
    """What waits for the workers of a queue, and what they have.

    Workers with a GPU serve both queues, the others ``default`` alone. ``reason`` says why what waits does not move.
    """

    model_config = ConfigDict(from_attributes=True)

    name: QueueName
    workers_alive: int
    last_seen_at: datetime | None
    audits_open: int
    chunks_waiting: int
    chunks_running: int
    checks_waiting: int
    checks_running: int
    reason: str | None


class WorkerOut(BaseModel):
    """A worker."""

    id: str
    device: str
    queues: list[QueueName]
    alive: bool
    busy_with: str | None
    started_at: datetime
    last_seen_at: datetime


class PageOut(BaseModel, Generic[Item]):
    """Some items; ``next_cursor`` asks for the following ones."""

    items: list[Item]
    next_cursor: str | None = None


class ArtifactOut(BaseModel):
    """A stored file, and who needs it; ``unused_since`` is null while an audit does."""

    model_config = ConfigDict(from_attributes=True)

    digest: str
    num_bytes: int
    stored_at: datetime
    num_encoders: int
    num_datasets: int
    num_audits: int
    unused_since: datetime | None


class FilesOut(BaseModel):
    """Files of one kind; ``weights`` are made by the check of an encoder, ``unnamed`` ones belong to nothing."""

    model_config = ConfigDict(from_attributes=True)

    kind: Literal["dataset", "encoder", "weights", "unnamed", "incoming"]
    num_files: int
    num_bytes: int


class RowsOut(BaseModel):
    """A table of the database: rows as its statistics have them, bytes with indexes."""

    model_config = ConfigDict(from_attributes=True)

    table: str
    num_rows_estimated: int
    num_bytes: int


class StorageOut(BaseModel):
    """What is stored, and the bytes left on the disk of the files."""

    model_config = ConfigDict(from_attributes=True)

    files: list[FilesOut]
    tables: list[RowsOut]
    free_bytes: int


class DueOut(BaseModel):
    """Something that a policy deletes, and when."""

    model_config = ConfigDict(from_attributes=True)

    kind: Literal["scores", "audit", "encoder", "dataset", "file"]
    id: str
    name: str
    due_at: datetime


class RetentionOut(BaseModel):
    """The policies, null if there is none, and what they delete next."""

    keep_scores_days: float | None
    keep_audits_days: float | None
    keep_unused_days: float | None
    keep_unnamed_files_days: float
    num_audits_kept: int
    items: list[DueOut]


class Health(BaseModel):
    """Whether the service can do its work."""

    status: Literal["ok", "degraded"]
    database: bool
    broker: bool
    sweeper: bool
    version: str


class Limits(BaseModel):
    """What the service accepts at most."""

    encoder_bytes: int
    dataset_bytes: int
    roles_bytes: int
