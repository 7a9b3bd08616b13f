"""``sslmem webhooks``: be told when audits end."""

from typing import Annotated
from uuid import UUID

import typer

from sslmem.cli.connection import Token, Url, connect
from sslmem.cli.tables import print_resources

app = typer.Typer(no_args_is_help=True, help="Be told at a URL when audits end.")


@app.command()
def add(
    address: Annotated[str, typer.Argument(help="URL to be told at; https, at a public address.")],
    event: Annotated[list[str] | None, typer.Option(help="audit.succeeded, .failed or .cancelled; all.")] = None,
    url: Url = None,
    token: Token = None,
) -> None:
    """Adds a webhook and prints its id, and the secret that its deliveries are verified with, this once."""
    with connect(url, token) as client:
        webhook = client.create("POST", "/v1/webhooks", json={"url": address} | ({"events": event} if event else {}))
    print(webhook["id"], webhook["secret"])


@app.command("list")
def list_webhooks(url: Url = None, token: Token = None) -> None:
    """Lists the project's webhooks, newest first."""
    with connect(url, token) as client:
        print_resources(client.items("/v1/webhooks"), ("id", "url", "events", "disabled_at"))


@app.command()
def remove(webhook_id: UUID, url: Url = None, token: Token = None) -> None:
    """Removes a webhook; nothing is delivered to it any more."""
    with connect(url, token) as client:
        client.request("DELETE", f"/v1/webhooks/{webhook_id}")


@app.command()
def log(webhook_id: UUID, url: Url = None, token: Token = None) -> None:
    """Shows what was delivered to a webhook, newest first, and every attempt."""
    with connect(url, token) as client:
        for delivery in client.items(f"/v1/webhooks/{webhook_id}/deliveries"):
            print(delivery["id"], delivery["type"], delivery["state"], delivery["created_at"])
            for attempt in delivery["attempts"]:
                print(f"  {attempt['number']} {attempt['started_at']} {attempt['error'] or attempt['status'] or ''}")


@app.command("test")
def ping(webhook_id: UUID, url: Url = None, token: Token = None) -> None:
    """Delivers an event webhook.ping; the log shows whether it arrived."""
    with connect(url, token) as client:
        print(client.create("POST", f"/v1/webhooks/{webhook_id}/test")["id"])


@app.command()
def redeliver(webhook_id: UUID, delivery_id: UUID, url: Url = None, token: Token = None) -> None:
    """Delivers again, with the same id and content."""
    with connect(url, token) as client:
        print(client.json("POST", f"/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver")["state"])
