"""What can go wrong, as one tree: the docstring of a leaf is its default message.

Each class carries a stable ``code`` that the HTTP API, the database and the command line show unchanged.
"""

from typing import ClassVar


class SslmemError(Exception):
    """Something about the input keeps this from being evaluated."""

    code: ClassVar[str] = "error"

    def __init__(self, detail: str | None = None) -> None:
        self.detail = detail or (type(self).__doc__ or "").strip()
        super().__init__(self.detail)


# Checkpoints and encoders


class CheckpointError(SslmemError):
    """The checkpoint cannot be used."""

    code = "checkpoint-error"


class UnreadableCheckpoint(CheckpointError):
    """The file is neither a safetensors file nor a torch file, or it is damaged."""

    code = "checkpoint-unreadable"


class UnsafeCheckpoint(CheckpointError):
    """Reading the file inertly would exceed the limits of memory or time."""

    code = "checkpoint-unsafe"


class UnknownArchitecture(CheckpointError):
    """The architecture is known neither to torchvision nor to timm."""

    code = "architecture-unknown"


class StateDictMismatch(CheckpointError):
    """The entries of the checkpoint are not those of the architecture."""

    code = "state-dict-mismatch"


class AmbiguousCheckpoint(CheckpointError):
    """The checkpoint holds several encoders; which one is meant must be said."""

    code = "checkpoint-ambiguous"


# Datasets and roles


class DatasetError(SslmemError):
    """The dataset cannot be used."""

    code = "dataset-error"


class UnreadableDataset(DatasetError):
    """The dataset is of no format that is understood, or it is damaged."""

    code = "dataset-unreadable"


class AmbiguousDataset(DatasetError):
    """The dataset can be understood in several ways."""

    code = "dataset-ambiguous"


class EmptyDataset(DatasetError):
    """The dataset holds no image files."""

    code = "dataset-empty"


class UnsafeArchive(DatasetError):
    """The archive goes beyond its limits or points outside itself."""

    code = "archive-unsafe"


class UndecodableImage(DatasetError):
    """The image cannot be decoded."""

    code = "image-undecodable"


class RolesError(DatasetError):
    """The table of roles is not usable with this dataset."""

    code = "roles-invalid"


# Specs and scoring


class SpecError(SslmemError):
    """The score spec is not usable."""

    code = "spec-invalid"


class IncompatibleScores(SpecError):
    """The scores were not measured alike, so they cannot be put together."""

    code = "scores-incompatible"


class RecipeError(SpecError):
    """The recipe of augmentations is not usable."""

    code = "recipe-invalid"


class ScoringError(SslmemError):
    """The scores cannot be computed."""

    code = "scoring-error"


class NonFiniteRepresentation(ScoringError):
    """The encoder returns representations that are not finite."""

    code = "representation-not-finite"


class CollapsedEncoder(ScoringError):
    """The encoder maps different images to the same representation; scores of it would mean nothing."""

    code = "encoder-collapsed"


class DeviceUnavailable(ScoringError):
    """The requested device is not present on this machine."""

    code = "device-unavailable"


# The gate


class PolicyError(SslmemError):
    """The policy is not usable."""

    code = "policy-invalid"


class EvidenceError(SslmemError):
    """What an audit found cannot be judged."""

    code = "evidence-unusable"


class AuditTakesLonger(SslmemError):
    """The audit goes on; it had not ended when the time to wait for it was up."""

    code = "audit-takes-longer"


class StatementError(SslmemError):
    """The statement does not hold."""

    code = "statement-invalid"


class SigningError(SslmemError):
    """A key is not usable, or there is nothing to sign."""

    code = "signing-failed"


# The service, as its clients see it


class ServiceUnreachable(SslmemError):
    """The service does not answer."""

    code = "service-unreachable"


class RequestRefused(SslmemError):
    """The service refused the request."""

    code = "request-refused"
