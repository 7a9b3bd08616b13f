"""How well few views do, on a really trained pair: ``python -m benchmarks.variance``.

Trains the demo's pair (or takes the one that make demo left), then measures

* the variance of a score over reseeded runs with independent views, against views in groups that spread evenly over
  the augmentations' parameters (scrambled Sobol sequences), and how right the reported standard error is;
* what a two-stage run finds of the top percent of a uniform run with 128 views.
"""

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from demo.__main__ import COUNTS, EPOCHS, SEED, train_pair
from demo.digits import Digit, read_digits, split_roles
from demo.train import INPUT_SIZE, MEAN, RECIPE, STD
from sslmem.alignment import MIN_FOR_ERROR, alignment_distances, standard_errors, unit
from sslmem.cli.connection import home
from sslmem.datasets.image import sample_key
from sslmem.encoders.encoder import Encoder
from sslmem.encoders.load import load_encoder
from sslmem.spec import Pairing
from sslmem.views.make import Numbers, make_views, original_views
from sslmem.views.philox import uniforms as independent
from sslmem.views.sobol import sobol

CPU = torch.device("cpu")
Floats = NDArray[np.float64]
FULL_VIEWS = 128
NUM_TWO_STAGE = 800  # digits, so that the top percent are 8


def represent(
    encoder: Encoder, digits: Sequence[Digit], seed: int, num_views: int, numbers: Numbers = independent
) -> torch.Tensor:
    """Unit representations ``[N, V + 1, D]``; that of the image itself comes last."""
    images, keys = [digit.pixels for digit in digits], [sample_key(digit.png) for digit in digits]
    options = {"recipe": RECIPE, "size": INPUT_SIZE, "seed": seed, "device": CPU}
    views = make_views(images, keys, views=range(num_views), numbers=numbers, **options)  # type: ignore[arg-type]
    views = torch.cat([views, original_views(images, INPUT_SIZE, CPU)[:, None]], dim=1)
    parts = [encoder.represent(part) for part in torch.split(views.flatten(0, 1), 64)]
    return unit(torch.cat(parts).view(len(digits), num_views + 1, -1))


def estimates(
    pair: Sequence[Encoder], digits: Sequence[Digit], seed: int, num_views: int, group: int
) -> dict[Pairing, tuple[Floats, Floats]]:
    """Scores ``[N]`` and their standard errors by each pairing, from views in groups."""
    numbers = independent if group == 1 else partial(sobol, group)
    both = [represent(encoder, digits, seed, num_views, numbers) for encoder in pair]
    found: dict[Pairing, tuple[Floats, Floats]] = {}
    for pairing in get_args(Pairing):
        target, reference = (
            alignment_distances(
                vectors[:, :-1] if pairing == "views" else torch.cat([vectors[:, -1:], vectors[:, :-1]], dim=1),
                pairing=pairing,
                distance="l2",
                normalize=False,
                group=group,
            ).double()
            for vectors in both
        )
        errors = standard_errors(reference - target, pairing=pairing, group=group)
        found[pairing] = ((reference - target).mean(dim=1).numpy(), errors.numpy())
    return found


def low_discrepancy(pair: Sequence[Encoder], digits: Sequence[Digit], runs: int) -> list[dict[str, Any]]:
    """Variance over reseeded runs, as a ratio to that of independent views in the same run; and the error reported."""
    rows = []
    for num_views in (8, 16, 32):
        independent_variance: dict[Pairing, float] = {}
        for group in (1, 2, 4, 8):
            if num_views // group < MIN_FOR_ERROR:
                continue
            repeated = [estimates(pair, digits, seed, num_views, group) for seed in range(runs)]
            for pairing in repeated[0]:
                scores, errors = (np.stack([run[pairing][i] for run in repeated]) for i in (0, 1))
                variance = float(scores.var(axis=0, ddof=1).mean())
                base = independent_variance.setdefault(pairing, variance)
                rows.append(
                    {
                        "views": num_views,
                        "group": group,
                        "pairing": pairing,
                        "variance_ratio": base / variance,
                        "error_to_spread": float(np.sqrt(np.square(errors).mean() / variance)),
                    }
                )
    return rows


def two_stage(pair: Sequence[Encoder], digits: Sequence[Digit]) -> list[dict[str, Any]]:
    """Recall of the top percent by first-stage views, share and weight of the standard error in the choice."""
    first_views = (8, 10, 16)
    found: dict[int, list[Floats]] = {views: [] for views in (*first_views, FULL_VIEWS)}
    for start in track(range(0, len(digits), 16), description="two stages", transient=True):
        part = digits[start : start + 16]
        both = [represent(encoder, part, 0, FULL_VIEWS)[:, :-1] for encoder in pair]
        for views, scores in found.items():
            target, reference = (
                alignment_distances(v[:, :views], pairing="views", distance="l2", normalize=False).double().mean(dim=1)
                for v in both
            )
            scores.append((reference - target).numpy())
    exact = np.concatenate(found[FULL_VIEWS])
    top = set(np.argsort(-exact)[: round(0.01 * len(exact))])
    rows = []
    for views in first_views:
        ranked = np.argsort(-np.concatenate(found[views]))
        for share in (0.05, 0.1, 0.15):
            chosen = set(ranked[: round(share * len(ranked))])
            forwards = (views + share * FULL_VIEWS) / FULL_VIEWS
            recall = len(top & chosen) / len(top)
            rows.append({"first_views": views, "share": share, "forwards": forwards, "recall": recall})
    return rows


def measure(runs: int) -> dict[str, Any]:
    """Trains or finds the pair and measures both."""
    digits = read_digits()
    roles = split_roles(digits, COUNTS, SEED)
    folder = home() / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints = train_pair(digits, roles, folder, epochs=EPOCHS, null=False)
    pair = [load_encoder(path, input_size=INPUT_SIZE, mean=(MEAN,) * 3, std=(STD,) * 3) for path in checkpoints]
    with torch.inference_mode():
        some = [d for d in digits if roles[d.path] == "candidate"][:20]
        some += [d for d in digits if roles[d.path] == "external"][:20]
        return {
            "runs": runs,
            "low_discrepancy": low_discrepancy(pair, some, runs),
            "two_stage": two_stage(pair, digits[:NUM_TWO_STAGE]),
        }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.variance", description=__doc__)
    parser.add_argument("--runs", type=int, default=12, help="reseeded runs")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    result = measure(arguments.runs)
    for name in ("low_discrepancy", "two_stage"):
        table = Table(*result[name][0], title=name)
        for row in result[name]:
            table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))
        Console().print(table)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
