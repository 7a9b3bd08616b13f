"""A frozen encoder: normalisation, network, and the tensor that is measured."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from sslmem.conditions import Dtype
from sslmem.encoders.represent import Extract
from sslmem.encoders.settings import Setting


class LoadReport(BaseModel):
    """How a checkpoint's entries met the architecture's.

    Attributes:
        architecture: the name it was built by.
        inferred: what was read off the weights rather than told, as sentences.
        prefix: what was stripped from the start of the entries' names.
        matched: number of entries loaded.
        loaded: of each entry of the encoder, the names in the file that it was made of.
        dropped: names of the entries that were left out.
        absent_counters: BatchNorm step counters missing in the file, which have no effect in eval mode.
        producer: who wrote the file, as far as its entries tell; see :mod:`sslmem.encoders.producers`.
        branch: which of the encoders in the file this is.
        other_branches: what the others are called.
        renamed: number of entries that have another name in the file.
        dropped_because: number of entries left out, by reason.
        method: how the encoder was trained, if that was said or the producer's files tell.
        default_representation: which tensor is measured unless another is asked for.
        representation: which tensor is measured; see ``sslmem.encoders.represent``.
        head: the name of the projection head that the file holds, if it is a plain MLP.
        settings: what weights do not show, with who said it; see :mod:`sslmem.encoders.settings`.
        told_again: names of the settings that are options, and are told when the encoder is read again, so that it is
            read exactly so whatever the defaults are then.
        suspicions: what speaks against the encoder; with any it is suspect. See :mod:`sslmem.encoders.sanity`.
    """

    model_config = ConfigDict(frozen=True)

    architecture: str
    inferred: list[str]
    prefix: str
    matched: int
    loaded: dict[str, list[str]] = {}
    dropped: list[str]
    absent_counters: int
    producer: str = "unknown"
    branch: str = "root"
    other_branches: list[str] = []
    renamed: int = 0
    dropped_because: dict[str, int] = {}
    method: str | None = None
    default_representation: str = "pooled"
    representation: str = "pooled"
    head: str | None = None
    settings: dict[str, Setting] = {}
    told_again: list[str] = []
    suspicions: list[str] = []

    @property
    def options(self) -> dict[str, Any]:
        """The options in effect, to read the encoder again by."""
        return {name: self.settings[name].value for name in self.told_again}


@dataclass
class Encoder:
    """A frozen encoder in eval mode.

    Attributes:
        module: the network; takes normalised views ``[M, 3, S, S]``.
        input_size: S, in pixels.
        mean: of the normalisation, per channel.
        std: of the normalisation, per channel.
        weights_digest: of the loaded tensors.
        report: how they were loaded.
        extract: from normalised views to the measured tensor ``[M, D]``; None is what the module returns, flattened.
        on_forward: called for each batch of views that the network was given, for who must know that work goes on.
    """

    module: nn.Module
    input_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    weights_digest: str
    report: LoadReport
    extract: Extract | None = None
    on_forward: Callable[[], None] | None = None

    @torch.inference_mode()
    def represent(self, views: Tensor, dtype: Dtype = "float32") -> Tensor:
        """Representations of views.

        Args:
            views: float ``[M, 3, S, S]`` in [0, 1], on the encoder's device.
            dtype: precision of the network's products; normalisation before and all after it is float32.

        Returns:
            float32 ``[M, D]``.
        """
        mean, std = (views.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        normalised = ((views - mean) / std).contiguous(memory_format=torch.channels_last)
        extract = self.extract or self.module
        if self.on_forward is not None:
            self.on_forward()
        if dtype == "float32":
            return extract(normalised).flatten(1).float()
        with torch.autocast(views.device.type, dtype=getattr(torch, dtype)):
            return extract(normalised).flatten(1).float()
