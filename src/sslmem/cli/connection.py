"""Where the service is and who asks: options, environment, or the local service's own folder."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from platformdirs import user_data_dir
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from sslmem.cli.options import stderr
from sslmem.client.http import Client
from sslmem.errors import RequestRefused

DEFAULT_URL = "http://127.0.0.1:8000"

Url = Annotated[str | None, typer.Option("--url", envvar="SSLMEM_URL", help="Of the service; a local one is found.")]
Token = Annotated[str | None, typer.Option("--token", envvar="SSLMEM_TOKEN", help="API token; a local one is found.")]


def home() -> Path:
    """The folder of a service on this machine: SSLMEM_HOME or the user's data folder."""
    return Path(os.environ.get("SSLMEM_HOME") or user_data_dir("sslmem"))


def connect(url: str | None, token: str | None) -> Client:
    """Connects to the named service, else to the one that runs on this machine.

    Raises:
        RequestRefused: there is no token to be found.
    """
    if url is None:
        url = _local_url() or DEFAULT_URL
    if token is None:
        file = home() / "token"
        if not file.is_file():
            raise RequestRefused(
                f"expected an API token in --token, SSLMEM_TOKEN or {file}; the service prints one at its first start"
            )
        token = file.read_text(encoding="utf-8").strip()
    return Client(url, token)


def _local_url() -> str | None:
    try:
        return str(json.loads((home() / "service.json").read_text(encoding="utf-8"))["url"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def upload_progress() -> Progress:
    """A bar that counts bytes, on standard error if that is a terminal, gone when done."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=stderr,
        transient=True,
        disable=not stderr.is_terminal,
    )


def folder_size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size
