"""Runs all benchmarks on this machine and writes docs/performance.md: ``make performance``."""

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"

CPU_RUNS = [
    [*network.split(), "--input-size", "32", "--samples", "32", "--turns", "3", "--device", "cpu"]
    for network in ("--architecture resnet18 --stem small", "--architecture vit_tiny_patch16_224 --patch 4")
]
GPU_RUNS = [  # the authors' way, an image and a view at a time, takes 64 images of each
    [*network.split(), "--references", references, "--precision", "auto", "--device", "cuda"]
    for network in (
        "--architecture resnet50 --input-size 224 --samples 4096 --authors-share 64",
        "--architecture resnet18 --input-size 224 --samples 4096 --authors-share 64",
        "--architecture vit_small_patch16_224 --input-size 224 --samples 4096 --authors-share 64",
        "--architecture vit_base_patch16_224 --input-size 224 --samples 4096 --authors-share 64",
        "--architecture resnet18 --stem small --input-size 32 --samples 32768 --authors-share 512",
    )
    for references in ("1", "4")
]
NO_GPU = "This page was made on a machine without a GPU: the figures of one are missing."


def run(module: str, arguments: list[str]) -> dict[str, Any]:
    """Runs a benchmark in a process of its own and returns its figures."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.json"
        command = [sys.executable, "-m", module, *arguments, "--json", str(file)]
        subprocess.run(command, check=True, cwd=ROOT)  # noqa: S603  our own command
        result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return result


def score_table(runs: list[list[str]]) -> list[str]:
    """The table of the scoring benchmark, a row for each run."""
    columns = "encoder, encoders, views, floor views/s, end to end views/s, ratio (range), decode, views, distances"
    headings = [*columns.split(", "), "over authors' style"]
    lines = ["| " + " | ".join(headings) + " |", "|---" * len(headings) + "|"]
    machine = ""
    for arguments in runs:
        r = run("benchmarks.score", arguments)
        machine = r["machine"]
        low, high = r["ratio_range"]
        shares = " | ".join(f"{100 * r['stage_shares'][stage]:.1f} %" for stage in ("decode", "views", "distances"))
        lines.append(
            f"| {r['architecture']}, {r['input_size']} px, {r['precision']} | {r['encoders']} | {r['views']} "
            f"| {r['floor_views_per_second']:.0f} | {r['end_to_end_views_per_second']:.0f} "
            f"| **{r['ratio']:.3f}** ({low:.3f} to {high:.3f}) | {shares} | {r['speed_up_over_authors']:.1f} times |"
        )
    return [f"Machine: {machine}.", "", *lines]


def variance_tables(result: dict[str, Any]) -> list[str]:
    """The two tables of the variance benchmark."""
    intro = (
        f"Variance of a score over {result['runs']} reseeded runs: with independent views, divided by that with views "
        "in groups that spread evenly, for the same forwards (above 1: groups are better). Then the root mean square "
        "of the reported standard error, divided by the spread that it should be:"
    )
    lines = [
        intro,
        "",
        "| pair | pairing | views | in groups of | variance ratio | reported error / spread |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['pair']} | {row['pairing']} | {row['views']} | {row['stratify'] or 1} | {row['variance_ratio']:.2f} "
        f"| {row['error_to_spread']:.2f} |"
        for row in result["low_discrepancy"]
    ]
    lines += [
        "",
        "Two stages: the part of the top percent of a uniform 128-view run that is found, by part of its forwards:",
        "",
        "| first stage, views | share scored again | forwards | recall of the top percent |",
        "|---|---|---|---|",
    ]
    return lines + [
        f"| {row['first_views']} | {row['share']:.2f} | {row['forwards']:.2f} | {row['recall']:.2f} |"
        for row in result["two_stage"]
    ]


def main() -> None:
    """Runs everything; about a quarter of an hour on two cores."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("--out", type=Path, default=PAGE)
    arguments = parser.parse_args()
    template = (ROOT / "benchmarks" / "performance.md.in").read_text(encoding="utf-8")
    page = (
        template.replace("{date}", datetime.now(UTC).date().isoformat())
        .replace("{score}", "\n".join(score_table(CPU_RUNS)))
        .replace("{gpu}", "\n".join(score_table(GPU_RUNS)) if torch.cuda.is_available() else NO_GPU)
        .replace("{variance}", "\n".join(variance_tables(run("benchmarks.variance", []))))
    )
    arguments.out.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
