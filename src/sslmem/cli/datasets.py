"""``sslmem datasets``: push, list and delete datasets and their roles."""

from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from sslmem.cli.connection import Token, Url, connect, folder_size, upload_progress
from sslmem.cli.inspect_dataset import inspect_dataset
from sslmem.cli.options import Yes, confirm
from sslmem.cli.tables import print_resources

app = typer.Typer(
    no_args_is_help=True, help="Push, list and delete datasets of a service, assign roles; say what a dataset is."
)

app.command("inspect")(inspect_dataset)


@app.command()
def push(
    path: Annotated[Path, typer.Argument(exists=True, help="A folder, archive or file; see docs/datasets.md.")],
    name: Annotated[str | None, typer.Option(help="Defaults to the name of the file or folder.")] = None,
    url: Url = None,
    token: Token = None,
) -> None:
    """Uploads a dataset, waits until the service has checked it, and prints its id."""
    with connect(url, token) as client, upload_progress() as progress:
        task = progress.add_task(f"uploading {path.name}", total=folder_size(path))
        dataset = client.push_dataset(path, name=name, advance=lambda count: progress.advance(task, count))
    print(dataset["id"])


@app.command()
def roles(
    dataset_id: UUID,
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="CSV, JSON lines or Parquet: sample, role.")
    ],
    name: Annotated[str | None, typer.Option(help="Defaults to the name of the file.")] = None,
    url: Url = None,
    token: Token = None,
) -> None:
    """Registers a table of roles for a dataset and prints its id."""
    with connect(url, token) as client:
        print(client.push_roles(str(dataset_id), file.read_bytes(), name=name or file.stem)["id"])


@app.command("list")
def list_datasets(url: Url = None, token: Token = None) -> None:
    """Lists the datasets of the service, newest first."""
    with connect(url, token) as client:
        print_resources(client.items("/v1/datasets"), ("id", "name", "state", "num_samples", "num_audits"))


@app.command()
def delete(dataset_id: UUID, yes: Yes = False, url: Url = None, token: Token = None) -> None:
    """Deletes a dataset that no audit uses, with its files."""
    confirm(f"the dataset {dataset_id}", yes=yes)
    with connect(url, token) as client:
        client.request("DELETE", f"/v1/datasets/{dataset_id}")


@app.command("list-roles")
def list_roles(dataset_id: UUID, url: Url = None, token: Token = None) -> None:
    """Lists the tables of roles of a dataset, newest first."""
    with connect(url, token) as client:
        print_resources(client.items(f"/v1/datasets/{dataset_id}/roles"), ("id", "name", "num_samples", "num_audits"))


@app.command("delete-roles")
def delete_roles(dataset_id: UUID, role_set_id: UUID, yes: Yes = False, url: Url = None, token: Token = None) -> None:
    """Deletes a table of roles that no audit uses."""
    confirm(f"the table of roles {role_set_id}", yes=yes)
    with connect(url, token) as client:
        client.request("DELETE", f"/v1/datasets/{dataset_id}/roles/{role_set_id}")
