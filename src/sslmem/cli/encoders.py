"""``sslmem encoders``: push, list and delete encoders of a service."""

from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from sslmem.cli.connection import Token, Url, connect, upload_progress
from sslmem.cli.options import Yes, confirm, three_numbers
from sslmem.cli.tables import print_resources

app = typer.Typer(no_args_is_help=True, help="Push, list and delete encoders of a service.")

File = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A safetensors or torch checkpoint.")]


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
    url: Url = None,
    token: Token = None,
) -> None:
    """Uploads a checkpoint, waits until the service has checked it, and prints its id."""
    with connect(url, token) as client, upload_progress() as progress:
        task = progress.add_task(f"uploading {file.name}", total=file.stat().st_size)
        encoder = client.push_encoder(
            file,
            name=name,
            architecture=architecture,
            input_size=input_size,
            mean=three_numbers(mean) if mean else None,
            std=three_numbers(std) if std else None,
            method=method,
            advance=lambda count: progress.advance(task, count),
        )
    print(encoder["id"])


@app.command("list")
def list_encoders(url: Url = None, token: Token = None) -> None:
    """Lists the encoders of the service, newest first."""
    with connect(url, token) as client:
        print_resources(
            client.items("/v1/encoders"), ("id", "name", "state", "architecture", "input_size", "num_audits")
        )


@app.command()
def delete(encoder_id: UUID, yes: Yes = False, url: Url = None, token: Token = None) -> None:
    """Deletes an encoder that no audit uses, with its files."""
    confirm(f"the encoder {encoder_id}", yes=yes)
    with connect(url, token) as client:
        client.request("DELETE", f"/v1/encoders/{encoder_id}")
