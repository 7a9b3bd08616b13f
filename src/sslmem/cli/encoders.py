"""``sslmem encoders``: push, show, list and delete encoders of a service."""

import json as jsonlib
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from sslmem.cli.connection import Token, Url, connect, upload_progress
from sslmem.cli.options import Yes, confirm, parse_options, stderr, three_numbers
from sslmem.cli.tables import print_resources
from sslmem.client.http import Json

app = typer.Typer(no_args_is_help=True, help="Push, show, list and delete encoders of a service.")

File = Annotated[Path, typer.Argument(exists=True, help="A checkpoint, or a folder of Hugging Face's form.")]


@app.command()
def push(
    file: File,
    name: Annotated[str | None, typer.Option(help="Defaults to the name of the file.")] = None,
    architecture: Annotated[
        str | None, typer.Option(help="torchvision's or timm's name; ResNets are inferred.")
    ] = None,
    input_size: Annotated[int | None, typer.Option(min=1, help="Side of the views in pixels.")] = None,
    mean: Annotated[str | None, typer.Option(help="Normalisation of pixels in 0..1, such as 0.5,0.5,0.5.")] = None,
    std: Annotated[str | None, typer.Option(help="Normalisation of pixels in 0..1.")] = None,
    method: Annotated[str | None, typer.Option(help="How it was trained: simclr, dino, mae, ...")] = None,
    branch: Annotated[str | None, typer.Option(help="Which of several encoders in a file: teacher, ema, ...")] = None,
    option: Annotated[list[str] | None, typer.Option(help="What weights do not show, such as num_heads=6.")] = None,
    url: Url = None,
    token: Token = None,
) -> None:
    """Uploads a checkpoint, waits until the service has checked it, and prints its id; says how it was read."""
    options = parse_options(option)
    with connect(url, token) as client, upload_progress() as progress:
        task = progress.add_task(f"uploading {file.name}", total=None if file.is_dir() else file.stat().st_size)
        encoder = client.push_encoder(
            file,
            name=name,
            architecture=architecture,
            input_size=input_size,
            mean=three_numbers(mean) if mean else None,
            std=three_numbers(std) if std else None,
            method=method,
            branch=branch,
            options=options,
            advance=lambda count: progress.advance(task, count),
        )
    for line in how_it_was_read(encoder):
        stderr.print(line, highlight=False, soft_wrap=True)
    for suspicion in encoder["suspicions"]:
        stderr.print(f"SUSPECT: {suspicion}", style="bold red", highlight=False, soft_wrap=True)
    print(encoder["id"])


@app.command()
def show(
    encoder_id: UUID,
    json: Annotated[bool, typer.Option("--json", help="As one JSON object, with the load report.")] = False,
    url: Url = None,
    token: Token = None,
) -> None:
    """Shows an encoder: how it was read, and what speaks against it."""
    with connect(url, token) as client:
        encoder = client.get(f"/v1/encoders/{encoder_id}")
    if json:
        print(jsonlib.dumps(encoder))
        return
    print(f"{encoder['name']}: {encoder['state']}" + (", SUSPECT" if encoder["suspect"] else ""))
    if encoder["failure"] or encoder["reason"]:
        print(encoder["failure"]["detail"] if encoder["failure"] else encoder["reason"])
    for line in [*how_it_was_read(encoder), *(f"SUSPECT: {one}" for one in encoder["suspicions"])]:
        print(line)
    print(f"file {encoder['artifact_digest']}")
    if encoder["weights_digest"]:
        print(f"weights {encoder['weights_digest']}")


def how_it_was_read(encoder: Json) -> list[str]:
    """What the check of a service found, in lines."""
    report = encoder["load_report"]
    if report is None:
        return []
    others = f" (not {', '.join(encoder['other_branches'])})" if encoder["other_branches"] else ""
    first = (
        f"written by {report.get('producer', 'unknown')}; audited: {encoder['branch']}{others}, "
        f"{encoder['architecture']}, {report['matched']} entries loaded, {len(report['dropped'])} left out"
    )
    settings = (encoder["settings"] or {}).items()
    return [first, *(f"{name}: {setting['value']} ({setting['source']})" for name, setting in settings)]


@app.command("list")
def list_encoders(url: Url = None, token: Token = None) -> None:
    """Lists the encoders of the service, newest first."""
    with connect(url, token) as client:
        print_resources(
            client.items("/v1/encoders"),
            ("id", "name", "state", "architecture", "branch", "input_size", "suspect", "num_audits"),
        )


@app.command()
def delete(encoder_id: UUID, yes: Yes = False, url: Url = None, token: Token = None) -> None:
    """Deletes an encoder that no audit uses, with its files."""
    confirm(f"the encoder {encoder_id}", yes=yes)
    with connect(url, token) as client:
        client.request("DELETE", f"/v1/encoders/{encoder_id}")
