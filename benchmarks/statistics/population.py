"""Really trained encoders in numbers: small SimCLR networks on scikit-learn's digits, each on images of its own.

The images are cut at random into a shared set, one group per encoder, and the rest, which no encoder sees. For any
two encoders the group of the first is what the target alone was trained on, that of the second what the reference
alone was trained on, and all other groups are images of neither.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from demo.digits import Digit, read_digits
from sslmem.datasets.image import sample_key
from sslmem.local import as_row
from sslmem.precision import distances
from sslmem.report.rows import ScoreRow
from sslmem.report.summary import Summary, summarize
from sslmem.scoring import reduce_distances, score_of
from sslmem.spec import ScoreSpec
from sslmem.training.simclr import nt_xent
from sslmem.views.make import make_views
from tests.numerics.trained import RECIPE, SIZE, as_encoder, network

CPU = torch.device("cpu")
SPEC = ScoreSpec(input_size=SIZE, recipe=RECIPE, views=8)
NUM_SHARED, GROUP = 20, 40
PLANTED = 10  # of a group, when some of its images are repeated
PART = 256

Indices = NDArray[np.int64]
Distances = NDArray[np.float32]  # [N, P], of one encoder on all digits


@dataclass(frozen=True)
class Split:
    """Indices of digits: trained on by all encoders, by one each, by none."""

    shared: Indices
    groups: list[Indices]
    rest: Indices


def split_digits(num_groups: int, seed: int = 0) -> tuple[list[Digit], Split]:
    """The digits and who is trained on which."""
    digits = read_digits()
    order = np.random.default_rng(seed).permutation(len(digits))
    shared, others = order[:NUM_SHARED], order[NUM_SHARED:]
    groups = [others[i * GROUP : (i + 1) * GROUP] for i in range(num_groups)]
    return digits, Split(shared, groups, others[num_groups * GROUP :])


def train_and_measure(
    digits: Sequence[Digit], split: Split, group: int, *, epochs: Sequence[int], repeats: int = 1
) -> dict[int, Distances]:
    """Trains the encoder of a group and measures it on all digits after each of these numbers of epochs.

    An epoch has as many steps as the first images of the group are repeated: each step holds them and a part of
    all others, so that copies never meet as negatives of one another.
    """
    torch.manual_seed(group)
    planted, rest = split.groups[group][:PLANTED], split.groups[group][PLANTED:]
    others = np.concatenate([split.shared, rest])
    generator = np.random.default_rng(group)
    head = torch.nn.Sequential(torch.nn.Linear(128, 128), torch.nn.ReLU(), torch.nn.Linear(128, 64))
    encoder = network()
    model = torch.nn.Sequential(encoder, head)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    found: dict[int, Distances] = {}
    step = 0
    for epoch in range(1, max(epochs) + 1):
        model.train()
        for part in np.array_split(generator.permutation(others), repeats):
            chosen = [*planted, *part]
            views = make_views(
                [digits[i].pixels for i in chosen],
                [digits[i].path for i in chosen],
                recipe=RECIPE,
                size=SIZE,
                seed=group + 1,  # the views of scores have seed 0
                views=range(2 * step, 2 * step + 2),
                device=CPU,
            )
            first, second = model(((views - 0.5) / 0.25).transpose(0, 1).flatten(0, 1)).tensor_split(2)
            optimizer.zero_grad()
            nt_xent(first, second, 0.2).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
        if epoch in epochs:
            found[epoch] = measure(digits, encoder, f"{group}-{repeats}-{epoch}")
    return found


@torch.inference_mode()
def measure(digits: Sequence[Digit], module: torch.nn.Module, name: str) -> Distances:
    """Distances ``[N, P]`` between views of every digit, the same views for every encoder."""
    encoder = as_encoder(module, name)
    parts = []
    for start in range(0, len(digits), PART):
        some = digits[start : start + PART]
        views = make_views(
            [digit.pixels for digit in some],
            [digit.path for digit in some],
            recipe=RECIPE,
            size=SIZE,
            seed=SPEC.seed,
            views=range(SPEC.views),
            device=CPU,
        )
        parts.append(distances(encoder, views, SPEC, "float32"))
    return np.asarray(torch.cat(parts).numpy())


def audit_rows(
    digits: Sequence[Digit], targets: Sequence[Distances], references: Sequence[Distances], roles: dict[str, Indices]
) -> tuple[list[ScoreRow], Summary]:
    """The rows and summary that ``sslmem score`` would give for samples in these roles."""
    rows = []
    for role, chosen in roles.items():
        measured = torch.from_numpy(np.stack([d[chosen] for d in (*targets, *references)]))  # [E, n, P]
        reduced = reduce_distances(measured, len(targets), SPEC).tolist()
        for i, row in zip(chosen, reduced, strict=True):
            digit = digits[i]
            score = score_of(digit.path, sample_key(digit.png), row, len(targets), SPEC.views, None)
            rows.append(as_row(score, role))
    digests = [[f"sha256:{kind}{i}" for i in range(len(part))] for kind, part in (("f", targets), ("g", references))]
    return rows, summarize(rows, SPEC, target_digests=digests[0], reference_digests=digests[1])
