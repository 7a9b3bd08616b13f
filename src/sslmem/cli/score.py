"""``sslmem score``: the same science as the service, on this machine, without any server."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from sslmem.cli.options import automatic, load_recipe, samples_progress, stderr, three_numbers
from sslmem.cli.tables import print_summary
from sslmem.errors import RolesError, SpecError
from sslmem.roles import Role, match_roles, read_roles
from sslmem.spec import Distance, Pairing, ScoreSpec

if TYPE_CHECKING:
    from sslmem.datasets.source import Dataset
    from sslmem.encoders.load import Encoder


def score(
    target: Annotated[list[Path], typer.Option(help="Checkpoints of the encoder under audit; several are averaged.")],
    reference: Annotated[list[Path], typer.Option(help="Checkpoints trained alike without the candidates.")],
    data: Annotated[Path, typer.Option(help="A folder or zip archive of images.")],
    out: Annotated[Path, typer.Option(help="The Parquet file to write, one row per sample.")],
    roles: Annotated[Path | None, typer.Option(help="CSV sample,role; only its samples are scored.")] = None,
    architecture: Annotated[str | None, typer.Option(help="Name in torchvision or timm; ResNets are inferred.")] = None,
    input_size: Annotated[int | None, typer.Option(min=1, help="Side of the views in pixels.")] = None,
    mean: Annotated[str, typer.Option(help="Normalisation of pixels in 0..1, per channel.")] = "0.485,0.456,0.406",
    std: Annotated[str, typer.Option(help="Normalisation of pixels in 0..1, per channel.")] = "0.229,0.224,0.225",
    views: Annotated[int, typer.Option(help="Augmented views of each sample.")] = 10,
    pairing: Annotated[Pairing, typer.Option(help="All pairs of views, or the original with each view.")] = "views",
    distance: Annotated[Distance, typer.Option(help="Distance between representations.")] = "l2",
    normalize: Annotated[bool, typer.Option(help="Scale representations to unit length first.")] = True,
    recipe: Annotated[str, typer.Option(help="Name or YAML file of the augmentations.")] = "simclr",
    seed: Annotated[int, typer.Option(help="Of the views.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    batch_size: Annotated[str, typer.Option(help="Samples per batch, or auto.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
    report: Annotated[Path | None, typer.Option(help="Also write a self-contained HTML report here.")] = None,
) -> None:  # fmt: skip
    """Scores how much the target memorized each sample, and says so by role."""
    batch = automatic(batch_size)
    preprocessing = {"mean": three_numbers(mean), "std": three_numbers(std)}
    if min(preprocessing["std"]) <= 0:
        raise SpecError(f"the normalisation divides by std; expected numbers above 0, found {std}")
    parsed_recipe = load_recipe(recipe)

    def spec_for(size: int) -> ScoreSpec:
        return _spec(
            views=views,
            pairing=pairing,
            distance=distance,
            normalize=normalize,
            recipe=parsed_recipe,
            seed=seed,
            input_size=size,
        )

    spec_for(input_size or parsed_recipe.size or 224)  # says what is wrong before minutes are spent
    assignment = _read_roles(roles) if roles else None
    for file in (out, report):
        _check_place(file)

    from sslmem.datasets.source import open_dataset  # noqa: PLC0415  numpy, and below torch, take seconds to load
    from sslmem.encoders.load import load_checkpoint  # noqa: PLC0415
    from sslmem.report.html import render_report  # noqa: PLC0415
    from sslmem.report.rows import write_parquet  # noqa: PLC0415
    from sslmem.report.summary import summarize  # noqa: PLC0415
    from sslmem.scoring import pick_device  # noqa: PLC0415

    with open_dataset(data) as dataset:
        if assignment is not None:
            match_roles(assignment, {sample.path for sample in dataset.samples})
        chosen = pick_device(device)

        def load(path: Path) -> "Encoder":
            size = input_size or parsed_recipe.size
            encoder = load_checkpoint(
                path, architecture=architecture, input_size=size, device=str(chosen), **preprocessing
            )
            _announce(path, encoder)
            return encoder

        targets, references = [load(path) for path in target], [load(path) for path in reference]
        spec = spec_for(targets[0].input_size)
        rows = _score_all(dataset, assignment, targets, references, spec, device=chosen, batch_size=batch)
        summary = summarize(
            rows,
            spec,
            target_digests=[encoder.weights_digest for encoder in targets],
            reference_digests=[encoder.weights_digest for encoder in references],
        )
        metadata = [("summary", summary.model_dump_json()), ("spec_digest", spec.digest)]
        write_parquet(out, rows, summary.null_scale, metadata)
        if report is not None:
            report.write_text(
                render_report(summary, dataset.read, title=f"Audit of {target[0].name}"), encoding="utf-8"
            )
    if json:
        print(summary.model_dump_json())
    else:
        print_summary(summary.model_dump(mode="json"))
    stderr.print(f"scores: {out}" + (f"  report: {report}" if report else ""), highlight=False, soft_wrap=True)


def _spec(**fields: Any) -> ScoreSpec:  # noqa: ANN401  the spec checks them
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


def _read_roles(path: Path) -> dict[str, Role]:
    try:
        return read_roles(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise RolesError(f"the roles {path} are not readable: {error}") from error


def _announce(path: Path, encoder: "Encoder") -> None:
    """Says how a checkpoint was understood, so that nothing is assumed in silence."""
    report = encoder.report
    parts = [f"{path.name}: {report.architecture}, {report.matched} entries loaded"]
    if report.prefix:
        parts.append(f"prefix {report.prefix!r} stripped")
    if report.dropped:
        more = ", ..." if len(report.dropped) > 3 else ""
        parts.append(f"{len(report.dropped)} entries of heads dropped ({', '.join(report.dropped[:3])}{more})")
    parts += report.inferred
    parts.append(f"input {encoder.input_size} px, mean {encoder.mean}, std {encoder.std}")
    stderr.print("; ".join(parts), highlight=False, soft_wrap=True)


def _score_all(
    dataset: "Dataset",
    assignment: dict[str, Role] | None,
    targets: "list[Encoder]",
    references: "list[Encoder]",
    spec: ScoreSpec,
    **options: Any,  # noqa: ANN401  device and batch size, passed through
) -> list[Any]:
    from sslmem.encoders.load import probe  # noqa: PLC0415
    from sslmem.report.rows import ScoreRow  # noqa: PLC0415
    from sslmem.scoring import read_samples, score  # noqa: PLC0415

    for encoder in (*targets, *references):
        probe(encoder)
    names = [sample.path for sample in dataset.samples if assignment is None or sample.path in assignment]
    if len(names) < len(dataset.samples):
        stderr.print(f"{len(dataset.samples) - len(names)} samples have no role and are not scored", highlight=False)
    rows = []
    with samples_progress() as progress:
        task = progress.add_task("scoring", total=len(names))
        for batch in score(targets, references, read_samples(dataset, names), spec, **options):
            for s in batch:
                role = assignment[s.name] if assignment else None
                rows.append(
                    ScoreRow(
                        sample=s.name,
                        role=role,
                        score=s.score,
                        score_bounded=s.score_bounded,
                        standard_error=s.standard_error,
                        alignment_target=s.alignment_target,
                        alignment_reference=s.alignment_reference,
                        skipped=s.skipped,
                    )
                )
            progress.update(task, completed=len(rows))
    return rows
