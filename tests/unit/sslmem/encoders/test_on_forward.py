"""Who must know that work goes on hears of every batch of views."""

import torch
from torch import nn

from sslmem.encoders.encoder import Encoder, LoadReport


def test_every_forward_pass_is_told_of_in_any_precision() -> None:
    report = LoadReport.model_construct(architecture="flat")
    encoder = Encoder(nn.Flatten(), 4, (0.5,) * 3, (0.5,) * 3, "sha256:0", report)  # type: ignore[arg-type]
    views, heard = torch.rand(2, 3, 4, 4), list[int]()
    quiet = encoder.represent(views)
    encoder.on_forward = lambda: heard.append(1)
    assert torch.equal(encoder.represent(views), quiet)
    encoder.represent(views, "bfloat16")
    assert len(heard) == 2
