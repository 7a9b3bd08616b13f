"""The demo's pair of encoders: alike but for the candidates, which the target alone was trained on."""

import hashlib
from dataclasses import asdict
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import save_file

from demo.digits import Digit
from sslmem.datasets.image import sample_key
from sslmem.recipe import Recipe
from sslmem.roles import Role
from sslmem.training.simclr import SimclrSettings, train_simclr

INPUT_SIZE = 8
MEAN, STD = 0.5, 0.25
TEMPERATURE = 0.2  # a sharper loss than the usual 0.5 tells images apart sooner
RECIPE = Recipe.model_validate(
    [
        {"random_resized_crop": {"scale": [0.2, 1.0]}},
        {"color_jitter": {"brightness": 0.4, "contrast": 0.4, "p": 0.8}},
    ]
)


def training_progress() -> Progress:
    """A bar that counts epochs and shows the loss."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("epochs, loss {task.fields[loss]}"),
        TimeRemainingColumn(),
    )


def train(
    name: str,
    digits: list[Digit],
    roles: dict[str, Role],
    trained_on: set[Role],
    *,
    epochs: int,
    seed: int,
    folder: Path,
) -> Path:
    """Trains an encoder on the digits of some roles and returns its checkpoint; one trained before is kept."""
    chosen = [digit for digit in digits if roles[digit.path] in trained_on]
    settings = SimclrSettings(
        architecture="resnet18",
        input_size=INPUT_SIZE,
        recipe=RECIPE,
        mean=MEAN,
        std=STD,
        epochs=epochs,
        temperature=TEMPERATURE,
        seed=seed,
    )
    keys = [sample_key(digit.png) for digit in chosen]
    digest = hashlib.sha256(repr((asdict(settings), keys)).encode()).hexdigest()[:12]
    checkpoint = folder / f"{name}-{digest}.safetensors"
    if checkpoint.is_file():
        print(f"{name} encoder: trained before, {checkpoint}")
        return checkpoint
    with training_progress() as progress:
        task = progress.add_task(f"training the {name} on {len(chosen)} images", total=epochs, loss="")

        def advance(loss: float) -> None:
            progress.update(task, advance=1, loss=f"{loss:.3f}")

        images = [digit.pixels for digit in chosen]
        weights = train_simclr(images, keys, settings, device=torch.device("cpu"), on_epoch=advance)
    unfinished = checkpoint.with_suffix(".part")
    save_file(weights, unfinished)
    unfinished.replace(checkpoint)
    return checkpoint
