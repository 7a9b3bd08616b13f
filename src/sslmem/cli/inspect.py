"""``sslmem inspect``: what a checkpoint is, how sure that is, and what would be audited; nothing in it is executed."""

import json as json_format
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from sslmem.cli.options import parse_options
from sslmem.errors import SslmemError

NOT_USABLE = 2


def inspect(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A safetensors or torch checkpoint.")],
    architecture: Annotated[str | None, typer.Option(help="Name in torchvision or timm, if it cannot be told.")] = None,
    branch: Annotated[str | None, typer.Option(help="Which of several encoders in the file.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="What weights do not show, such as num_heads=6.")] = None,
    input_size: Annotated[int | None, typer.Option(min=1, help="Side of the views in pixels.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Says what a checkpoint is and what would be audited: status 0 it is ready, 2 it is not usable as it is."""
    told = parse_options(option)
    from sslmem.encoders.convert import convert_checkpoint  # noqa: PLC0415  torch, below it, takes seconds to load
    from sslmem.encoders.load import load_encoder, probe  # noqa: PLC0415
    from sslmem.encoders.sanity import look_over  # noqa: PLC0415

    found: dict[str, Any] = {"file": file.name, "usable": False}
    with tempfile.TemporaryDirectory(prefix="sslmem-") as folder:
        plain = Path(folder) / "encoder.safetensors"
        try:
            contents = convert_checkpoint(file, plain)
            found |= contents.model_dump()
            encoder = load_encoder(plain, architecture=architecture, branch=branch, options=told, input_size=input_size)
            width = probe(encoder, num_views=2).representation_dim
            look_over(encoder)
        except SslmemError as error:
            found |= {"code": error.code, "detail": error.detail, "confidence": "none"}
        else:
            report = encoder.report
            guessed = "likely" if report.producer == "unknown" else "certain"
            confidence = guessed if architecture is None else "told"
            found |= {
                "usable": True,
                "confidence": confidence,
                "input_size": encoder.input_size,
                "representation_dim": width,
                "weights_digest": encoder.weights_digest,
                "load_report": report.model_dump(mode="json"),
            }
    print(json_format.dumps(found) if json else "\n".join(_lines(found)))
    if not found["usable"]:
        raise typer.Exit(NOT_USABLE)


def _lines(found: dict[str, Any]) -> list[str]:
    lines = []
    if "container" in found:
        places = ", ".join(place or "the whole file" for place in found["places"])
        lines.append(f"{found['file']}: {found['container']}, {found['entries']} tensors ({places})")
        if found["facts"]:
            lines.append("it says: " + ", ".join(f"{name} {value}" for name, value in list(found["facts"].items())[:8]))
    if not found["usable"]:
        return [*lines, f"not usable as it is: {found['detail']} [{found['code']}]"]
    report = found["load_report"]
    lines.append(f"producer: {report['producer']} ({found['confidence']})")
    lines.append(
        f"audited: {report['branch']}, {report['architecture']}, {report['matched']} entries, "
        f"{report['representation']} of width {found['representation_dim']}, input {found['input_size']} px"
    )
    if report["other_branches"]:
        lines.append(f"also there: {', '.join(report['other_branches'])}; --branch takes another")
    if report["dropped_because"]:
        reasons = ", ".join(f"{num} of {reason}" for reason, num in report["dropped_because"].items())
        lines.append(f"left out: {reasons}")
    lines.append("notes: " + "; ".join(report["inferred"]))
    lines += [f"SUSPECT: {suspicion}" for suspicion in report["suspicions"]]
    if report["method"] is None:
        lines.append("to be told: --method, how it was trained; --mean and --std, unless ImageNet's")
    else:
        lines.append("to be told: --mean and --std, unless ImageNet's")
    return lines
