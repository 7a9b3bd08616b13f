"""Loads an encoder strictly from a plain safetensors file: every entry is matched, or dropped by name, or an error."""

import hashlib
import re
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sslmem.encoders import architectures, layouts, represent
from sslmem.encoders.convert import convert_checkpoint
from sslmem.encoders.encoder import Encoder, LoadReport
from sslmem.encoders.layouts import Found, Options
from sslmem.encoders.producers import Producer, branches_of, producer_of, reason_to_drop
from sslmem.errors import (
    AmbiguousCheckpoint,
    NonFiniteRepresentation,
    ScoringError,
    SpecError,
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
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
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
        mean: normalisation of the input in [0, 1].
        std: likewise.
        method: how the encoder was trained, such as simclr or mae, which decides the tensor measured by default.
        representation: which tensor is measured; see ``sslmem.encoders.represent``. ``auto`` is the default one.
        branch: which of several encoders in the file, such as teacher; None is the producer's default.
        options: what weights do not show, such as ``num_heads``; see :mod:`sslmem.encoders.layouts`.
        device: where the encoder goes.

    Raises:
        UnknownArchitecture: the name is unknown, or was left out and cannot be told.
        StateDictMismatch: an entry is missing, left over or of another shape.
        AmbiguousCheckpoint: the file holds several encoders, of a producer that is not known or without that branch.
        UnreadableCheckpoint: the file is no safetensors file.
        SpecError: the encoder has no such tensor as ``representation`` asks for, or there is no such option.
    """
    try:
        entries = load_file(path)
    except Exception as error:
        raise UnreadableCheckpoint(f"{path.name} is not readable as safetensors: {error}") from error
    told = options or {}
    layouts.check_options(told)
    module, size, report = _recognise(entries, architecture, input_size, branch, told)
    method = method or report.method
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


Loaded = tuple[nn.Module, int, LoadReport]


def _recognise(
    entries: Mapping[str, Tensor], architecture: str | None, input_size: int | None, branch: str | None, told: Options
) -> Loaded:
    """Finds the encoder, builds it, and loads it."""
    if any("flat_param" in name for name in entries):
        raise UnreadableCheckpoint(
            "a shard of a model that was trained with FSDP: one rank is not a model; expected a consolidated state dict"
        )
    producer = producer_of(list(entries))
    places = layouts.find(entries)
    try:
        if architecture is not None and (
            by_name := _by_name(entries, architecture, input_size, branch, told, producer)
        ):
            return by_name
    except UnknownArchitecture:
        if not places:
            raise
    if not places:
        raise _unknown(entries)
    label, prefix, others = _choose(producer, list(places), branch)
    found = places[prefix](_without(prefix, entries), {**producer.options, **told})
    if found.build is not None and found.architecture is not None and architecture in (None, found.architecture):
        if input_size not in (None, found.input_size):
            raise StateDictMismatch(
                f"the encoder's positions are for {found.input_size} pixels; found {input_size} asked for"
            )
        module, size, notes, name = found.build(), found.input_size or 0, found.notes, found.architecture
    else:
        name = architecture or _infer(found.entries)
        module, size, notes = architectures.build(name, _shapes(found.entries), input_size)
        notes = found.notes + notes
        _fit_options(module, {**producer.options, **told}, told, notes)
    report = _load_strictly(module, found, entries, name, notes, producer, label, prefix, others)
    return module, size, report


def _by_name(
    entries: Mapping[str, Tensor],
    architecture: str,
    input_size: int | None,
    branch: str | None,
    told: Options,
    producer: Producer,
) -> Loaded | None:
    """Loads an encoder whose entries have the names of the architecture that was told.

    Returns:
        None if a layout may read them under other names.
    """
    module, size, notes = architectures.build(architecture, _shapes(_beside_stem(entries)), input_size)
    prefixes = _prefixes(module.state_dict(), entries)
    if not prefixes:
        if layouts.find(entries):
            return None
        raise StateDictMismatch(_what_is_missing(module.state_dict(), entries, architecture))
    label, prefix, others = _choose(producer, prefixes, branch)
    own = _without(prefix, entries)
    _fit_options(module, {**producer.options, **told}, told, notes)
    found = Found(own, {name: name for name in own})
    return module, size, _load_strictly(module, found, entries, architecture, notes, producer, label, prefix, others)


def _choose(producer: Producer, prefixes: list[str], branch: str | None) -> tuple[str, str, dict[str, str]]:
    """Which encoder is audited: its label, its prefix, and the labels of the others by their prefixes."""
    branches = branches_of(producer, prefixes)
    known = {label for label, _ in producer.branches}
    if branch is not None:
        if branch not in branches:
            raise AmbiguousCheckpoint(f"there is no branch {branch!r}; expected one of {', '.join(branches)}")
        label = branch
    elif len(branches) == 1 or next(iter(branches)) in known:
        label = next(iter(branches))
    else:
        raise AmbiguousCheckpoint(
            f"the checkpoint holds several encoders, under the prefixes {', '.join(map(repr, prefixes))}; "
            f"say which: --branch {' or '.join(branches)}"
        )
    return label, branches[label], {prefix: other for other, prefix in branches.items() if other != label}


def _fit_options(module: nn.Module, options: Options, told: Options, notes: list[str]) -> None:
    """Sets what the weights of a small stem do not show: padding, and whether max-pooling follows."""
    stem = getattr(module, "conv1", None)
    small = isinstance(stem, nn.Conv2d) and stem.kernel_size == (3, 3)
    for name in told:
        if not small or name not in ("stem_padding", "max_pool"):
            raise SpecError(f"the option {name} is of no use for this encoder: its architecture says it")
    if not isinstance(stem, nn.Conv2d) or not small:
        return
    if "stem_padding" in options:
        padding = int(options["stem_padding"])
        stem.padding = (padding, padding)
    if options.get("max_pool"):
        module.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
    if "stem_padding" in options or "max_pool" in options:
        notes[:] = [note for note in notes if not note.startswith("CIFAR stem")]
        pool = "with max-pooling" if options.get("max_pool") else "no max-pooling"
        notes.append(f"small stem: 3x3 convolution with padding {stem.padding[0]}, {pool}, which weights do not show")


def _beside_stem(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    stems = [name for name in entries if name.endswith(("conv1.weight", "patch_embed.proj.weight"))]
    stem = min(stems, key=len, default="")  # a convolution within a block has a longer name than the first one
    return _without(re.sub(r"(conv1|patch_embed\.proj)\.weight$", "", stem), entries)


def _shapes(entries: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in entries.items()}


def _without(prefix: str, entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in entries.items() if name.startswith(prefix)}


def _infer(entries: Mapping[str, Tensor]) -> str:
    def fault(module: nn.Module) -> str | None:
        wanted = {k: v for k, v in module.state_dict().items() if k != "conv1.weight" and not _counter(k)}
        return next((k for k, v in wanted.items() if k not in entries or v.shape != entries[k].shape), None)

    name = architectures.infer(fault)
    if name is None:
        raise _unknown(entries)
    return name


def _unknown(entries: Mapping[str, Tensor]) -> UnknownArchitecture:
    return UnknownArchitecture(
        "the architecture cannot be told from the checkpoint; expected its name, such as resnet18 or "
        f"vit_tiny_patch16_224. The file's entries begin with {', '.join(list(entries)[:SHOWN])}"
    )


def _counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _prefixes(wanted: Mapping[str, Tensor], entries: Mapping[str, Tensor]) -> list[str]:
    """The prefixes under which the file holds every wanted entry."""
    needed = [name for name in wanted if not _counter(name)]
    anchor = needed[0]
    candidates = [
        name[: -len(anchor)] for name in entries if name == anchor or name.endswith(("." + anchor, "/" + anchor))
    ]
    return [prefix for prefix in candidates if all(prefix + name in entries for name in needed)]


def _load_strictly(
    module: nn.Module,
    found: Found,
    entries: Mapping[str, Tensor],
    architecture: str,
    notes: list[str],
    producer: Producer,
    branch: str,
    prefix: str,
    others: Mapping[str, str],
) -> LoadReport:
    wanted = module.state_dict()
    if missing := [name for name in wanted if name not in found.entries and not _counter(name)]:
        raise StateDictMismatch(
            f"{len(missing)} of {len(wanted)} entries of {architecture} are missing, first "
            f"{', '.join(missing[:SHOWN])}; the file's entries begin with {', '.join(list(entries)[:SHOWN])}"
        )
    loaded = {name: found.entries[name] for name in wanted if name in found.entries}
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
    used = {prefix + found.sources[name] for name in loaded}
    reasons = {name: _reason(producer, name, others) for name in entries if name not in used}
    unexpected = [name for name, reason in reasons.items() if reason is None]
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
        dropped=list(reasons),
        absent_counters=len(absent),
        producer=producer.name,
        branch=branch,
        other_branches=sorted(others.values()),
        renamed=sum(found.sources[name] != name for name in loaded),
        dropped_because=dict(Counter(reason for reason in reasons.values() if reason)),
        method=producer.method,
    )


def _reason(producer: Producer, name: str, others: Mapping[str, str]) -> str | None:
    """Why an entry that is not loaded may be left out; None if it may not."""
    if said := reason_to_drop(producer, name):
        return said
    if HEADS.intersection(re.split(r"[./]", name)):
        return "a head"
    within = [prefix for prefix in others if prefix and name.startswith(prefix)]
    return f"another encoder: {others[max(within, key=len)]}" if within else None


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
