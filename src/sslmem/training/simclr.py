"""Trains a small encoder with SimCLR (Chen et al. 2020, arXiv 2002.05709) on the views of the scoring engine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from sslmem.encoders.architectures import small_stem_resnet
from sslmem.recipe import Recipe
from sslmem.views.make import Image, make_views


@dataclass(frozen=True)
class SimclrSettings:
    """What determines a training run besides its images.

    Attributes:
        architecture: a ResNet of torchvision, built with the CIFAR stem.
        input_size: side of the views in pixels.
        recipe: the augmentations.
        mean: normalisation of pixels in [0, 1], for all channels.
        std: likewise.
        epochs: passes over the images.
        batch_size: images per step; the last, smaller batch of an epoch joins in.
        learning_rate: peak of the one-cycle cosine schedule of AdamW.
        weight_decay: of AdamW.
        temperature: of the loss.
        projection: width and output of the two-layer projection head, which is not audited.
        seed: of weights, order and views.
    """

    architecture: str
    input_size: int
    recipe: Recipe
    mean: float = 0.5
    std: float = 0.25
    epochs: int = 200
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 1e-6
    temperature: float = 0.5
    projection: int = 128
    seed: int = 0


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """The normalised temperature-scaled cross entropy (equation 1 of the paper).

    Args:
        first: projections of one view of each image, ``[N, D]``.
        second: of another view, ``[N, D]``.
        temperature: of the softmax.
    """
    both = functional.normalize(torch.cat([first, second]), dim=1)  # [2N, D]
    similarity = both @ both.T / temperature
    similarity.fill_diagonal_(-torch.inf)
    num = len(first)
    partner = torch.cat([torch.arange(num, 2 * num), torch.arange(num)]).to(both.device)
    return functional.cross_entropy(similarity, partner)


def train_simclr(
    images: Sequence[Image],
    keys: Sequence[str],
    settings: SimclrSettings,
    *,
    device: torch.device,
    on_epoch: Callable[[float], None],
) -> dict[str, Tensor]:
    """Trains an encoder.

    Args:
        images: N images of any sizes, uint8 ``[H, W, 3]``.
        keys: their sample keys, which determine their views.
        settings: how.
        device: where.
        on_epoch: called after each epoch with its mean loss.

    Returns:
        The encoder's state dict on the CPU, and under ``projection_head.`` that of the projection head.
    """
    torch.manual_seed(settings.seed)
    encoder, width = small_stem_resnet(settings.architecture)
    head = nn.Sequential(nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, settings.projection))
    model = nn.Sequential(encoder, head).to(device).to(memory_format=torch.channels_last).train()
    order = torch.Generator().manual_seed(settings.seed)
    batches = max(1, len(images) // settings.batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    steps = max(3, settings.epochs * batches)  # the schedule needs one step to rise and one to fall
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=settings.learning_rate, total_steps=steps, pct_start=max(0.1, 2 / steps)
    )
    for epoch in range(settings.epochs):
        total = 0.0
        for batch in torch.randperm(len(images), generator=order).tensor_split(batches):
            chosen = batch.tolist()
            views = make_views(
                [images[i] for i in chosen],
                [keys[i] for i in chosen],
                recipe=settings.recipe,
                size=settings.input_size,
                seed=settings.seed,
                views=range(2 * epoch, 2 * epoch + 2),
                device=device,
            )
            views = ((views - settings.mean) / settings.std).transpose(0, 1).flatten(0, 1)
            projections: Tensor = model(views.contiguous(memory_format=torch.channels_last))
            first, second = projections.tensor_split(2)
            loss = nt_xent(first, second, settings.temperature)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += loss.item() / batches
        on_epoch(total)
    state = encoder.state_dict() | {f"projection_head.{k}": v for k, v in head.state_dict().items()}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
