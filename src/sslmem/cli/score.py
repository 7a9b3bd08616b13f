"""``sslmem score``: the same science as the service, on this machine, without any server."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from sslmem.cli.options import automatic, load_recipe, normalisation, parse_options, part_progress, stderr
from sslmem.cli.tables import print_summary
from sslmem.errors import RolesError, SpecError, SslmemError
from sslmem.gate.case import suspected
from sslmem.roles import Role, match_roles, read_roles
from sslmem.spec import Compat, Distance, Pairing, Precision, ScoreSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sslmem.datasets.source import Dataset
    from sslmem.encoders.encoder import Encoder


def score(
    target: Annotated[list[Path], typer.Option(help="Checkpoints of the encoder under audit; several are averaged.")],
    reference: Annotated[list[Path], typer.Option(help="Checkpoints trained alike without the candidates.")],
    data: Annotated[Path, typer.Option(help="A folder, archive or file of images; see docs/datasets.md.")],
    out: Annotated[Path, typer.Option(help="The Parquet file to write, one row per sample.")],
    roles: Annotated[Path | None, typer.Option(help="Table sample,role; only its samples are scored.")] = None,
    architecture: Annotated[str | None, typer.Option(help="Name in torchvision or timm; ResNets are inferred.")] = None,
    method: Annotated[str | None, typer.Option(help="How they were trained: simclr, dino, mae, ...")] = None,
    representation: Annotated[str, typer.Option(help="pooled, cls, mean, tokens, head, layer:NAME, or auto.")] = "auto",
    branch: Annotated[str | None, typer.Option(help="Which of several encoders in a file: teacher, ema, ...")] = None,
    option: Annotated[list[str] | None, typer.Option(help="What weights do not show, such as num_heads=6.")] = None,
    input_size: Annotated[int | None, typer.Option(min=1, help="Side of the views in pixels.")] = None,
    mean: Annotated[str | None, typer.Option(help="Normalisation of pixels in 0..1; the file's or ImageNet's.")] = None,
    std: Annotated[str | None, typer.Option(help="Normalisation of pixels in 0..1; likewise.")] = None,
    views: Annotated[int | None, typer.Option(help="Augmented views of each sample; 10.")] = None,
    pairing: Annotated[Pairing | None, typer.Option(help="views: all pairs, the default; original: with each.")] = None,
    stratify: Annotated[int | None, typer.Option(help="2, 4, 8 or 16 views in an even group; none.")] = None,
    distance: Annotated[Distance | None, typer.Option(help="Between representations; l2.")] = None,
    normalize: Annotated[bool | None, typer.Option(help="Scale representations to unit length first; yes.")] = None,
    recipe: Annotated[str | None, typer.Option(help="Name or YAML file of the augmentations; simclr.")] = None,
    seed: Annotated[int, typer.Option(help="Of the views.")] = 0,
    compat: Annotated[Compat | None, typer.Option(help="A published convention, which fixes options.")] = None,
    refine_views: Annotated[int | None, typer.Option(help="Of a second stage, for the highest scores.")] = None,
    refine_share: Annotated[float | None, typer.Option(help="Of the samples, to score again; 0.15.")] = None,
    precision: Annotated[Precision, typer.Option(help="auto: lower where that is safe.")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    batch_size: Annotated[str, typer.Option(help="Samples per batch, or auto.")] = "auto",
    keep_distances: Annotated[bool, typer.Option(help="Keep them, for sslmem merge.")] = False,
    keep_representations: Annotated[bool, typer.Option(help="Keep them, so that views can be added.")] = False,
    add_to: Annotated[Path | None, typer.Option(help="Scores of fewer views that kept them.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
    report: Annotated[Path | None, typer.Option(help="Also write a self-contained HTML report here.")] = None,
) -> None:  # fmt: skip
    """Scores how much the target memorized each sample, and says so by role."""
    batch, told = automatic(batch_size), parse_options(option)
    pixels_mean, pixels_std = normalisation(mean, std)
    parsed_recipe = load_recipe(recipe) if recipe else None
    given = {
        "views": views,
        "pairing": pairing,
        "stratify": stratify,
        "distance": distance,
        "normalize": normalize,
        "recipe": parsed_recipe,
        "compat": compat,
        "refine": _refine(refine_views, refine_share),
        # A convention may fix the tensor; otherwise the encoders say what auto is.
        "representation": None if representation == "auto" else representation,
    }
    fields = {name: value for name, value in given.items() if value is not None}
    fields |= {"seed": seed, "precision": precision}
    size = input_size or (parsed_recipe.size if parsed_recipe else None)
    wanted = make_spec(**fields, input_size=size or 224)  # says what is wrong before minutes are spent
    assignment = read_roles_file(roles) if roles else None
    for file in (out, report):
        _check_place(file)

    from sslmem.datasets.source import open_dataset  # noqa: PLC0415  numpy, and below torch, take seconds to load
    from sslmem.encoders.load import load_checkpoint, probe  # noqa: PLC0415
    from sslmem.encoders.sanity import look_over  # noqa: PLC0415
    from sslmem.local import score_dataset, write_scores  # noqa: PLC0415
    from sslmem.report.html import render_report  # noqa: PLC0415
    from sslmem.scoring import pick_device  # noqa: PLC0415

    with open_dataset(data) as dataset:
        if assignment is not None:
            assignment = match_roles(assignment, dataset)
        chosen = pick_device(device)
        fixed = "representation" in fields or compat == "official-code"

        def load(path: Path) -> "Encoder":
            with _naming(path):
                encoder = load_checkpoint(
                    path,
                    architecture=architecture,
                    input_size=size,
                    mean=pixels_mean,
                    std=pixels_std,
                    method=method,
                    representation=wanted.representation if fixed else "auto",
                    branch=branch,
                    options=told,
                    device=str(chosen),
                )
                probe(encoder)
                look_over(encoder)
            announce(path, encoder)
            return encoder

        targets, references = [load(path) for path in target], [load(path) for path in reference]
        first = targets[0]
        fields["representation"] = first.report.representation
        spec = make_spec(**fields, input_size=first.input_size)
        _say_what_is_left_out(dataset, assignment)
        _say_what_is_alike(dataset, assignment)
        with part_progress() as progress:
            task = progress.add_task("scoring", total=1.0)
            scores = score_dataset(
                targets,
                references,
                dataset,
                spec,
                device=chosen,
                roles=assignment,
                batch_size=batch,
                keep_distances=keep_distances,
                keep_representations=keep_representations,
                earlier=None if add_to is None else _earlier(add_to, spec, targets, references),
                advance=lambda part: progress.update(task, completed=part),
            )
        summary = scores.summary
        write_scores(out, scores)
        if report is not None:
            title = f"Audit of {target[0].name}"
            suspicions = suspected("target", _suspicions(targets)) + suspected("reference", _suspicions(references))
            page = render_report(summary, dataset.read, title=title, suspicions=suspicions)
            report.write_text(page, encoding="utf-8")
    if json:
        print(summary.model_dump_json())
    else:
        print_summary(summary.model_dump(mode="json"))
    stderr.print(f"scores: {out}" + (f"  report: {report}" if report else ""), highlight=False, soft_wrap=True)


def _suspicions(encoders: "list[Encoder]") -> list[str]:
    return [one for encoder in encoders for one in encoder.report.suspicions]


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Makes errors say which of several files they are about."""
    try:
        yield
    except SslmemError as error:
        if path.name in error.detail:
            raise
        raise type(error)(f"{path.name}: {error.detail}") from error


def _earlier(
    path: Path, spec: ScoreSpec, targets: "list[Encoder]", references: "list[Encoder]"
) -> "dict[str, NDArray[np.float32]]":
    from sslmem.merge import read_scores, representations_of  # noqa: PLC0415

    digests = ([encoder.weights_digest for encoder in part] for part in (targets, references))
    return representations_of(read_scores(path), spec, *digests)


def _refine(views: int | None, share: float | None) -> dict[str, Any] | None:
    if views is None and share is None:
        return None
    if views is None:
        raise SpecError("a share to score again needs to know with how many views; expected --refine-views, too")
    return {"views": views} | ({} if share is None else {"share": share})


def _say_what_is_left_out(dataset: "Dataset", assignment: dict[str, Role] | None) -> None:
    num = 0 if assignment is None else len(dataset.samples) - len(assignment)
    if num:
        stderr.print(f"{num} samples have no role and are not scored", highlight=False)


def _say_what_is_alike(dataset: "Dataset", assignment: dict[str, Role] | None) -> None:
    """A candidate with a twin among the shared was trained on by both."""
    from sslmem.scan import twins_across_roles  # noqa: PLC0415

    if assignment is None or len(set(assignment.values())) < 2:
        return
    for pair in twins_across_roles(dataset, assignment):
        one, other = pair.examples[0]
        stderr.print(
            f"{pair.role} and {pair.other} are not apart: {pair.num_exact} {pair.role} samples are also {pair.other}, "
            f"{pair.num_near} look like one, such as {one} and {other}",
            highlight=False,
            soft_wrap=True,
        )


def make_spec(**fields: Any) -> ScoreSpec:  # noqa: ANN401  the spec checks them
    """Makes a spec from what was asked for.

    Raises:
        SpecError: it is not usable; the message names the first fault.
    """
    try:
        return ScoreSpec(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise SpecError(f"{name}: {first['msg']}; found {first['input']}") from error


def _check_place(file: Path | None) -> None:
    if file is not None and not file.parent.is_dir():
        raise SpecError(f"expected a folder to write {file.name} into; there is none at {file.parent}")
    if file is not None and file.is_dir():
        raise SpecError(f"expected a file to write; {file} is a folder")


def read_roles_file(path: Path) -> dict[str, Role]:
    """Reads a table of roles.

    Raises:
        RolesError: it is not readable, or not usable.
    """
    try:
        return read_roles(path.read_bytes())
    except OSError as error:
        raise RolesError(f"the roles {path} are not readable: {error}") from error


SOURCES = {
    "told": "as told",
    "weights": "from the weights",
    "file": "as the file says",
    "producer": "as its producer has it",
    "default": "ImageNet's, a default",
}


def announce(path: Path, encoder: "Encoder") -> None:
    """Says how a checkpoint was understood, so that nothing is assumed in silence."""
    report = encoder.report
    parts = [f"{path.name}: {report.architecture}, {report.matched} entries loaded"]
    if report.producer != "unknown":
        parts.append(f"written by {report.producer}")
    if report.other_branches:
        parts.append(f"branch {report.branch} (not {', '.join(report.other_branches)})")
    if report.renamed:
        parts.append(f"{report.renamed} entries renamed")
    if report.prefix:
        parts.append(f"prefix {report.prefix!r} stripped")
    if report.dropped:
        more = ", ..." if len(report.dropped) > 3 else ""
        parts.append(f"{len(report.dropped)} entries dropped ({', '.join(report.dropped[:3])}{more})")
    parts += report.inferred
    parts.append(f"measured: {report.representation}")
    source = report.settings["mean"].source if "mean" in report.settings else "told"
    parts.append(f"input {encoder.input_size} px, mean {encoder.mean}, std {encoder.std} ({SOURCES[source]})")
    stderr.print("; ".join(parts), highlight=False, soft_wrap=True)
    for suspicion in report.suspicions:
        stderr.print(f"SUSPECT: {path.name}: {suspicion}", style="bold red", highlight=False, soft_wrap=True)
