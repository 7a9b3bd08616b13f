"""How well few views do, on really trained pairs: ``python -m benchmarks.variance``.

Trains the demo's pair (or takes the one that make demo left) and a smaller one, then measures

* the variance of a score over reseeded runs with independent views, against views in groups that spread evenly over
  the augmentations' parameters (a Latin hypercube each), and how right the reported standard error is;
* what a two-stage run finds of the top percent of a uniform run with 128 views.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
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
from sslmem.alignment import alignment_distances, unit
from sslmem.cli.connection import home
from sslmem.datasets.image import sample_key
from sslmem.encoders.encoder import Encoder
from sslmem.encoders.load import load_encoder
from sslmem.precision import represent_views
from sslmem.recipe import Recipe
from sslmem.samples import Sample
from sslmem.scoring import score
from sslmem.spec import Pairing, ScoreSpec, Stratify
from sslmem.views.make import make_views
from tests.numerics.trained import RECIPE as SMALL_RECIPE
from tests.numerics.trained import trained_pair

CPU = torch.device("cpu")
Floats = NDArray[np.float64]
FULL_VIEWS = 128
NUM_TWO_STAGE = 800  # digits, so that the top percent are 8
NUM_MEASURED = 20  # candidates, and as many externals
LAYOUTS: dict[int, tuple[Stratify | None, ...]] = {8: (None, 2), 16: (None, 2, 4), 32: (None, 4, 8)}  # views, groups


def represent(encoder: Encoder, digits: Sequence[Digit], num_views: int) -> torch.Tensor:
    """Unit representations of views ``[N, V, D]``."""
    images, keys = [digit.pixels for digit in digits], [sample_key(digit.png) for digit in digits]
    views = make_views(images, keys, recipe=RECIPE, size=INPUT_SIZE, seed=0, views=range(num_views), device=CPU)
    return unit(represent_views(encoder, views, "float32"))


@dataclass(frozen=True)
class Pair:
    """A trained target and reference, with images that they are measured on."""

    name: str
    target: Encoder
    reference: Encoder
    samples: Sequence[Sample]
    recipe: Recipe

    def scores(self, **fields: Any) -> tuple[Floats, Floats]:  # noqa: ANN401
        """Scores ``[N]`` and their standard errors, by fields of the spec."""
        spec = ScoreSpec(recipe=self.recipe, input_size=self.target.input_size, **fields)
        found = [
            one for batch in score([self.target], [self.reference], self.samples, spec, device=CPU) for one in batch
        ]
        columns = ([one.score for one in found], [one.standard_error for one in found])
        return np.array(columns[0], dtype=np.float64), np.array(columns[1], dtype=np.float64)


def low_discrepancy(pair: Pair, runs: int) -> list[dict[str, Any]]:
    """Variance over reseeded runs, as a ratio to that of independent views in the same run; and the error reported."""
    rows = []
    for pairing in get_args(Pairing):
        for views, groups in LAYOUTS.items():
            base = None
            for group in groups:
                fields = {"views": views, "stratify": group, "pairing": pairing}
                repeated = [pair.scores(seed=seed, **fields) for seed in range(runs)]
                scores, errors = (np.stack(column) for column in zip(*repeated, strict=True))
                variance = float(scores.var(axis=0, ddof=1).mean())
                base = base or variance
                rows.append(
                    {
                        "pair": pair.name,
                        **fields,
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
        both = [represent(encoder, part, FULL_VIEWS) for encoder in pair]
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
    some = [[d for d in digits if roles[d.path] == role][:NUM_MEASURED] for role in ("candidate", "external")]
    samples = [Sample(d.path, sample_key(d.png), d.png) for part in some for d in part]
    small = trained_pair()
    few = [*small.candidates[:NUM_MEASURED], *small.external[:NUM_MEASURED]]
    pairs = [
        Pair("demo, ResNet-18", pair[0], pair[1], samples, RECIPE),
        Pair("four convolutions", small.target, small.reference, few, SMALL_RECIPE),
    ]
    with torch.inference_mode():
        return {
            "runs": runs,
            "low_discrepancy": [row for one in pairs for row in low_discrepancy(one, runs)],
            "two_stage": two_stage(pair, digits[:NUM_TWO_STAGE]),
        }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.variance", description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="reseeded runs")
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
