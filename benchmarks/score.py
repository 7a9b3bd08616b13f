"""How close scoring comes to the encoders' own speed: ``python -m benchmarks.score --help``.

All of it runs in one process on the same encoders, in turns, so that a machine whose speed drifts changes all
figures alike; each figure is the median of its turns.

floor      the encoders alone, on views that lie ready on the device, in the precision and batch of the scoring
end to end from encoded image bytes to scores stored as Parquet
ratio      end to end / floor, in views per second of one encoder
stages     what the end-to-end time is spent on, each stage run on its own
authors    the same work in the style of the authors' released script: one image and one view at a time, views made
           by torchvision, the original encoded again with each view, distances on the host
"""

import argparse
import io
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torchvision.transforms import v2

from sslmem.alignment import alignment_distances, standard_errors
from sslmem.conditions import Dtype
from sslmem.datasets.image import decode_image, sample_key
from sslmem.encoders import architectures
from sslmem.encoders.encoder import Encoder, LoadReport
from sslmem.encoders.load import IMAGENET_MEAN, IMAGENET_STD
from sslmem.local import as_row
from sslmem.report.rows import NOTHING, write_parquet
from sslmem.scoring import Sample, Scorer, default_batch_size, pick_device
from sslmem.spec import ScoreSpec
from sslmem.views.make import make_views

AUTHORS_VIEWS = 5


@dataclass
class Turns:
    """Seconds of each turn, by name."""

    seconds: dict[str, list[float]]
    device: torch.device

    def take(self, name: str, work: Callable[[], object]) -> None:
        """Runs some work and keeps its time."""
        self._synchronise()
        started = time.perf_counter()
        work()
        self._synchronise()
        self.seconds.setdefault(name, []).append(time.perf_counter() - started)

    def median(self, name: str) -> float:
        """The median of the turns."""
        return statistics.median(self.seconds[name])

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def make_encoder(arguments: argparse.Namespace, device: torch.device, seed: int) -> Encoder:
    """An encoder with random weights: speed does not depend on their values."""
    torch.manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {}
    if arguments.stem == "small":
        shapes = {"conv1.weight": (64, 3, 3, 3)}
    if arguments.patch is not None:
        tokens = (arguments.input_size // arguments.patch) ** 2 + 1
        shapes = {
            "patch_embed.proj.weight": (1, 3, arguments.patch, arguments.patch),
            "pos_embed": (1, tokens, 1),
        }
    module, size, _ = architectures.build(arguments.architecture, shapes, arguments.input_size)
    module.eval().requires_grad_(requires_grad=False).to(device).to(memory_format=torch.channels_last)
    report = LoadReport(
        architecture=arguments.architecture, inferred=[], prefix="", matched=0, dropped=[], absent_counters=0
    )
    return Encoder(module, size, IMAGENET_MEAN, IMAGENET_STD, f"sha256:{seed:064}", report)


def make_samples(num: int, side: int, seed: int = 0) -> list[Sample]:
    """Encoded JPEG images with the statistics of photographs, roughly: smooth, with some noise."""
    generator = np.random.default_rng(seed)
    samples = []
    for i in range(num):
        coarse = generator.integers(0, 256, (max(2, side // 8), max(2, side // 8), 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
        noisy = np.asarray(image, dtype=np.float64) + generator.normal(0, 8, (side, side, 3))
        buffer = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, format="JPEG", quality=90)
        samples.append(Sample(f"{i}.jpg", sample_key(buffer.getvalue()), buffer.getvalue()))
    return samples


def floor(encoders: Sequence[Encoder], views: torch.Tensor, num_views: int, dtype: Dtype) -> None:
    """Forwards as many views through each encoder as the scoring does, from a batch that lies ready."""
    low = torch.autocast(views.device.type, dtype=getattr(torch, dtype), enabled=dtype != "float32")
    with torch.inference_mode(), low:
        for encoder in encoders:
            done = 0
            while done < num_views:
                part = views[: min(len(views), num_views - done)]
                encoder.module(part)
                done += len(part)


def end_to_end(
    encoders: Sequence[Encoder], samples: Sequence[Sample], spec: ScoreSpec, device: torch.device, folder: Path
) -> Dtype:
    """From bytes to a file of scores; returns the precision that was used."""
    scorer = Scorer(encoders[:1], encoders[1:], spec, device=device)
    rows = [as_row(score, None) for batch in scorer.score(samples) for score in batch]
    write_parquet(folder / "scores.parquet", rows, NOTHING, [])
    return scorer.conditions.precision


def authors_style(
    encoders: Sequence[Encoder], samples: Sequence[Sample], spec: ScoreSpec, device: torch.device
) -> None:
    """Batch 1, one view at a time, autograd on, everything back to the host each time."""
    augment = v2.Compose([
        v2.RandomResizedCrop(spec.input_size, antialias=True),
        v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
        v2.RandomGrayscale(0.2),
    ])  # fmt: skip
    to_tensor = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)])
    for sample in samples:
        image = to_tensor(Image.fromarray(decode_image(sample.data)).resize((spec.input_size, spec.input_size)))
        for _ in range(spec.views):
            view = augment(image)
            for encoder in encoders:
                original = encoder.module(image[None].to(device)).detach().cpu().numpy()
                augmented = encoder.module(view[None].to(device)).detach().cpu().numpy()
                original, augmented = (v / np.linalg.norm(v) for v in (original, augmented))
                np.linalg.norm(original - augmented)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs the benchmark and returns its figures."""
    device = pick_device(arguments.device)
    torch.set_num_threads(arguments.threads or torch.get_num_threads())
    encoders = [make_encoder(arguments, device, seed) for seed in range(1 + arguments.references)]
    spec = ScoreSpec(views=arguments.views, input_size=arguments.input_size, precision=arguments.precision)
    samples = make_samples(arguments.samples, arguments.image_size or arguments.input_size)
    batch = default_batch_size(spec, device)
    num_views = len(samples) * spec.views
    images = [decode_image(sample.data) for sample in samples]
    keys = [sample.key for sample in samples]
    options = {"recipe": spec.recipe, "size": spec.input_size, "seed": 0, "views": range(spec.views), "device": device}
    ready = make_views(images[:batch], keys[:batch], **options).flatten(0, 1)  # type: ignore[arg-type]
    ready = ready.contiguous(memory_format=torch.channels_last)
    few = samples[: max(1, arguments.samples // arguments.authors_share)]
    turns = Turns({}, device)

    def decode() -> None:
        for sample in samples:
            decode_image(sample.data)

    def views() -> None:
        for start in range(0, len(images), batch):
            make_views(images[start : start + batch], keys[start : start + batch], **options)  # type: ignore[arg-type]

    def distances() -> None:
        for start in range(0, len(images), batch):
            block = representations[start : start + batch]
            found = [alignment_distances(block, pairing="views", distance="l2", normalize=True) for _ in encoders]
            standard_errors(found[0] - found[-1], pairing="views")

    representations = torch.randn(len(images), spec.views, encoders[0].represent(ready[:1]).shape[1], device=device)
    with tempfile.TemporaryDirectory() as folder:
        dtype = end_to_end(encoders, samples[: max(32, 2 * batch)], spec, device, Path(folder))
        floor(encoders, ready, 2 * len(ready), dtype)
        for _ in range(arguments.turns):
            turns.take("floor", lambda: floor(encoders, ready, num_views, dtype))
            turns.take("end to end", lambda: end_to_end(encoders, samples, spec, device, Path(folder)))
            turns.take("decode", decode)
            turns.take("views", views)
            turns.take("distances", distances)
            turns.take("authors", lambda: authors_style(encoders, few, spec, device))
    forwards = num_views * len(encoders)
    total, bare = turns.median("end to end"), turns.median("floor")
    ratios = [f / e for f, e in zip(turns.seconds["floor"], turns.seconds["end to end"], strict=True)]
    authors = turns.median("authors") / len(few) * len(samples)
    stages = {name: turns.median(name) for name in ("decode", "views", "distances")}
    return {
        "machine": machine(device),
        "architecture": arguments.architecture,
        "input_size": spec.input_size,
        "precision": dtype,
        "views": spec.views,
        "encoders": len(encoders),
        "samples": len(samples),
        "turns": arguments.turns,
        "floor_views_per_second": forwards / bare,
        "end_to_end_views_per_second": forwards / total,
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "stage_shares": {**{k: v / total for k, v in stages.items()}, "forward": bare / total},
        "images_per_second": len(samples) / total,
        "authors_images_per_second": len(samples) / authors,
        "speed_up_over_authors": authors / total,
    }


def machine(device: torch.device) -> str:
    """What the figures were measured on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def show(result: dict[str, Any]) -> None:
    """Prints the figures as a table."""
    title = (
        f"{result['architecture']} at {result['input_size']} px, {result['encoders']} encoders, {result['precision']}"
    )
    table = Table(title=f"{title}, {result['views']} views, {result['samples']} images", title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_row("floor, views/s of one encoder", f"{result['floor_views_per_second']:.0f}")
    table.add_row("end to end, views/s of one encoder", f"{result['end_to_end_views_per_second']:.0f}")
    low, high = result["ratio_range"]
    table.add_row("ratio (median of turns)", f"{result['ratio']:.3f}  ({low:.3f} to {high:.3f})")
    for stage, share in result["stage_shares"].items():
        table.add_row(f"  {stage}, share of end to end", f"{100 * share:.1f} %")
    table.add_row("authors' style, images/s", f"{result['authors_images_per_second']:.2f}")
    table.add_row("end to end, images/s", f"{result['images_per_second']:.2f}")
    table.add_row("speed-up over authors' style", f"{result['speed_up_over_authors']:.1f}")
    console = Console()
    console.print(table)
    console.print(result["machine"], highlight=False)


def main() -> None:
    """Parses the arguments, measures and prints."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.score", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--architecture", default="resnet18")
    parser.add_argument("--stem", choices=["imagenet", "small"], default="imagenet", help="small: 3x3, for 32 px")
    parser.add_argument("--patch", type=int, help="patch size of a ViT")
    parser.add_argument("--input-size", type=int, default=224)
    parser.add_argument("--image-size", type=int, help="side of the images; the input size if not given")
    parser.add_argument("--views", type=int, default=10)
    parser.add_argument("--references", type=int, default=1)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of torch on the CPU")
    parser.add_argument("--authors-share", type=int, default=8, help="one in so many images goes the authors' way")
    parser.add_argument("--precision", choices=["float32", "auto"], default="float32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    result = measure(arguments)
    show(result)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
