"""``sslmem datasets inspect``: what a dataset is, in a few lines, before anything is scored or sent."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sslmem.cli.options import samples_progress

if TYPE_CHECKING:
    from sslmem.datasets.protocol import Dataset
    from sslmem.scan import ScannedSample, SkippedSample

NUM_SHOWN = 5


def inspect_dataset(
    path: Annotated[Path, typer.Argument(help="A folder, archive or file; see docs/datasets.md.")],
    quick: Annotated[bool, typer.Option("--quick", help="List the samples without decoding them.")] = False,
) -> None:
    """Says what a dataset on this machine is: format, samples, labels, and what cannot be decoded."""
    from sslmem.datasets.source import open_dataset  # noqa: PLC0415  numpy takes a while to load

    with open_dataset(path) as dataset:
        for line in _what_it_is(dataset):
            print(line)
        if not quick:
            for line in _what_is_in_it(dataset):
                print(line)


def _what_it_is(dataset: "Dataset") -> Iterable[str]:
    count = len(dataset.samples)
    yield f"format   {dataset.format}"
    splits = ", ".join(f"{name} {size}" for name, size in dataset.splits.items() if name)
    yield f"samples  {count}" + (f" ({splits})" if splits else "")
    yield f"names    {dataset.samples[0].path} to {dataset.samples[-1].path}"
    if dataset.num_others:
        yield f"others   {dataset.num_others} files that are no images and hold none"


def _what_is_in_it(dataset: "Dataset") -> Iterable[str]:
    from sslmem.scan import scan  # noqa: PLC0415

    labels: Counter[str] = Counter()
    keys: Counter[str] = Counter()
    skipped: list[SkippedSample] = []
    num_skipped = 0
    with samples_progress() as progress:
        task = progress.add_task("decoding", total=len(dataset.samples))
        found: Iterable[ScannedSample] = scan(dataset)
        for sample in found:
            progress.advance(task)
            keys[sample.key[7:23]] += sample.skipped is None
            if sample.label is not None:
                labels[sample.label] += 1
            if sample.skipped is not None:
                num_skipped += 1
                skipped += [sample.skipped][: NUM_SHOWN - len(skipped)]
    most = ", ".join(f"{label} {count}" for label, count in labels.most_common(NUM_SHOWN))
    more = f", and {len(labels) - NUM_SHOWN} others" if len(labels) > NUM_SHOWN else ""
    yield f"labels   {most}{more}" if labels else "labels   none"
    twice = sum(count for count in keys.values() if count > 1)
    yield (
        f"equal    {twice} samples are the same file as another one" if twice else "equal    no two files are the same"
    )
    yield (
        f"skipped  {num_skipped} of {len(dataset.samples)} samples cannot be scored" if num_skipped else "skipped  none"
    )
    for one in skipped:
        yield f"  {one.sample}: {one.reason}"
