"""Loads an encoder strictly from a plain safetensors file: every entry is matched, or dropped by name, or an error."""

import hashlib
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from sslmem.encoders import represent
from sslmem.encoders.convert import convert_checkpoint
from sslmem.encoders.encoder import Encoder
from sslmem.encoders.producers import IMAGENET_MEAN, Producer, producer_of
from sslmem.encoders.recognise import Recogniser
from sslmem.encoders.said import METHODS, Said, read_said
from sslmem.encoders.settings import OPTIONS, Chooser, Options, Setting, check_options
from sslmem.encoders.strict import HEADS, load_strictly
from sslmem.errors import NonFiniteRepresentation, ScoringError, SpecError, UnreadableCheckpoint

__all__ = ["HEADS", "IMAGENET_MEAN", "IMAGENET_STD", "ProbeResult", "load_checkpoint", "load_encoder", "probe"]

IMAGENET_STD = (0.229, 0.224, 0.225)
Three = tuple[float, float, float]


def load_checkpoint(
    path: Path,
    *,
    architecture: str | None = None,
    input_size: int | None = None,
    mean: Three | None = None,
    std: Three | None = None,
    method: str | None = None,
    representation: str = "auto",
    branch: str | None = None,
    options: Options | None = None,
    device: str = "cpu",
) -> Encoder:
    """Converts and loads an untrusted checkpoint file; see :func:`load_encoder` and ``convert_checkpoint``."""
    with tempfile.TemporaryDirectory(prefix="sslmem-") as folder:
        plain = Path(folder) / "encoder.safetensors"
        convert_checkpoint(path, plain)
        return load_encoder(
            plain,
            architecture=architecture,
            input_size=input_size,
            mean=mean,
            std=std,
            method=method,
            representation=representation,
            branch=branch,
            options=options,
            device=device,
        )


def load_encoder(
    path: Path,
    *,
    architecture: str | None = None,
    input_size: int | None = None,
    mean: Three | None = None,
    std: Three | None = None,
    method: str | None = None,
    representation: str = "auto",
    branch: str | None = None,
    options: Options | None = None,
    device: str = "cpu",
) -> Encoder:
    """Loads an encoder from a plain safetensors file, strictly.

    Args:
        path: the file, as ``convert_checkpoint`` writes it.
        architecture: name known to torchvision or timm; None infers residual networks and plain vision transformers.
        input_size: side of the views in pixels; None takes what the weights or the architecture tell.
        mean: normalisation of the input in [0, 1]. If neither it nor ``std`` is given, what the file says, or its
            producer's, or ImageNet's; if one is, ImageNet's for the other.
        std: likewise.
        method: how the encoder was trained, such as simclr or mae, which decides the tensor measured by default.
        representation: which tensor is measured; see ``sslmem.encoders.represent``. ``auto`` is the default one.
        branch: which of several encoders in the file, such as teacher; None is the producer's default.
        options: what weights do not show, such as ``num_heads``; see :mod:`sslmem.encoders.settings`.
        device: where the encoder goes.

    Raises:
        UnknownArchitecture: the name is unknown, or was left out and cannot be told.
        StateDictMismatch: an entry is missing, left over or of another shape.
        AmbiguousCheckpoint: the file holds several encoders, of a producer that is not known or without that branch.
        UnreadableCheckpoint: the file is no safetensors file.
        SpecError: the encoder has no such tensor as ``representation`` asks for, or there is no such option.
    """
    entries, metadata = _read(path)
    check_options(options or {})
    said, producer = read_said(metadata), producer_of(list(entries))
    chooser = Chooser(options or {}, said.options, producer.options)
    match = Recogniser(entries, producer, said, chooser, input_size=input_size, branch=branch).find(architecture)
    chooser.check_used()
    report = load_strictly(match, entries)
    module, size = match.module, match.input_size
    mean, std = _normalisation(mean, std, said, producer, chooser)
    method = method or report.method or METHODS.get(said.kind or "")
    module.eval().requires_grad_(requires_grad=False)
    digest = _digest(module)
    module.to(device).to(memory_format=torch.channels_last)
    default = represent.default_representation(module, method)
    chosen = default if representation == "auto" else representation
    dropped = {name: entries[name] for name in report.dropped}
    head = represent.build_head(dropped, module, size, device) if chosen == "head" else None
    report = report.model_copy(
        update={
            "method": method,
            "default_representation": default,
            "representation": chosen,
            "head": head[1] if head else None,
            "settings": chooser.settings,
            "told_again": [name for name, setting in chooser.settings.items() if _is_told_again(name, setting)],
            "inferred": [*report.inferred, *chooser.notes],
        }
    )
    extract = represent.extractor(module, chosen, head[0] if head else None)
    return Encoder(module, size, mean, std, digest, report, extract)


def _is_told_again(name: str, setting: Setting) -> bool:
    return name in OPTIONS and setting.source != "weights"


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str] | None]:
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.offset_keys()}, file.metadata()
    except Exception as error:
        raise UnreadableCheckpoint(f"{path.name} is not readable as safetensors: {error}") from error


def _normalisation(
    mean: Three | None, std: Three | None, said: Said, producer: Producer, chooser: Chooser
) -> tuple[Three, Three]:
    """The user's word, else the file's, else the producer's custom, else ImageNet's; written down."""
    if mean is not None or std is not None:
        found, source = (mean or IMAGENET_MEAN, std or IMAGENET_STD), "told"
    elif said.mean is not None and said.std is not None:
        found, source = (said.mean, said.std), "file"
    elif producer.mean is not None and producer.std is not None:
        found, source = (producer.mean, producer.std), "producer"
    else:
        found, source = (IMAGENET_MEAN, IMAGENET_STD), "default"
    if min(found[1]) <= 0:
        raise SpecError(f"the normalisation divides by std; expected numbers above 0, found {found[1]}")
    for name, value in zip(("mean", "std"), found, strict=True):
        chooser.settings[name] = Setting.model_validate({"value": list(value), "source": source})
    return found


def _digest(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return "sha256:" + digest.hexdigest()


@dataclass(frozen=True)
class ProbeResult:
    """What a first run of an encoder shows."""

    representation_dim: int
    views_per_second: float


def probe(encoder: Encoder, *, num_views: int = 64) -> ProbeResult:
    """Runs an encoder on noise: its output is finite and of one width, and this fast.

    Raises:
        ScoringError: the encoder does not take views of its input size.
        NonFiniteRepresentation: some outputs are not finite.
    """
    device = next(encoder.module.parameters()).device
    generator = torch.Generator().manual_seed(0)
    views = torch.rand((num_views, 3, encoder.input_size, encoder.input_size), generator=generator).to(device)
    try:
        representations = encoder.represent(views)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError, ValueError, AttributeError) as error:
        raise ScoringError(
            f"{encoder.report.architecture} does not take views of {encoder.input_size} pixels; "
            f"expected its own input size ({' '.join(str(error).split())})"
        ) from error
    if not bool(torch.isfinite(representations).all()):
        raise NonFiniteRepresentation("the encoder's output on random images is not finite: its weights are unusable")
    started = time.perf_counter()
    encoder.represent(views).cpu()
    return ProbeResult(representations.shape[1], num_views / (time.perf_counter() - started))
