"""Scores computed on this machine, as the gate's case."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslmem.cli.options import part_progress
from sslmem.cli.score import announce, make_spec, read_roles_file
from sslmem.gate.case import Case, EncoderUsed, make_case
from sslmem.gate.statement import file_digest
from sslmem.policy import Policy
from sslmem.roles import match_roles

if TYPE_CHECKING:
    from sslmem.encoders.encoder import Encoder


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
    method: str | None
    representation: str
    input_size: int | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    device: str


Finish = Callable[[Case, dict[str, Any], Callable[[str], bytes]], None]


def score_case(
    files: Files, reading: Reading, fields: dict[str, Any], policy: Policy, finish: Finish, keep: Path | None = None
) -> None:
    """Scores, gathers evidence, and hands case, summary and a reader of images on while the dataset is open.

    The scores are written to ``keep``, if it is given.

    Raises:
        SslmemError: an encoder, the dataset, the roles or the spec cannot be used.
    """
    size = reading.input_size or fields["recipe"].size
    make_spec(**fields, input_size=size or 224)  # says what is wrong before minutes are spent
    roles = read_roles_file(files.roles)

    from sslmem.datasets.source import open_dataset  # noqa: PLC0415  numpy, and below torch, take seconds to load
    from sslmem.encoders.load import load_checkpoint, probe  # noqa: PLC0415
    from sslmem.local import score_dataset, write_scores  # noqa: PLC0415
    from sslmem.report.evidence import gather_evidence  # noqa: PLC0415
    from sslmem.report.quality import measure_quality  # noqa: PLC0415
    from sslmem.samples import read_samples  # noqa: PLC0415
    from sslmem.scoring import pick_device  # noqa: PLC0415

    device = pick_device(reading.device)

    def load(path: Path) -> "Encoder":
        encoder = load_checkpoint(
            path,
            architecture=reading.architecture,
            input_size=size,
            mean=reading.mean,
            std=reading.std,
            method=reading.method,
            representation=reading.representation,
            device=str(device),
        )
        announce(path, encoder)
        probe(encoder)
        return encoder

    with open_dataset(files.data) as dataset:
        match_roles(roles, {sample.path for sample in dataset.samples})
        targets = [load(path) for path in files.targets]
        references = [load(path) for path in files.references]
        fields["representation"] = targets[0].report.representation
        spec = make_spec(**fields, input_size=targets[0].input_size)
        with part_progress() as progress:
            task = progress.add_task("scoring", total=1.0)
            scores = score_dataset(
                targets,
                references,
                dataset,
                spec,
                device=device,
                roles=roles,
                advance=lambda part: progress.update(task, completed=part),
            )
        null = [name for name, role in roles.items() if role == "external"]
        evidence = gather_evidence(
            scores.rows,
            scores.summary,
            confidence=policy.confidence,
            fdr=policy.fdr,
            quality=measure_quality(targets, references, read_samples(dataset, null), spec, device=device),
            read_image=dataset.read,
        )
        summary = scores.summary.model_dump(mode="json")
        digests, used = _digests(files), _used(files, (*targets, *references))
        if keep is not None:
            write_scores(keep, scores)
            digests["scores"] = file_digest(keep)
        case = make_case(json.loads(evidence.model_dump_json()), summary, files=digests, encoders=used)
        finish(case, summary, dataset.read)


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
                "input_size": encoder.input_size,
                "mean": encoder.mean,
                "std": encoder.std,
            }
        )
        for (part, path), encoder in zip(parts, encoders, strict=True)
    ]
