"""What the service refuses, with a stable code and a kind; HTTP is not known here."""

import uuid
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

Kind = Literal["not-found", "gone", "conflict", "invalid", "unprocessable", "too-large", "unauthorized", "unavailable"]


class ServiceError(Exception):
    """The request cannot be carried out.

    Attributes:
        more: further fields of the answer, for programs.
    """

    code: ClassVar[str] = "service-error"
    kind: ClassVar[Kind] = "invalid"

    def __init__(self, detail: str | None = None) -> None:
        self.detail = detail or (type(self).__doc__ or "").strip()
        self.more: dict[str, Any] = {}
        super().__init__(self.detail)


class Unauthorized(ServiceError):
    """Expected the header Authorization: Bearer TOKEN with a valid API token."""

    code, kind = "unauthorized", "unauthorized"


class EncoderNotFound(ServiceError):
    """There is no such encoder."""

    code, kind = "encoder-not-found", "not-found"


class DatasetNotFound(ServiceError):
    """There is no such dataset."""

    code, kind = "dataset-not-found", "not-found"


class RoleSetNotFound(ServiceError):
    """There is no such table of roles for this dataset."""

    code, kind = "role-set-not-found", "not-found"


class AuditNotFound(ServiceError):
    """There is no such audit."""

    code, kind = "audit-not-found", "not-found"


class ArtifactNotFound(ServiceError):
    """There is no file with this digest; upload it first."""

    code, kind = "artifact-not-found", "not-found"


class NotReady(ServiceError):
    """It has not been checked yet, or was refused."""

    code, kind = "not-ready", "conflict"


class InUse(ServiceError):
    """An audit uses it; delete the audit first."""

    code, kind = "in-use", "conflict"

    def __init__(self, detail: str, audits: Sequence[uuid.UUID]) -> None:
        super().__init__(detail)
        self.more = {"audits": list(audits)}


class AuditNotEnded(ServiceError):
    """The audit has not ended; cancel it first."""

    code, kind = "audit-not-ended", "conflict"


class AuditKept(ServiceError):
    """The audit is kept; release it first."""

    code, kind = "audit-kept", "conflict"


class ScoresDeleted(ServiceError):
    """The scores of the audit were deleted; its summary stays."""

    code, kind = "scores-deleted", "gone"


class InvalidMove(ServiceError):
    """The audit is in no state for this."""

    code, kind = "invalid-move", "conflict"


class AuditNotSucceeded(ServiceError):
    """The audit has no result (yet)."""

    code, kind = "audit-not-succeeded", "conflict"


class InvalidRequest(ServiceError):
    """The request contradicts itself."""

    code, kind = "invalid-request", "invalid"


class KeyReused(ServiceError):
    """The Idempotency-Key came with another request before."""

    code, kind = "idempotency-key-reused", "unprocessable"


class KeySpent(ServiceError):
    """What the request with this Idempotency-Key made was deleted."""

    code, kind = "idempotency-key-spent", "gone"


class UploadTooLarge(ServiceError):
    """The upload is larger than allowed; GET /v1/limits says how large it may be."""

    code, kind = "upload-too-large", "too-large"


class DigestMismatch(ServiceError):
    """The bytes that arrived do not have the digest that was announced."""

    code, kind = "digest-mismatch", "invalid"


class DatabaseUnavailable(ServiceError):
    """The database does not answer; try again."""

    code, kind = "database-unavailable", "unavailable"


class StorageFull(ServiceError):
    """The service has no room left for the upload."""

    code, kind = "storage-full", "unavailable"


class WebhookNotFound(ServiceError):
    """There is no such webhook."""

    code, kind = "webhook-not-found", "not-found"


class DeliveryNotFound(ServiceError):
    """There is no such delivery of this webhook."""

    code, kind = "delivery-not-found", "not-found"


class WebhookDisabled(ServiceError):
    """The webhook's receiver answered 410, gone; remove the webhook and add it again."""

    code, kind = "webhook-disabled", "conflict"


class TooManyWebhooks(ServiceError):
    """The project has as many webhooks as it may have; remove one first."""

    code, kind = "too-many-webhooks", "conflict"
