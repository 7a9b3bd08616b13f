"""``sslmem merge``: puts score files of several runs together."""

from pathlib import Path
from typing import Annotated

import typer

from sslmem.cli.tables import print_summary


def merge(
    files: Annotated[list[Path], typer.Argument(help="Score files of one spec and the same targets.")],
    out: Annotated[Path, typer.Option(help="The Parquet file to write.")],
    json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
) -> None:
    """Merges scores of more samples, or with more references (scored with --keep-distances), into one file."""
    from sslmem.local import write_scores  # noqa: PLC0415  numpy and torch take seconds to load
    from sslmem.merge import merge_scores, read_scores  # noqa: PLC0415

    merged = merge_scores([read_scores(file) for file in files])
    summary = merged.summary
    write_scores(out, merged)
    if json:
        print(summary.model_dump_json())
    else:
        print_summary(summary.model_dump(mode="json"))
