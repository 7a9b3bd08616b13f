"""How the service runs on a cluster: ``make scaling`` measures the unit costs and writes docs/scaling.md.

Measured here: what a chunk, a row, a page and a request cost, and the scheduler with as many workers and chunks as the
plans have, by the service's own code. Assumed, and said so on the page: the rate of a GPU, the size of an image file,
prices. The rest follows by arithmetic.
"""

import argparse
import io
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.report import ROOT, run
from sslmem.datasets.image import decode_image

PAGE = ROOT / "docs" / "scaling.md"
GPUS = 64
CHUNK_SECONDS = 20.0  # SSLMEM_CHUNK_SECONDS
SAMPLES_OF_AN_AUDIT = 1_300_000
GIGA, HOUR = 1e9, 3600.0
MAX_ARCHIVE = 64 * 2**30  # SSLMEM_MAX_DATASET_BYTES


@dataclass(frozen=True)
class Assumed:
    """What is not measured here.

    Attributes:
        rate: views per second that a GPU encodes.
        image_bytes: of an encoded image, on average.
        price: of a GPU for an hour.
    """

    rate: float
    image_bytes: float
    price: float


@dataclass(frozen=True)
class Plan:
    """An amount of work: audits of as many samples as ImageNet has."""

    audits: int
    encoders: int = 2
    views: int = 10

    @property
    def samples(self) -> int:
        """Of all audits."""
        return self.audits * SAMPLES_OF_AN_AUDIT

    def samples_per_chunk(self, assumed: Assumed) -> int:
        """As the planner of the service chooses them."""
        return round(CHUNK_SECONDS * assumed.rate / (self.views * self.encoders))

    def chunks(self, assumed: Assumed) -> int:
        """Of all audits."""
        return self.audits * ceil(SAMPLES_OF_AN_AUDIT / self.samples_per_chunk(assumed))

    def gpu_seconds(self, assumed: Assumed) -> float:
        """Of computing."""
        return self.samples * self.views * self.encoders / assumed.rate


PLANS = {"1.3 million": Plan(1), "100 million": Plan(77)}


def seconds_to_decode() -> float:
    """Of a JPEG file of 500 x 375 pixels, as ImageNet has them, by one core."""
    dice = np.random.default_rng(0)
    coarse = Image.fromarray(dice.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize((500, 375))
    grain = dice.normal(0, 12, (375, 500, 3))
    file = io.BytesIO()
    Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)

    def once() -> float:
        began = time.perf_counter()
        decode_image(file.getvalue())
        return time.perf_counter() - began

    return median(once() for _ in range(200))


def measured(folder: Path, assumed: Assumed) -> dict[str, Any]:
    """The figures of all benchmarks; those that lie in the folder already are not made again."""

    def of(name: str, measure: Callable[[], Any]) -> Any:  # noqa: ANN401  JSON
        file = folder / f"{name}.json"
        if not file.exists():
            print(f"measuring {name} ...", flush=True)
            file.write_text(json.dumps(measure()), encoding="utf-8")
        return json.loads(file.read_text(encoding="utf-8"))

    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    for name in ("workers", "database", "load"):
        found[name] = of(name, partial(run, f"benchmarks.{name}", []))
    found["decode"] = of("decode", seconds_to_decode)
    for name, plan in PLANS.items():
        options = {"workers": GPUS, "audits": plan.audits, "chunks": plan.chunks(assumed), "gates": 20}
        arguments = [part for option, value in options.items() for part in (f"--{option}", str(value))]
        found[f"scheduler, {name}"] = of(f"scheduler, {name}", partial(run, "benchmarks.scheduler", arguments))
    return found


def table(headings: list[str], rows: list[list[str]]) -> str:
    """In Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def unit_costs(found: dict[str, Any]) -> str:
    """What was measured, with what it is measured against."""
    workers, database = found["workers"], found["database"]
    commit, large = database["commit"], database["sizes"][-1]
    size = sum(database["bytes_of_a_sample"].values())
    small = database["sizes"][0]
    pages = [name for name in large if name.startswith("page")]

    def answers(sizes: dict[str, Any]) -> str:
        millis = [1e3 * sizes[page] for page in pages]
        return f"{1e3 * sizes['summary']:.1f}, {min(millis):.1f} to {max(millis):.1f} ms"

    copied = (
        f"{commit['commit_rows_per_second']:,.0f}; **{commit['ratio']:.2f}** of a bare COPY of the same rows by the "
        f"same driver, {commit['ratio_to_bytes']:.2f} of one of bytes made beforehand"
    )
    peak = database["peak_bytes"] / GIGA
    ratios = ", ".join(f"{one:.2f}" for one in workers["speed_ups"])
    return table(
        ["what", "measured", "command"],
        [
            [
                "two workers on one audit, one thread each, two cores, over one worker",
                f"**{workers['speed_up']:.2f} times** (turns: {ratios})",
                "workers",
            ],
            [
                "from the start of a further worker to its first chunk of the running audit",
                f"{median(workers['seconds_from_start_to_first_chunk']):.1f} s",
                "workers",
            ],
            [
                "a chunk, besides its computing: message, claim, dataset, COPY, commit",
                f"{1e3 * workers['cost_of_a_chunk']:.0f} ms, **{workers['share_of_a_20_second_chunk']:.2%}** of 20 s",
                "workers",
            ],
            ["connections to PostgreSQL of a worker", f"{workers['connections_of_a_worker']:.0f}", "workers"],
            [
                "scores committed with their chunk, rows per second",
                copied,
                "database",
            ],
            [
                f"{large['num_samples']:,} scores summarised; then their evidence gathered",
                f"{large['finalise']:.1f} s; {large['first_evidence']:.1f} s; {peak:.1f} GB at most",
                "database",
            ],
            [
                f"summary and pages of 100, of {small['num_samples']:,} samples and of {large['num_samples']:,}",
                f"{answers(small)}; {answers(large)}",
                "database",
            ],
            ["a sample in the database, with indexes", f"{size:.0f} bytes", "database"],
            ["decoding a JPEG of 500 x 375 pixels", f"{1e3 * found['decode']:.1f} ms of a core", "scaling"],
        ],
    )


def load_table(load: dict[str, Any]) -> str:
    """Requests by kind and number of connections."""
    rows = [
        [
            name,
            connections,
            f"{one['requests_per_second']:.0f}",
            f"{one['p50_ms']:.1f} ms",
            f"{one['p99_ms']:.1f} ms",
            str(one["errors"]),
        ]
        for name, kinds in load["kinds"].items()
        for connections, one in kinds.items()
    ]
    return table(["request", "connections", "per second", "p50", "p99", "errors"], rows)


def plan_table(found: dict[str, Any], assumed: Assumed) -> str:
    """What the plans take."""
    columns = [what_it_takes(plan, found, found[f"scheduler, {name}"], assumed) for name, plan in PLANS.items()]
    rows = [[heading, *(column[heading] for column in columns)] for heading in columns[0]]
    return table(["", *(f"{name} samples" for name in PLANS)], rows)


def what_it_takes(plan: Plan, found: dict[str, Any], simulated: dict[str, Any], assumed: Assumed) -> dict[str, str]:
    """The arithmetic for one plan."""
    database, large = found["database"], found["database"]["sizes"][-1]
    computing = plan.gpu_seconds(assumed) / GPUS
    stretch, waits = simulated["makespan_over_computed"], simulated["gate_waits"]
    seconds = computing * (1 + found["workers"]["share_of_a_20_second_chunk"]) * stretch
    images, chunks = plan.samples / seconds, plan.chunks(assumed) / seconds
    rate, hours = images * assumed.image_bytes, GPUS * seconds / HOUR
    transactions = sum(simulated["milliseconds"][part]["mean"] for part in ("claim", "record")) / 1e3
    committing = images / database["commit"]["commit_rows_per_second"]
    summary = SAMPLES_OF_AN_AUDIT / large["num_samples"] * (large["finalise"] + large["first_evidence"])
    archives = plan.audits * ceil(SAMPLES_OF_AN_AUDIT * assumed.image_bytes / MAX_ARCHIVE)
    size = sum(database["bytes_of_a_sample"].values()) * plan.samples
    lost = f"{simulated['workers_lost']} workers lost on the way"
    waiting = f"{waits['mean']:.1f} s on average, {waits['max']:.1f} s at most"
    views = plan.samples * plan.views * plan.encoders
    return {
        "audits": f"{plan.audits} of {SAMPLES_OF_AN_AUDIT / 1e6:.1f} million",
        f"views encoded ({plan.encoders} encoders, {plan.views} views)": f"{views / GIGA:.3g} billion",
        "samples in a chunk; chunks": f"{plan.samples_per_chunk(assumed):,}; {plan.chunks(assumed):,}",
        f"computing on {GPUS} GPUs": f"{computing / 60:.1f} min",
        "scheduling, simulated": f"{stretch:.3f} of computing alone; {lost}",
        "time in all": f"**{seconds / 60:.1f} min**",
        "wait of gates that come meanwhile, simulated": waiting,
        "read from the store": f"{rate / GIGA:.1f} GB/s; {rate / GPUS / 1e6:.0f} MB/s for each GPU",
        "decoding, for each GPU": f"{images / GPUS * found['decode']:.1f} cores",
        "scores into the database": f"{images:,.0f} a second, {committing:.0%} of what one connection commits",
        "chunks into the database": f"{chunks:.1f} a second, {chunks * transactions:.0%} of one connection's time",
        "database grows by": f"{size / GIGA:.1f} GB",
        "summary and evidence": f"{summary:.0f} s for each audit, by any worker",
        "images in the store": f"{plan.samples * assumed.image_bytes / GIGA:,.0f} GB in at least {archives} archives",
        "cost of the GPUs": f"{hours:.1f} hours, {hours * assumed.price:,.0f} USD",
    }


def main() -> None:
    """Measures what is not there yet and writes the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--out", type=Path, default=PAGE)
    parser.add_argument(
        "--figures", type=Path, default=ROOT / ".scaling", help="folder of figures; kept and used again"
    )
    parser.add_argument("--rate", type=float, default=7300, help="views per second of a GPU")
    parser.add_argument("--image-bytes", type=float, default=110_000)
    parser.add_argument("--price", type=float, default=3.0, help="of a GPU for an hour, in USD")
    arguments = parser.parse_args()
    assumed = Assumed(arguments.rate, arguments.image_bytes, arguments.price)
    found = measured(arguments.figures, assumed)
    parts = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {found['workers']['cores']} cores",
        "costs": unit_costs(found),
        "load": load_table(found["load"]),
        "plans": plan_table(found, assumed),
        "rate": f"{assumed.rate:,.0f}",
        "image_bytes": f"{assumed.image_bytes / 1000:.0f}",
        "price": f"{assumed.price:.2f}",
        "connections": f"{found['workers']['connections_of_a_worker'] * GPUS:.0f}",
        "samples": f"{found['load']['samples']:,}",
    }
    page = (ROOT / "benchmarks" / "scaling.md.in").read_text(encoding="utf-8")
    for name, value in parts.items():
        page = page.replace(f"{{{name}}}", value)
    arguments.out.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
