"""Loads an encoder strictly from a plain safetensors file: every entry is matched, or dropped by name, or an error."""

import hashlib
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sslmem.encoders import architectures, represent
from sslmem.encoders.convert import convert_checkpoint
from sslmem.encoders.encoder import Encoder, LoadReport
from sslmem.errors import (
    AmbiguousCheckpoint,
    NonFiniteRepresentation,
    ScoringError,
    StateDictMismatch,
    UnknownArchitecture,
    UnreadableCheckpoint,
)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Heads that come after the representation; an entry whose name holds one of these parts is dropped and reported.
HEADS = frozenset({
    "fc", "head", "heads", "classifier", "projector", "projection_head", "projection", "predictor",
    "prediction_head", "projector_head", "prototypes", "mlp_head", "contrastive_head", "online_classifier",
    "linear_classifier",
})  # fmt: skip
SHOWN = 5


def load_checkpoint(
    path: Path,
    *,
    architecture: str | None = None,
    input_size: int | None = None,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    method: str | None = None,
    representation: str = "auto",
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
            device=device,
        )


def load_encoder(
    path: Path,
    *,
    architecture: str | None = None,
    input_size: int | None = None,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    method: str | None = None,
    representation: str = "auto",
    device: str = "cpu",
) -> Encoder:
    """Loads an encoder from a plain safetensors file, strictly.

    Args:
        path: the file, as ``convert_checkpoint`` writes it.
        architecture: name known to torchvision or timm; None infers a ResNet from its shapes.
        input_size: side of the views in pixels; None takes what the weights or the architecture tell.
        mean: normalisation of the input in [0, 1].
        std: likewise.
        method: how the encoder was trained, such as simclr or mae, which decides the tensor measured by default.
        representation: which tensor is measured; see ``sslmem.encoders.represent``. ``auto`` is the default one.
        device: where the encoder goes.

    Raises:
        UnknownArchitecture: the name is unknown, or was left out and cannot be told.
        StateDictMismatch: an entry is missing, left over or of another shape.
        AmbiguousCheckpoint: the file holds several complete encoders of the architecture.
        UnreadableCheckpoint: the file is no safetensors file.
        SpecError: the encoder has no such tensor as ``representation`` asks for.
    """
    try:
        entries = load_file(path)
    except Exception as error:
        raise UnreadableCheckpoint(f"{path.name} is not readable as safetensors: {error}") from error
    if architecture is None:
        architecture = _infer(entries)
    shapes = {name: tuple(tensor.shape) for name, tensor in entries.items()}
    stems = [name for name in shapes if name.endswith(("conv1.weight", "patch_embed.proj.weight"))]
    stem = min(stems, key=len, default="")  # a convolution within a block has a longer name than the first one
    hint = stem.removesuffix("conv1.weight").removesuffix("patch_embed.proj.weight")
    module, size, notes = architectures.build(architecture, _without(hint, shapes), input_size)
    report = _load_strictly(module, entries, architecture, notes)
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
        }
    )
    extract = represent.extractor(module, chosen, head[0] if head else None)
    return Encoder(module, size, mean, std, digest, report, extract)


def _without(prefix: str, entries: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {name[len(prefix) :]: shape for name, shape in entries.items() if name.startswith(prefix)}


def _infer(entries: Mapping[str, Tensor]) -> str:
    def fault(module: nn.Module) -> str | None:
        wanted = {k: v for k, v in module.state_dict().items() if k != "conv1.weight"}
        prefixes = _prefixes(wanted, entries)
        if len(prefixes) == 0:
            return "entries are missing"
        return next((k for k, v in wanted.items() if v.shape != entries.get(prefixes[0] + k, v).shape), None)

    name = architectures.infer(fault)
    if name is None:
        raise UnknownArchitecture(
            "the architecture cannot be told from the checkpoint; expected its name, such as resnet18 or "
            f"vit_tiny_patch16_224. The file's entries begin with {', '.join(list(entries)[:SHOWN])}"
        )
    return name


def _counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _prefixes(wanted: Mapping[str, Tensor], entries: Mapping[str, Tensor]) -> list[str]:
    """The prefixes under which the file holds every wanted entry."""
    needed = [name for name in wanted if not _counter(name)]
    anchor = needed[0]
    candidates = [name[: -len(anchor)] for name in entries if name == anchor or name.endswith("." + anchor)]
    return [prefix for prefix in candidates if all(prefix + name in entries for name in needed)]


def _load_strictly(module: nn.Module, entries: Mapping[str, Tensor], architecture: str, notes: list[str]) -> LoadReport:
    wanted = module.state_dict()
    prefixes = _prefixes(wanted, entries)
    if len(prefixes) > 1:
        raise AmbiguousCheckpoint(
            f"the checkpoint holds several encoders of the architecture {architecture}, under the prefixes "
            f"{', '.join(repr(p) for p in prefixes)}; save the one to audit alone"
        )
    if not prefixes:
        raise StateDictMismatch(_what_is_missing(wanted, entries, architecture))
    prefix = prefixes[0]
    loaded = {name: entries[prefix + name] for name in wanted if prefix + name in entries}
    integers = [
        k for k, v in loaded.items() if not (_counter(k) or v.is_floating_point() or v.dtype == wanted[k].dtype)
    ]
    if integers:
        name = integers[0]
        raise StateDictMismatch(
            f"{len(integers)} entries hold no floating-point numbers: {prefix}{name} is {loaded[name].dtype}, "
            f"expected {wanted[name].dtype}; quantised encoders are not read"
        )
    wrong = [name for name, tensor in loaded.items() if tensor.shape != wanted[name].shape]
    if wrong:
        name = wrong[0]
        raise StateDictMismatch(
            f"{len(wrong)} entries have another shape than in {architecture}: {prefix}{name} is "
            f"{list(loaded[name].shape)}, expected {list(wanted[name].shape)}; name another architecture or input size"
        )
    rest = [name for name in entries if not name.startswith(prefix) or name[len(prefix) :] not in loaded]
    unexpected = [name for name in rest if not HEADS.intersection(name.split("."))]
    if unexpected:
        raise StateDictMismatch(
            f"{len(unexpected)} entries belong neither to {architecture} nor to a known head: "
            f"{', '.join(unexpected[:SHOWN])}; expected only the encoder and heads named {', '.join(sorted(HEADS))}"
        )
    absent = [name for name in wanted if name not in loaded]
    module.load_state_dict({**loaded, **{name: wanted[name] for name in absent}}, strict=True)
    return LoadReport(
        architecture=architecture,
        inferred=notes,
        prefix=prefix,
        matched=len(loaded),
        dropped=rest,
        absent_counters=len(absent),
    )


def _what_is_missing(wanted: Mapping[str, Tensor], entries: Mapping[str, Tensor], architecture: str) -> str:
    """Says which entries are missing under the prefix that fits best."""
    needed = [name for name in wanted if not _counter(name)]
    suffixes = {"": 0} | {
        name[: -len(anchor)]: 0 for anchor in needed[:SHOWN] for name in entries if name.endswith("." + anchor)
    }
    best = max(suffixes, key=lambda prefix: sum(prefix + name in entries for name in needed))
    missing = [best + name for name in needed if best + name not in entries]
    return (
        f"{len(missing)} of {len(needed)} entries of {architecture} are missing, first "
        f"{', '.join(missing[:SHOWN])}; the file's entries begin with {', '.join(list(entries)[:SHOWN])}"
    )


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
