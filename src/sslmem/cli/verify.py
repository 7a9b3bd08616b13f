"""``sslmem verify``: whether a statement, a report, files and scores belong together, and who signed it."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sslmem.cli.gate import baseline_files
from sslmem.cli.options import stderr
from sslmem.cli.score import read_roles_file
from sslmem.errors import SpecError, StatementError
from sslmem.gate.decide import PASSED, VIOLATED, decide
from sslmem.gate.report import Report, read_report
from sslmem.gate.signature import open_statement
from sslmem.gate.statement import file_digest, read_statement, verify_statement
from sslmem.policy import load_policy
from sslmem.roles import Role, match_roles, names_samples_only, roles_digest

if TYPE_CHECKING:
    from sslmem.merge import StoredScores

NUM_RERUN = 10


def verify(
    statement: Annotated[Path, typer.Argument(help="That sslmem gate --statement wrote.")],
    report: Annotated[Path, typer.Option(help="That sslmem gate --json wrote with it.")],
    key: Annotated[list[Path] | None, typer.Option(help="Public keys in PEM; one must have signed it.")] = None,
    policy: Annotated[str | None, typer.Option(help="The policy that must have been applied, or default.")] = None,
    target: Annotated[list[Path] | None, typer.Option(help="Checkpoints that it must be about.")] = None,
    scores: Annotated[Path | None, typer.Option(help="That sslmem gate --scores wrote with it.")] = None,
    roles: Annotated[Path | None, typer.Option(help="The table of roles, which the scores must have.")] = None,
    reference: Annotated[list[Path] | None, typer.Option(help="To score again: the references.")] = None,
    data: Annotated[Path | None, typer.Option(help="To score again: the dataset.")] = None,
    sample: Annotated[list[str] | None, typer.Option(help="To score again; without it, some at random.")] = None,
    rerun: Annotated[int | None, typer.Option(min=1, help="How many samples to score again at random; 10.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda, to score again.")] = "auto",
    any_verdict: Annotated[bool, typer.Option("--any-verdict", help="Status 0 whatever the verdict is.")] = False,
) -> None:
    """Decides again from the report, and compares all that is given: 0 it holds and passed, 1 it does not."""
    text, kept = read_statement(statement), read_report(report)
    given = _Given(key, policy, target, scores, roles, reference, data, sample, rerun, device)
    again = given.scores_again()
    try:
        verify_statement(open_statement(text, key or ()), kept, target or ())
        said = _verify_policy(kept, policy)
        if scores is not None:
            said += _verify_scores(kept, scores, given, again=again)
    except StatementError as error:
        stderr.print(f"does not hold: {error.detail}", highlight=False, soft_wrap=True, markup=False)
        raise typer.Exit(VIOLATED) from error
    if left_out := given.left_out(again=again):
        stderr.print(f"not checked: {', '.join(left_out)}", highlight=False, soft_wrap=True, markup=False)
    passed = kept.decision.status == PASSED
    print("; ".join(["the statement holds", *(["signed by a key that was given"] if key else []), *said]))
    for line in _measured(kept):
        print(line)
    print(f"the verdict of {kept.day}: {kept.decision.headline}")
    if not passed and not any_verdict:
        raise typer.Exit(VIOLATED)


def _measured(report: Report) -> list[str]:
    """How encoders were read: what no digest of a file tells, and whoever verifies should look at."""
    return [
        f"{one.part} {one.file[:19]}...: {one.architecture}, {one.input_size} px, mean {one.mean}, std {one.std}"
        for one in report.case.encoders
    ]


@dataclass(frozen=True)
class _Given:
    """What there is to compare with."""

    keys: Sequence[Path] | None
    policy: str | None
    targets: Sequence[Path] | None
    scores: Path | None
    roles: Path | None
    references: Sequence[Path] | None
    data: Path | None
    samples: Sequence[str] | None
    number: int | None
    device: str

    def scores_again(self) -> bool:
        """Whether anything is to be scored again.

        Raises:
            SpecError: something is missing for what is asked for.
        """
        if self.roles and not self.scores:
            raise SpecError("roles are compared with those of the scores; expected --scores as well")
        if self.samples and self.number:
            raise SpecError("--sample names what to score again, --rerun how many at random; expected one of them")
        if not (self.references or self.data or self.samples or self.number):
            return False
        if not (self.targets and self.references and self.data and self.scores and self.roles):
            raise SpecError("to score again, expected --target, --reference, --data, --roles and --scores")
        return True

    def left_out(self, *, again: bool) -> list[str]:
        """What a full verification has besides."""
        return [
            what
            for what, there in (
                ("who signed it (--key)", self.keys),
                ("whose policy it is (--policy)", self.policy),
                ("the target's file (--target)", self.targets),
                ("whether the evidence follows from the scores (--scores)", self.scores),
                ("whether the scores have the right roles (--roles)", self.roles),
                ("whether scores come out again (--target, --reference, --data)", again),
            )
            if not there
        ]


def _verify_policy(report: Report, name: str | None) -> list[str]:
    today = datetime.now(UTC).date()
    if report.day > today:
        raise StatementError(f"the report is of {report.day}, which is yet to come")
    if report.decision.status == PASSED:
        now = decide(report.case, report.policy.content, today, report.baselines)
        if now.status != PASSED:  # a waiver has expired
            raise StatementError(f"it passed on {report.day}; today the verdict is: {now.headline}")
    if name is None:
        return []
    policy = load_policy(name)
    if (policy.digest, policy.policy) != (report.policy.digest, report.policy.content):
        raise StatementError(f"another policy was applied than {name}, whose digest is {policy.digest}")
    said = ["by this policy"]
    files = baseline_files(policy)
    for baseline, case in sorted(report.baselines.items()):
        if baseline not in files:
            stderr.print(
                f"not checked: the baseline {baseline}, an audit of a service", highlight=False, soft_wrap=True
            )
        elif read_report(files[baseline]).case != case:
            raise StatementError(f"the baseline {baseline} is not the one at {files[baseline]}")
        else:
            said.append(f"against {baseline}")
    return said


def _verify_scores(report: Report, path: Path, given: _Given, *, again: bool) -> list[str]:
    from sslmem.merge import read_scores  # noqa: PLC0415  numpy and torch take seconds to load
    from sslmem.rerun import check_evidence, check_samples  # noqa: PLC0415

    _same_digest(report, "scores", path)
    stored = read_scores(path)
    said = [f"its evidence follows from {len(stored.rows)} scores"]
    roles: dict[str, Role] = {}
    if given.roles is not None:
        roles = _roles_of(given.roles, given.data)
        if roles_digest(roles) != report.case.files.get("roles"):  # a service's; a gate's own is of the file
            _same_digest(report, "roles", given.roles)
        check_samples(report, stored, roles)
        said.append("its scores have the roles' samples")
    if again and given.data is not None:
        return [*said, _score_again(report, given, stored, roles, given.data)]
    check_evidence(report, stored)
    return said


def _roles_of(path: Path, data: Path | None) -> dict[str, Role]:
    """The role of each sample; tables that name folders or ranges say it together with the dataset."""
    roles = read_roles_file(path)
    if data is None and not names_samples_only(roles):
        raise SpecError("the table of roles names folders or ranges of samples; expected --data as well")
    if data is None:
        return roles
    from sslmem.datasets.source import open_dataset  # noqa: PLC0415

    with open_dataset(data) as dataset:
        return match_roles(roles, dataset)


def _score_again(report: Report, given: _Given, stored: "StoredScores", roles: Mapping[str, Role], data: Path) -> str:
    from sslmem.datasets.source import open_dataset  # noqa: PLC0415
    from sslmem.rerun import check_evidence, decide_again, load_used, quality_of, rerun  # noqa: PLC0415
    from sslmem.scoring import pick_device  # noqa: PLC0415

    case = report.case
    if not data.is_dir() and "dataset" in case.files:  # of a folder there is none; images have theirs
        _same_digest(report, "dataset", data)
    device, tensor = pick_device(given.device), stored.summary.spec.representation
    targets = load_used(case, "target", given.targets or (), device, tensor)
    references = load_used(case, "reference", given.references or (), device, tensor)
    names = [row.sample for row in stored.rows]
    number = min(given.number or NUM_RERUN, len(names))
    chosen = list(dict.fromkeys(given.samples or random.SystemRandom().sample(names, number)))
    with open_dataset(data) as dataset:
        quality = quality_of(stored, roles, targets, references, dataset, device=device)
        check_evidence(report, stored, roles=roles, quality=quality, dataset=dataset)
        results, rows = rerun(stored, chosen, targets, references, dataset, device=device)
    for one in results:
        was, now = ("no score" if value is None else f"{value:+.6f}" for value in (one.was, one.now))
        mark = "agrees" if one.agrees else "DIFFERS"
        stderr.print(f"{one.sample}: {was}, now {now}: {mark}", highlight=False, soft_wrap=True, markup=False)
    if differing := [one.sample for one in results if not one.agrees]:
        raise StatementError(f"{len(differing)} of {len(results)} scores do not come out again, such as {differing[0]}")
    if len(results) < len(names):
        return f"{len(results)} of them came out again"
    decide_again(report, stored, rows)
    return "all of them came out again, and so does the verdict"


def _same_digest(report: Report, what: str, path: Path) -> None:
    if (digest := file_digest(path)) != report.case.files.get(what):
        raise StatementError(f"the statement is not about the {what} {path}, whose digest is {digest}")
