"""Trains small encoders, audits them, writes docs/statistics.md with its plots: ``python -m benchmarks.statistics``."""

import argparse
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import permutations
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.statistics import coverage
from benchmarks.statistics.audits import NUM_EXTERNAL, Measured, Nulls, Outcome, Rate, outcome_of, planted
from benchmarks.statistics.population import GROUP, PLANTED, Distances, Split, measure, split_digits, train_and_measure
from benchmarks.statistics.stopping import METRICS, run_many
from benchmarks.statistics.svg import Line, plot
from demo.digits import Digit
from sslmem.report.checks import MAX_ALIGNMENT_RATIO, MIN_SAMPLES
from tests.numerics.trained import network

ROOT = Path(__file__).parents[2]
NUM_GROUPS, NUM_REPEATED = 6, 3
EPOCHS, REPEATS, REPEAT_EPOCHS = (40, 80, 160, 320), (2, 4, 8), 80
NUM_AUDITS = 400  # of each kind and number of epochs
COUNTS = (5, 10, 20, 40)
RARE_SHARE, RARE_SIZE = 0.02, 50.0  # of the candidates, and how many standard deviations higher they score
Floats = NDArray[np.float64]


def train_all(digits: Sequence[Digit], split: Split) -> Measured:
    """Trains and measures the encoders of all groups, and those of some with repeated images."""
    found: Measured = {}
    runs: list[tuple[int, int, tuple[int, ...]]] = [(group, 1, EPOCHS) for group in range(NUM_GROUPS)]
    runs += [(group, repeats, (REPEAT_EPOCHS,)) for repeats in REPEATS for group in range(NUM_REPEATED)]
    for group, repeats, epochs in runs:
        print(f"training encoder {group}, images repeated {repeats} times", flush=True)
        for epoch, distances in train_and_measure(digits, split, group, epochs=epochs, repeats=repeats).items():
            found[group, repeats, epoch] = distances
    return found


def false_alarms(digits: Sequence[Digit], split: Split, measured: Measured) -> tuple[list[str], list[str]]:
    """The tables of null audits, and of those that both encoders were trained on."""
    lines = ["| audits | epochs | excess | discovery |", "|---|---|---|---|"]
    both = ["| audits | epochs | excess | discovery | excess over models |", "|---|---|---|---|---|"]
    everything: list[Outcome] = []
    for epochs in EPOCHS[2:]:
        nulls = Nulls(measured, split, epochs)
        kinds = {
            "external images, 60 of them called candidates": nulls.split_externals(NUM_AUDITS, 60),
            "external images, 20 of them called candidates": nulls.split_externals(NUM_AUDITS, 20),
            "target and reference exchanged": nulls.exchanged(NUM_AUDITS),
            "pairs trained on neither: images of a third encoder": nulls.trained_on_neither(NUM_AUDITS),
        }
        for kind, audits in kinds.items():
            found = outcome_of(digits, audits)
            everything.append(found)
            lines.append(f"| {kind} | {epochs} | {found.excess} | {found.discoveries} |")
        for num in (1, NUM_GROUPS // 2):
            found = outcome_of(digits, nulls.trained_on_both(NUM_AUDITS // 4, num))
            kind = f"trained on by both, {num} target{'s' if num > 1 else ''} against {num}"
            both.append(f"| {kind} | {epochs} | {found.excess} | {found.discoveries} | {found.over_models or ''} |")
    total = [_together([getattr(found, way) for found in everything]) for way in ("excess", "discoveries")]
    lines.append(f"| **all of them** | | **{total[0]}** | **{total[1]}** |")
    return lines, both


def _together(rates: Sequence[Rate]) -> Rate:
    return Rate(sum(rate.count for rate in rates), sum(rate.total for rate in rates))


def power(
    digits: Sequence[Digit], split: Split, measured: Measured, folder: Path
) -> tuple[list[str], list[str], list[str]]:
    """The three power tables; their plots go into the folder."""
    by_epochs = {
        epochs: outcome_of(digits, planted(measured, split, epochs=epochs, num_candidates=GROUP, times=4))
        for epochs in EPOCHS
    }
    by_count = {
        num: outcome_of(digits, planted(measured, split, epochs=EPOCHS[-1], num_candidates=num, times=4))
        for num in COUNTS
    }
    by_repeats = {
        repeats: outcome_of(digits, planted(measured, split, epochs=REPEAT_EPOCHS, repeats=repeats, times=10))
        for repeats in (1, *REPEATS)
    }
    names = (("epochs", by_epochs), ("candidates", by_count), ("repeats", by_repeats))
    tables = []
    for name, outcomes in names:
        ways = (
            ("excess", [o.excess for o in outcomes.values()]),
            ("discovery", [o.discoveries for o in outcomes.values()]),
        )
        drawn = [
            Line(way, [(float(at), *rate.point) for at, rate in zip(outcomes, rates, strict=True)])
            for way, rates in ways
        ]
        picture = plot(drawn, x_label=name, y_label="share of audits that found it", level=0.025)
        (folder / f"power-{name}.svg").write_text(picture, encoding="utf-8")
        tables.append(_table(name, outcomes))
    return tables[0], tables[1], tables[2]


def _table(name: str, outcomes: dict[int, Outcome]) -> list[str]:
    lines = [f"| {name} | excess | discovery |", "|---|---|---|"]
    return lines + [f"| {at} | {outcome.excess} | {outcome.discoveries} |" for at, outcome in outcomes.items()]


def tolerances(digits: Sequence[Digit], split: Split, measured: Measured) -> list[str]:
    """Alignment of encoders on images that neither was trained on, as ratios."""
    torch.manual_seed(0)
    untrained = float(measure(digits, network(), "untrained")[split.rest].mean())
    alignment = {
        (group, epochs): float(measured[group, 1, epochs][split.rest].mean())
        for group in range(NUM_GROUPS)
        for epochs in EPOCHS
    }

    def ratios(ours: int, theirs: int) -> list[float]:
        pairs = permutations(range(NUM_GROUPS), 2)
        return [max(a / b, b / a) for a, b in ((alignment[i, ours], alignment[j, theirs]) for i, j in pairs)]

    lines = ["| encoders | larger over smaller mean alignment distance, median and largest |", "|---|---|"]
    for ours, theirs in ((320, 320), (160, 160), (320, 160), (320, 40)):
        found = ratios(ours, theirs)
        lines.append(f"| {ours} and {theirs} epochs | {np.median(found):.3f}, {max(found):.3f} |")
    apart = [max(alignment[i, 320], untrained) / min(alignment[i, 320], untrained) for i in range(NUM_GROUPS)]
    lines.append(f"| 320 epochs and untrained | {np.median(apart):.3f}, {max(apart):.3f} |")
    return [*lines, "", f"`reference-matches` allows {MAX_ALIGNMENT_RATIO}."]


def stopping(split: Split, measured: Measured) -> list[str]:
    """Verdicts and forwards of sequential gates on resampled distances of the longest trained pairs."""
    pools, nulls, spreads = [], [], []
    for i, j in permutations(range(NUM_GROUPS), 2):
        differences = measured[j, 1, EPOCHS[-1]] - measured[i, 1, EPOCHS[-1]]
        externals = differences[split.rest]
        pools.append((differences[split.groups[i]], externals))
        nulls.append((externals, externals))
        spreads.append(externals.mean(axis=1).std())
    spread = float(np.mean(spreads))
    kinds = [
        ("on the bound: externals, bound", nulls, (0.0, 0.5), 20),
        ("clear failure: memorized candidates, bound", pools, (0.0, 0.5), 4),
        ("clear pass: externals, bound", nulls, (spread, 0.75), 4),
        ("near: externals, bound", nulls, (0.2 * spread, 0.55), 4),
    ]
    lines = [
        "| 200 candidates, 600 externals | metric | passed | failed | forwards of a full run |",
        "|---|---|---|---|---|",
    ]
    for name, chosen, bounds, times in kinds:
        for metric, bound in zip(METRICS, bounds, strict=True):
            found = run_many(chosen, metric, bound, (200, 600), times)
            lines.append(f"| {name} {bound:.3g} | {metric} | {found.passed} | {found.failed} | {found.share:.0%} |")
    rare = [(_with_rare(externals, spread), externals) for externals, _ in nulls]
    found = run_many(rare, METRICS[0], 0.9 * RARE_SHARE * RARE_SIZE * spread, (200, 600), 20)
    lines.append(f"| rare and strong | {METRICS[0]} | {found.passed} | {found.failed} | {found.share:.0%} |")
    return lines


def _with_rare(differences: Distances, spread: float) -> Distances:
    """Distances of which a few are as those of samples that are memorized strongly."""
    changed = differences.copy()
    changed[: round(RARE_SHARE * len(changed))] += np.float32(RARE_SIZE * spread)
    return changed


def main() -> None:
    """Trains, measures, writes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.statistics", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder of the page")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    folder = out / "images"
    folder.mkdir(parents=True, exist_ok=True)
    digits, split = split_digits(NUM_GROUPS)
    measured = train_all(digits, split)
    print("auditing", flush=True)
    null_lines, both_lines = false_alarms(digits, split, measured)
    epochs_lines, count_lines, repeat_lines = power(digits, split, measured, folder)
    values = {
        "num_groups": str(NUM_GROUPS),
        "num_encoders": str(NUM_GROUPS + len(REPEATS) * NUM_REPEATED),
        "date": datetime.now(UTC).date().isoformat(),
        "false_alarms": "\n".join(null_lines),
        "both": "\n".join(both_lines),
        "epochs": "\n".join(epochs_lines),
        "candidates": "\n".join(count_lines),
        "repeats": "\n".join(repeat_lines),
        "max_epochs": str(EPOCHS[-1]),
        "planted": str(PLANTED),
        "repeat_epochs": str(REPEAT_EPOCHS),
        "draws": str(coverage.DRAWS),
        "num_external": str(NUM_EXTERNAL),
        "min_candidates": str(MIN_SAMPLES["candidate"]),
        "coverage": "\n".join(coverage.coverage_table()),
        "checks": "\n".join(tolerances(digits, split, measured)),
        "stopping": "\n".join(stopping(split, measured)),
    }
    page = (Path(__file__).parent / "statistics.md.in").read_text(encoding="utf-8")
    for name, value in {**values, "seconds": f"{time.process_time():.0f}"}.items():
        page = page.replace(f"{{{name}}}", value)
    (out / "statistics.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
