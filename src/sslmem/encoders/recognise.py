"""Finds the encoder in a checkpoint's entries: who wrote it, where it stands, what it is, and builds its module."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torchvision
from torch import Tensor, nn

from sslmem.encoders import architectures, layouts
from sslmem.encoders.layouts import Entries, Found
from sslmem.encoders.producers import Producer, branches_of
from sslmem.encoders.said import Said
from sslmem.encoders.settings import Chooser, Setting
from sslmem.errors import AmbiguousCheckpoint, StateDictMismatch, UnknownArchitecture, UnreadableCheckpoint

SHOWN = 5


@dataclass(frozen=True)
class Match:
    """An encoder that was found, and its module with random weights.

    Attributes:
        module: to load.
        found: the entries under the module's names.
        architecture: its name.
        input_size: of its views, in pixels.
        producer: who wrote the file.
        branch: what the encoder is called.
        prefix: where it stands.
        others: what the other encoders are called, by their prefixes.
        notes: what was inferred, as sentences.
    """

    module: nn.Module
    found: Found
    architecture: str
    input_size: int
    producer: Producer
    branch: str
    prefix: str
    others: Mapping[str, str]
    notes: list[str]


class Recogniser:
    """Finds an encoder.

    Args:
        entries: of the file.
        producer: who wrote it.
        said: what the file says of its encoder.
        chooser: of what weights do not show.
        input_size: as told.
        branch: as told.
    """

    def __init__(
        self,
        entries: Entries,
        producer: Producer,
        said: Said,
        chooser: Chooser,
        *,
        input_size: int | None,
        branch: str | None,
    ) -> None:
        self._entries, self._producer, self._said, self._chooser = entries, producer, said, chooser
        self._input_size, self._branch = input_size, branch

    def find(self, architecture: str | None) -> Match:
        """Finds the encoder, of the architecture told or of what the entries tell.

        Raises:
            UnknownArchitecture: the name is unknown, or was left out and cannot be told.
            StateDictMismatch: there is no such encoder.
            AmbiguousCheckpoint: there are several, of a producer that is not known or without that branch.
            UnreadableCheckpoint: the file is a part of one.
        """
        if any("flat_param" in name for name in self._entries):
            raise UnreadableCheckpoint(
                "a shard of a model that was trained with FSDP: one rank is not a model; "
                "expected a consolidated state dict"
            )
        places = layouts.find(self._entries)
        if named := self._by_names(architecture, tolerant=bool(places)):
            return named
        if not places:
            raise unknown(self._entries)
        label, prefix, others = self._choose(list(places))
        found = places[prefix](without(prefix, self._entries), self._chooser)
        if found.build is None or found.architecture is None or architecture not in (None, found.architecture):
            name = architecture or _infer(found.entries)
            size = self._size(of_weights="pos_embed" in found.entries)
            module, size, notes = architectures.build(name, _shapes(found.entries), size)
            self._fit_stem(module, notes)
            return self._match(module, found, name, size, (label, prefix, others), found.notes + notes)
        size, notes = self._size_of(found)
        where = label, prefix, others
        return self._match(found.build(size), found, found.architecture, size, where, found.notes + notes)

    def _by_names(self, architecture: str | None, *, tolerant: bool) -> Match | None:
        """By the name that was told; by the one that the file says if that fits."""
        if architecture is not None:
            try:
                return self._by_name(architecture, tolerant=tolerant)
            except UnknownArchitecture:
                if not tolerant:
                    raise
                return None
        said = self._said.architecture
        if said is None or not architectures.is_known(said):
            return None
        try:
            found = self._by_name(said, tolerant=True)
        except StateDictMismatch:
            return None
        if found is not None:
            found.notes.insert(0, f"the file says that it is {said}")
        return found

    def _by_name(self, architecture: str, *, tolerant: bool) -> Match | None:
        """An encoder whose entries have the names of an architecture; None if a layout may know others."""
        beside = _beside_stem(self._entries)
        size = self._size(of_weights="pos_embed" in beside)
        module, size, notes = architectures.build(architecture, _shapes(beside), size)
        prefixes = _prefixes(module.state_dict(), self._entries)
        if not prefixes:
            if tolerant:
                return None
            raise StateDictMismatch(what_is_missing(module.state_dict(), self._entries, architecture))
        label, prefix, others = self._choose(prefixes)
        own = without(prefix, self._entries)
        self._fit_stem(module, notes)
        found = Found(own, {name: (name,) for name in own})
        return self._match(module, found, architecture, size, (label, prefix, others), notes)

    def _match(
        self,
        module: nn.Module,
        found: Found,
        architecture: str,
        size: int,
        where: tuple[str, str, dict[str, str]],
        notes: list[str],
    ) -> Match:
        label, prefix, others = where
        settings = self._chooser.settings
        if "input_size" not in settings:
            told, said = self._input_size, self._said.input_size
            source = "told" if told else "file" if said == size else "default"
            if "pos_embed" in found.entries and not told:
                source = "weights"
            settings["input_size"] = Setting.model_validate({"value": size, "source": source})
        return Match(module, found, architecture, size, self._producer, label, prefix, others, notes)

    def _size(self, *, of_weights: bool) -> int | None:
        """The input size told, or said where the weights do not show it."""
        return self._input_size or (None if of_weights else self._said.input_size)

    def _size_of(self, found: Found) -> tuple[int, list[str]]:
        if found.input_size is None:
            size = self._size(of_weights=False)
            default = architectures.DEFAULT_INPUT_SIZE
            note = f"input size {default}, a default: say it if views were of another size"
            return size or default, [] if size else [note]
        if self._input_size not in (None, found.input_size):
            raise StateDictMismatch(
                f"the encoder's positions are for {found.input_size} pixels; found {self._input_size} asked for"
            )
        said = self._said.input_size
        notes = [f"the file says {said} pixels; its positions are for {found.input_size}, which is taken"]
        return found.input_size, notes if said not in (None, found.input_size) else []

    def _choose(self, prefixes: list[str]) -> tuple[str, str, dict[str, str]]:
        """Which encoder is audited: its label, its prefix, and the labels of the others by their prefixes."""
        branches = branches_of(self._producer, prefixes)
        known = {label for label, _ in self._producer.branches}
        if self._branch is not None:
            if self._branch not in branches:
                raise AmbiguousCheckpoint(f"there is no branch {self._branch!r}; expected one of {', '.join(branches)}")
            label = self._branch
        elif len(branches) == 1 or next(iter(branches)) in known:
            label = next(iter(branches))
        else:
            raise AmbiguousCheckpoint(
                f"the checkpoint holds several encoders, under the prefixes {', '.join(map(repr, prefixes))}; "
                f"say which: --branch {' or '.join(branches)}"
            )
        return label, branches[label], {prefix: other for other, prefix in branches.items() if other != label}

    def _fit_stem(self, module: nn.Module, notes: list[str]) -> None:
        """Sets what the weights of a residual network's small stem do not show: padding, and whether it pools."""
        stem = getattr(module, "conv1", None)
        if not isinstance(module, torchvision.models.ResNet) or not isinstance(stem, nn.Conv2d):
            return
        if stem.kernel_size != (3, 3):
            return
        padding = self._chooser.choose("stem_padding", 1)
        pool = self._chooser.choose("max_pool", default=False)
        stem.padding = (padding, padding)
        if pool:
            module.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        if padding != 1 or pool:
            notes[:] = [note for note in notes if not note.startswith("CIFAR stem")]
            said = "with max-pooling" if pool else "no max-pooling"
            notes.append(f"small stem: 3x3 convolution with padding {padding}, {said}")


def without(prefix: str, entries: Entries) -> dict[str, Tensor]:
    """The entries under a prefix, without it."""
    return {name[len(prefix) :]: tensor for name, tensor in entries.items() if name.startswith(prefix)}


def is_counter(name: str) -> bool:
    """Whether an entry counts BatchNorm's steps, which has no effect in eval mode."""
    return name.endswith("num_batches_tracked")


def unknown(entries: Entries) -> UnknownArchitecture:
    """The refusal of entries that nothing is known of."""
    return UnknownArchitecture(
        "the architecture cannot be told from the checkpoint; expected its name, such as resnet18 or "
        f"vit_tiny_patch16_224. The file's entries begin with {', '.join(list(entries)[:SHOWN])}"
    )


def _beside_stem(entries: Entries) -> dict[str, Tensor]:
    stems = [name for name in entries if name.endswith(("conv1.weight", "patch_embed.proj.weight"))]
    stem = min(stems, key=len, default="")  # a convolution within a block has a longer name than the first one
    return without(re.sub(r"(conv1|patch_embed\.proj)\.weight$", "", stem), entries)


def _shapes(entries: Entries) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in entries.items()}


def _infer(entries: Entries) -> str:
    def fault(module: nn.Module) -> str | None:
        wanted = {k: v for k, v in module.state_dict().items() if k != "conv1.weight" and not is_counter(k)}
        return next((k for k, v in wanted.items() if k not in entries or v.shape != entries[k].shape), None)

    check: Callable[[nn.Module], str | None] = fault
    name = architectures.infer(check)
    if name is None:
        raise unknown(entries)
    return name


def _prefixes(wanted: Entries, entries: Entries) -> list[str]:
    """The prefixes under which the file holds every wanted entry."""
    needed = [name for name in wanted if not is_counter(name)]
    anchor = needed[0]
    candidates = [
        name[: -len(anchor)] for name in entries if name == anchor or name.endswith(("." + anchor, "/" + anchor))
    ]
    return [prefix for prefix in candidates if all(prefix + name in entries for name in needed)]


def what_is_missing(wanted: Entries, entries: Entries, architecture: str) -> str:
    """Says which entries are missing under the prefix that fits best."""
    needed = [name for name in wanted if not is_counter(name)]
    suffixes = {"": 0} | {
        name[: -len(anchor)]: 0 for anchor in needed[:SHOWN] for name in entries if name.endswith("." + anchor)
    }
    best = max(suffixes, key=lambda prefix: sum(prefix + name in entries for name in needed))
    missing = [best + name for name in needed if best + name not in entries]
    return (
        f"{len(missing)} of {len(needed)} entries of {architecture} are missing, first "
        f"{', '.join(missing[:SHOWN])}; the file's entries begin with {', '.join(list(entries)[:SHOWN])}"
    )
