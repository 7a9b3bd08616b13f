"""``sslmem audits``: request, follow, show, cancel and delete audits."""

import json as jsonlib
import time
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import typer

from sslmem.cli.connection import Token, Url, connect
from sslmem.cli.options import Yes, confirm, load_recipe, samples_progress, stderr
from sslmem.cli.tables import print_resources, print_summary
from sslmem.client.http import TERMINAL, Client
from sslmem.errors import RequestRefused
from sslmem.spec import Compat, Distance, Pairing, Precision

Queue = Literal["default", "gpu"]
SAY_SECONDS = 10  # between lines of progress where there is no terminal for a bar

app = typer.Typer(no_args_is_help=True, help="Request, follow, show, cancel and delete audits.")


@app.command()
def request(
    target: Annotated[list[UUID], typer.Option(help="Ids of the encoders under audit.")],
    reference: Annotated[list[UUID], typer.Option(help="Ids of the reference encoders.")],
    dataset: Annotated[UUID, typer.Option(help="Id of the dataset.")],
    roles: Annotated[UUID, typer.Option(help="Id of the table of roles.")],
    name: Annotated[str | None, typer.Option(help="Of the audit.")] = None,
    views: Annotated[int | None, typer.Option(help="Augmented views of each sample; 10.")] = None,
    pairing: Annotated[Pairing | None, typer.Option(help="views: all pairs, the default; original: with each.")] = None,
    stratify: Annotated[int | None, typer.Option(help="2, 4, 8 or 16 views in an even group; none.")] = None,
    distance: Annotated[Distance | None, typer.Option(help="Between representations; l2.")] = None,
    normalize: Annotated[bool | None, typer.Option(help="Scale representations to unit length first; yes.")] = None,
    recipe: Annotated[str | None, typer.Option(help="Name or YAML file of the augmentations; simclr.")] = None,
    seed: Annotated[int, typer.Option(help="Of the views.")] = 0,
    representation: Annotated[str, typer.Option(help="pooled, cls, mean, tokens, head, layer:NAME, or auto.")] = "auto",
    precision: Annotated[Precision, typer.Option(help="auto: lower where that is safe.")] = "float32",
    compat: Annotated[Compat | None, typer.Option(help="A published convention, which fixes options.")] = None,
    priority: Annotated[int, typer.Option(min=-100, max=100, help="Higher goes first.")] = 0,
    queue: Annotated[Queue, typer.Option(help="gpu: only workers with a GPU may take it.")] = "default",
    force: Annotated[bool, typer.Option("--force", help="A new audit even if there is the same already.")] = False,
    follow: Annotated[bool, typer.Option(help="Wait for the end and show the summary.")] = False,
    url: Url = None,
    token: Token = None,
) -> None:
    """Requests an audit and prints its id."""
    spec = {
        "views": views,
        "pairing": pairing,
        "stratify": stratify,
        "distance": distance,
        "normalize": normalize,
        "recipe": load_recipe(recipe).as_list() if recipe else None,
        "seed": seed,
        "representation": representation,
        "precision": precision,
        "compat": compat,
    }
    body: dict[str, Any] = {
        "target_ids": [str(encoder_id) for encoder_id in target],
        "reference_ids": [str(encoder_id) for encoder_id in reference],
        "dataset_id": str(dataset),
        "role_set_id": str(roles),
        "spec": {key: value for key, value in spec.items() if value is not None},
    }
    body |= {"priority": priority} if priority else {}
    body |= {"queue": queue} if queue != "default" else {}
    body |= {"force": True} if force else {}
    if name:
        body["name"] = name
    with connect(url, token) as client:
        audit = client.request_audit(**body)
        print(audit["id"])
        if audit["queue"] != queue and audit["state"] not in TERMINAL:
            why = audit["reason"] or audit["state"]
            stderr.print(
                f"The same request is there already, in the queue {audit['queue']}: {why}. With --force there is "
                f"another one, in the queue {queue}.",
                highlight=False,
                soft_wrap=True,
            )
        if follow:
            print_summary(follow_audit(client, audit["id"]))


@app.command("follow")
def follow_command(audit_id: UUID, url: Url = None, token: Token = None) -> None:
    """Follows an audit to its end and shows its summary."""
    with connect(url, token) as client:
        print_summary(follow_audit(client, str(audit_id)))


@app.command()
def events(audit_id: UUID, url: Url = None, token: Token = None) -> None:
    """Shows what has happened to an audit, and what happens until it has ended, as lines of JSON."""
    with connect(url, token) as client:
        for event in client.events(str(audit_id)):
            print(jsonlib.dumps(event), flush=True)


@app.command()
def show(
    audit_id: UUID,
    json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
    url: Url = None,
    token: Token = None,
) -> None:
    """Shows an audit: its summary, or how far it is."""
    with connect(url, token) as client:
        audit = client.get(f"/v1/audits/{audit_id}")
        summary = client.get(f"/v1/audits/{audit_id}/summary") if audit["state"] == "succeeded" else None
    if json:
        print(jsonlib.dumps({**audit, "summary": summary}))
    elif summary is not None:
        print_summary(summary)
    else:
        progress = audit["progress"]
        print(f"{audit['state']}: {progress['samples_done']} of {progress['samples_total']} samples")
        print(audit["failure"]["detail"] if audit.get("failure") else audit.get("reason") or "")


@app.command("list")
def list_audits(url: Url = None, token: Token = None) -> None:
    """Lists the audits of the service, newest first."""
    with connect(url, token) as client:
        print_resources(client.items("/v1/audits"), ("id", "name", "state", "created_at"))


@app.command()
def scores(
    audit_id: UUID,
    out: Annotated[Path, typer.Option(help="File to write, ending in .csv or .parquet.")],
    url: Url = None,
    token: Token = None,
) -> None:
    """Downloads the scores of an audit."""
    if out.suffix not in (".csv", ".parquet"):
        raise typer.BadParameter(f"expected a file ending in .csv or .parquet; found {out.name}")
    with connect(url, token) as client:
        client.download(f"/v1/audits/{audit_id}/scores{out.suffix}", out)


@app.command()
def report(
    audit_id: UUID,
    out: Annotated[Path, typer.Option(help="HTML file to write.")],
    url: Url = None,
    token: Token = None,
) -> None:
    """Downloads the report of an audit as one HTML file."""
    with connect(url, token) as client:
        client.download(f"/v1/audits/{audit_id}/report", out)


@app.command()
def cancel(audit_id: UUID, url: Url = None, token: Token = None) -> None:
    """Cancels an audit; harmless when it has ended."""
    with connect(url, token) as client:
        print(client.request("POST", f"/v1/audits/{audit_id}/cancel").json()["state"])


@app.command()
def pause(audit_id: UUID, url: Url = None, token: Token = None) -> None:
    """Lets no further chunk of an audit begin; those under way end."""
    with connect(url, token) as client:
        print(client.request("POST", f"/v1/audits/{audit_id}/pause").json()["state"])


@app.command()
def resume(audit_id: UUID, url: Url = None, token: Token = None) -> None:
    """Goes on with a paused audit."""
    with connect(url, token) as client:
        print(client.request("POST", f"/v1/audits/{audit_id}/resume").json()["state"])


@app.command()
def retry(audit_id: UUID, url: Url = None, token: Token = None) -> None:
    """Tries an audit again that failed or was cancelled; only what is missing is computed."""
    with connect(url, token) as client:
        print(client.request("POST", f"/v1/audits/{audit_id}/retry").json()["state"])


@app.command()
def keep(audit_id: UUID, url: Url = None, token: Token = None) -> None:
    """Keeps an audit and its scores: no policy deletes them, and nobody can until it is released."""
    with connect(url, token) as client:
        print(client.request("POST", f"/v1/audits/{audit_id}/keep").json()["kept_at"])


@app.command()
def release(audit_id: UUID, url: Url = None, token: Token = None) -> None:
    """Leaves an audit that was kept to the policies again."""
    with connect(url, token) as client:
        client.request("DELETE", f"/v1/audits/{audit_id}/keep")


@app.command("delete-scores")
def delete_scores(audit_id: UUID, yes: Yes = False, url: Url = None, token: Token = None) -> None:
    """Deletes the scores and the evidence of an audit that has ended; its summary stays."""
    confirm(f"the scores of the audit {audit_id}", yes=yes)
    with connect(url, token) as client:
        client.request("DELETE", f"/v1/audits/{audit_id}/scores")


@app.command()
def delete(audit_id: UUID, yes: Yes = False, url: Url = None, token: Token = None) -> None:
    """Deletes an audit that has ended, with its scores."""
    confirm(f"the audit {audit_id} with its scores", yes=yes)
    with connect(url, token) as client:
        client.request("DELETE", f"/v1/audits/{audit_id}")


def follow_audit(client: Client, audit_id: str) -> dict[str, Any]:
    """Shows an audit's progress until it ends; returns its summary.

    Raises:
        RequestRefused: it failed or was cancelled; the message says why.
    """
    audit: dict[str, Any] = {}
    reason, said_at = None, time.monotonic()
    with samples_progress() as progress:
        task = progress.add_task("waiting", total=None)
        for audit in client.follow(audit_id):
            done = audit["progress"]
            progress.update(
                task, description=audit["state"], completed=done["samples_done"], total=done["samples_total"]
            )
            if audit.get("reason") and audit["reason"] != reason:
                reason = audit["reason"]
                stderr.print(reason, highlight=False)
            if not stderr.is_terminal and time.monotonic() - said_at > SAY_SECONDS:
                said_at = time.monotonic()
                stderr.print(
                    f"{audit['state']}: {done['samples_done']} of {done['samples_total']} samples", highlight=False
                )
    if audit["state"] != "succeeded":
        failure = audit.get("failure") or {"code": audit["state"], "detail": f"the audit was {audit['state']}"}
        raise RequestRefused(f"audit {audit_id}: {failure['detail']} [{failure['code']}]")
    return client.get(f"/v1/audits/{audit_id}/summary")
