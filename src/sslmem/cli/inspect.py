"""``sslmem inspect``: what a checkpoint is, how sure that is, and what would be audited; nothing in it is executed."""

import json as json_format
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from sslmem.cli.options import normalisation, parse_options
from sslmem.errors import SslmemError
from sslmem.gate.statement import file_digest

NOT_USABLE = 2
GUESSED = ("default", "producer")  # who said a setting that the user may know better


def inspect(
    file: Annotated[Path, typer.Argument(exists=True, help="A checkpoint, or a folder of Hugging Face's form.")],
    architecture: Annotated[str | None, typer.Option(help="Name in torchvision or timm, if it cannot be told.")] = None,
    branch: Annotated[str | None, typer.Option(help="Which of several encoders in the file.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="What weights do not show, such as num_heads=6.")] = None,
    input_size: Annotated[int | None, typer.Option(min=1, help="Side of the views in pixels.")] = None,
    mean: Annotated[str | None, typer.Option(help="Normalisation of pixels in 0..1; the file's or ImageNet's.")] = None,
    std: Annotated[str | None, typer.Option(help="Normalisation of pixels in 0..1; likewise.")] = None,
    method: Annotated[str | None, typer.Option(help="How it was trained: simclr, dino, mae, ...")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Says what a checkpoint is and what would be audited: status 0 it is ready, 2 it is not usable as it is."""
    told, (means, stds) = parse_options(option), normalisation(mean, std)
    from sslmem.encoders.convert import convert_checkpoint  # noqa: PLC0415  torch, below it, takes seconds to load
    from sslmem.encoders.load import load_encoder, probe  # noqa: PLC0415
    from sslmem.encoders.sanity import look_over  # noqa: PLC0415

    found: dict[str, Any] = {"file": file.resolve().name, "usable": False}
    with tempfile.TemporaryDirectory(prefix="sslmem-") as folder:
        plain = Path(folder) / "encoder.safetensors"
        try:
            contents = convert_checkpoint(file, plain)
            found |= contents.model_dump()
            found["file_digest"] = None if file.is_dir() else file_digest(file)
            encoder = load_encoder(
                plain,
                architecture=architecture,
                branch=branch,
                options=told,
                input_size=input_size,
                mean=means,
                std=stds,
                method=method,
            )
            width = probe(encoder, num_views=2).representation_dim
            look_over(encoder)
        except SslmemError as error:
            found |= {"code": error.code, "detail": error.detail, "confidence": "none"}
        else:
            report = encoder.report
            guessed = "likely" if report.producer == "unknown" else "certain"
            found |= {
                "usable": True,
                "confidence": guessed if architecture is None else "told",
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
    lines.append(
        f"producer: {report['producer']} ({found['confidence']}); audited: {report['branch']}, "
        f"{report['architecture']}, {report['matched']} entries ({report['renamed']} renamed), "
        f"{report['representation']} of width {found['representation_dim']}"
    )
    if report["other_branches"]:
        lines.append(f"also there: {', '.join(report['other_branches'])}; --branch takes another")
    if report["dropped_because"]:
        reasons = ", ".join(f"{num} of {reason}" for reason, num in report["dropped_because"].items())
        lines.append(f"left out: {reasons}")
    settings = [f"{name} {_shown(one['value'])} ({one['source']})" for name, one in report["settings"].items()]
    lines.append("settings: " + ", ".join(settings))
    notes = [note for note in report["inferred"] if note.partition(" ")[0] not in report["settings"]]
    if notes:
        lines.append("notes: " + "; ".join(notes))
    lines += [f"SUSPECT: {suspicion}" for suspicion in report["suspicions"]]
    lines.append(f"digests: file {found['file_digest'] or 'none, a folder'}, weights {found['weights_digest']}")
    lines.append(_to_be_told(report))
    return lines


def _shown(value: Any) -> str:  # noqa: ANN401  of a setting
    return ",".join(f"{part:g}" for part in value) if isinstance(value, list) else str(value)


def _to_be_told(report: dict[str, Any]) -> str:
    """What the user may know better than a default."""
    options = {"mean": "--mean", "std": "--std", "input_size": "--input-size"}
    guessed = [name for name, one in report["settings"].items() if one["source"] in GUESSED]
    asked = [options.get(name, f"--option {name}=...") for name in guessed]
    if report["method"] is None:
        asked.append("--method, how it was trained")
    return f"to be told, if it is otherwise: {', '.join(asked)}" if asked else "nothing needs to be told"
