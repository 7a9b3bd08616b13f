"""Who must know that work goes on hears of every batch of views."""

from typing import Any

import torch
from torch import nn

from sslmem.encoders.encoder import Encoder


def test_every_forward_pass_is_told_of_in_any_precision() -> None:
    report: Any = None  # nothing of it is read
    encoder = Encoder(nn.Flatten(), 4, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "sha256:0", report)
    views, heard = torch.rand(2, 3, 4, 4), list[int]()
    quiet = encoder.represent(views)
    encoder.on_forward = lambda: heard.append(1)
    assert torch.equal(encoder.represent(views), quiet)
    encoder.represent(views, "bfloat16")
    assert len(heard) == 2
