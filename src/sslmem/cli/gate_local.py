"""Scores computed on this machine, as the gate's case."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslmem.cli.options import part_progress
from sslmem.cli.score import announce, make_spec, read_roles_file
from sslmem.errors import SpecError
from sslmem.gate.case import Case, Drawn, EncoderUsed, make_case, order_seed
from sslmem.gate.decide import Decision
from sslmem.gate.statement import file_digest
from sslmem.policy import Policy
from sslmem.roles import match_roles, roles_digest
from sslmem.spec import ScoreSpec

if TYPE_CHECKING:
    from sslmem.encoders.encoder import Encoder
    from sslmem.local import LocalScores


@dataclass(frozen=True)
class Files:
    """What to score."""

    targets: list[Path]
    references: list[Path]
    data: Path
    roles: Path


@dataclass(frozen=True)
class Reading:
    """How the checkpoints are to be read; see ``load_checkpoint``."""

    architecture: str | None
    branch: str | None
    options: dict[str, int | float | bool | str]
    method: str | None
    representation: str
    input_size: int | None
    mean: tuple[float, float, float] | None
    std: tuple[float, float, float] | None
    device: str


Finish = Callable[[Case, dict[str, Any], Callable[[str], bytes]], None]


def score_case(
    files: Files,
    reading: Reading,
    fields: dict[str, Any],
    policy: Policy,
    *,
    decide: Callable[[Case], Decision],
    finish: Finish,
    keep: Path | None = None,
    sequential: bool = False,
) -> None:
    """Scores, gathers evidence, and hands case, summary and a reader of images on while the dataset is open.

    Args:
        files: what to score.
        reading: how to read the checkpoints.
        fields: of the score spec.
        policy: whose levels the evidence is at.
        decide: by the policy.
        finish: takes case, summary and reader of images.
        keep: where to write the scores, if anywhere.
        sequential: stop as soon as the verdict is certain.

    Raises:
        SslmemError: an encoder, the dataset, the roles or the spec cannot be used.
    """
    size = reading.input_size or fields["recipe"].size
    make_spec(**fields, input_size=size or 224)  # says what is wrong before minutes are spent
    roles = read_roles_file(files.roles)

    from sslmem.datasets.source import open_dataset  # noqa: PLC0415  numpy, and below torch, take seconds to load
    from sslmem.local import as_local, census, score_dataset, write_scores  # noqa: PLC0415
    from sslmem.report.checks import check_images  # noqa: PLC0415
    from sslmem.report.evidence import gather_evidence  # noqa: PLC0415
    from sslmem.report.quality import measure_quality  # noqa: PLC0415
    from sslmem.samples import read_samples  # noqa: PLC0415
    from sslmem.scoring import Scorer, pick_device  # noqa: PLC0415
    from sslmem.stopping import Part, score_until_certain  # noqa: PLC0415

    device = pick_device(reading.device)

    with open_dataset(files.data) as dataset:
        roles = match_roles(roles, dataset)
        targets = [_load(path, reading, size, str(device)) for path in files.targets]
        references = [_load(path, reading, size, str(device)) for path in files.references]
        fields["representation"] = targets[0].report.representation
        spec = make_spec(**fields, input_size=targets[0].input_size)
        null = [name for name, role in roles.items() if role == "external"]
        quality = measure_quality(targets, references, read_samples(dataset, null), spec, device=device)
        digests, used = _digests(files), _used(files, (*targets, *references))

        weights = [[encoder.weights_digest for encoder in part] for part in (targets, references)]
        seed = order_seed(roles_digest(roles), *weights)
        images = check_images(census(dataset, roles), dataset.read) if sequential else []

        def case_of(scores: "LocalScores", confidence: float, drawn: Drawn | None = None) -> Case:
            evidence = gather_evidence(
                scores.rows,
                scores.summary,
                confidence=confidence,
                fdr=policy.fdr,
                quality=quality,
                read_image=None if sequential else dataset.read,
                checked_before=images,
                suspicions=[doubt for encoder in used for doubt in encoder.doubts],
            )
            found = json.loads(evidence.model_dump_json())
            summary = scores.summary.model_dump(mode="json")
            return make_case(found, summary, files=digests, encoders=used, drawn=drawn)

        scorers: dict[int, Scorer] = {}

        def scorer(stage: ScoreSpec) -> Scorer:
            scorers[stage.views] = Scorer(targets, references, stage, device=device)
            return scorers[stage.views]

        def so_far(part: Part) -> "LocalScores":
            conditions = [scorers[part.spec.views].conditions]
            return as_local(part.scores, part.spec, targets, references, roles, conditions)

        with part_progress() as progress:
            task = progress.add_task("scoring", total=1.0)

            def advance(done: float) -> None:
                progress.update(task, completed=done)

            if sequential:
                case, part = score_until_certain(
                    scorer,
                    lambda names: read_samples(dataset, names),
                    roles,
                    spec,
                    policy,
                    case_of=lambda part: case_of(
                        so_far(part), part.confidence, Drawn(share=part.share, views=spec.views, said=part.said)
                    ),
                    decide=decide,
                    seed=seed,
                    advance=advance,
                )
                scores = so_far(part)
            else:
                scores = score_dataset(targets, references, dataset, spec, device=device, roles=roles, advance=advance)
                case = case_of(scores, policy.confidence)
        if keep is not None:
            write_scores(keep, scores)
            case = case.model_copy(update={"files": {**case.files, "scores": file_digest(keep)}})
        finish(case, scores.summary.model_dump(mode="json"), dataset.read)


def _load(path: Path, reading: Reading, size: int | None, device: str) -> "Encoder":
    from sslmem.encoders.load import load_checkpoint, probe  # noqa: PLC0415
    from sslmem.encoders.sanity import look_over  # noqa: PLC0415

    if path.is_dir():
        raise SpecError(
            f"the verdict is about a file, by its digest; found the folder {path}: make a zip archive of it"
        )
    encoder = load_checkpoint(
        path,
        architecture=reading.architecture,
        input_size=size,
        mean=reading.mean,
        std=reading.std,
        method=reading.method,
        representation=reading.representation,
        branch=reading.branch,
        options=reading.options,
        device=device,
    )
    probe(encoder)
    look_over(encoder)
    announce(path, encoder)
    return encoder


def _digests(files: Files) -> dict[str, str]:
    found: dict[str, str] = {}
    for part, paths in (("target", files.targets), ("reference", files.references)):
        for i, path in enumerate(paths):
            name = f"{part}:{path.name}"
            found[f"{name}#{i + 1}" if name in found else name] = file_digest(path)
    if not files.data.is_dir():
        found["dataset"] = file_digest(files.data)
    found["roles"] = file_digest(files.roles)
    return found


def _used(files: Files, encoders: "Sequence[Encoder]") -> list[EncoderUsed]:
    parts = [("target", path) for path in files.targets] + [("reference", path) for path in files.references]
    return [
        EncoderUsed.model_validate(
            {
                "part": part,
                "file": file_digest(path),
                "architecture": encoder.report.architecture,
                "branch": encoder.report.branch,
                "options": encoder.report.options,
                "input_size": encoder.input_size,
                "mean": encoder.mean,
                "std": encoder.std,
                "suspicions": encoder.report.suspicions,
            }
        )
        for (part, path), encoder in zip(parts, encoders, strict=True)
    ]
