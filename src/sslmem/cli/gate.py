"""``sslmem gate``: a policy and an audit, here or on a server, become an exit status."""

import os
import shlex
import sys
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.console import Console

from sslmem.cli import gate_local, gate_remote
from sslmem.cli.connection import connect
from sslmem.cli.gate_outputs import Images, Outputs
from sslmem.cli.options import load_recipe, normalisation, parse_options, stderr
from sslmem.client.http import Client
from sslmem.errors import EvidenceError, PolicyError, SpecError
from sslmem.formats.console import print_report
from sslmem.gate.case import Case
from sslmem.gate.decide import NOT_EVALUATED, PASSED, Decision, decide
from sslmem.gate.report import make_report, read_report
from sslmem.policy import PolicyFile, load_policy
from sslmem.spec import Distance, Pairing

LOG_WIDTH = 140


def gate(
    policy: Annotated[str, typer.Option(help="YAML file of the policy, or default.")],
    target: Annotated[list[str] | None, typer.Option(help="Checkpoints; with a server ids or sha256:DIGEST.")] = None,
    reference: Annotated[list[str] | None, typer.Option(help="Trained alike without the candidates.")] = None,
    data: Annotated[Path | None, typer.Option(help="A folder or zip archive of images, without a server.")] = None,
    roles: Annotated[str | None, typer.Option(help="CSV sample,role; with a server the table's id.")] = None,
    server: Annotated[str | None, typer.Option(help="URL of the service; with --audit SSLMEM_URL will do.")] = None,
    token: Annotated[str | None, typer.Option(envvar="SSLMEM_TOKEN", help="API token of the service.")] = None,
    audit: Annotated[UUID | None, typer.Option(help="Id of an audit of the service that was requested.")] = None,
    dataset: Annotated[UUID | None, typer.Option(help="Id of the dataset, with a server.")] = None,
    timeout: Annotated[float | None, typer.Option(min=0, help="Seconds to wait; cancels nothing.")] = None,
    architecture: Annotated[str | None, typer.Option(help="Name in torchvision or timm; ResNets are inferred.")] = None,
    branch: Annotated[str | None, typer.Option(help="Which of several encoders in a file: teacher, ema, ...")] = None,
    option: Annotated[list[str] | None, typer.Option(help="What weights do not show, such as num_heads=6.")] = None,
    method: Annotated[str | None, typer.Option(help="How they were trained: simclr, dino, mae, ...")] = None,
    representation: Annotated[str, typer.Option(help="pooled, cls, mean, tokens, head, layer:NAME, or auto.")] = "auto",
    input_size: Annotated[int | None, typer.Option(min=1, help="Side of the views in pixels.")] = None,
    mean: Annotated[str | None, typer.Option(help="Normalisation of pixels in 0..1; the file's or ImageNet's.")] = None,
    std: Annotated[str | None, typer.Option(help="Normalisation of pixels in 0..1; likewise.")] = None,
    views: Annotated[int, typer.Option(help="Augmented views of each sample.")] = 10,
    pairing: Annotated[Pairing, typer.Option(help="views or original.")] = "views",
    stratify: Annotated[int | None, typer.Option(help="2, 4, 8 or 16 views in an even group; none.")] = None,
    distance: Annotated[Distance, typer.Option(help="Between representations.")] = "l2",
    recipe: Annotated[str, typer.Option(help="Name or YAML file of the augmentations.")] = "simclr",
    seed: Annotated[int, typer.Option(help="Of the views.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda, without a server.")] = "auto",
    sequential: Annotated[bool, typer.Option("--sequential", help="Stop once the verdict is certain.")] = False,
    markdown: Annotated[Path | None, typer.Option(help="Write the job summary that GITHUB_STEP_SUMMARY gets.")] = None,
    json: Annotated[Path | None, typer.Option("--json", help="Write the report, for baselines and verify.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML, a case per rule.")] = None,
    sarif: Annotated[Path | None, typer.Option(help="Write SARIF 2.1.0.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page for review; needs the extra score.")] = None,
    scores: Annotated[Path | None, typer.Option(help="Write the scores as Parquet, for verify.")] = None,
    statement: Annotated[Path | None, typer.Option(help="Write an in-toto statement.")] = None,
    sign: Annotated[Path | None, typer.Option(help="Private key in PEM that signs the statement.")] = None,
    soft_fail: Annotated[bool, typer.Option("--soft-fail", help="Status 0 for 1 and 3, too, and say so.")] = False,
) -> None:  # fmt: skip
    """Decides whether a target may be released: status 0 passed, 1 violated, 2 not evaluated, 3 inconclusive."""
    outputs = Outputs(markdown, json, junit, sarif, html, scores, statement, sign)
    spec: dict[str, Any] = {"views": views, "pairing": pairing, "distance": distance, "seed": seed}
    spec["stratify"] = stratify
    inputs = [Path(name) for name in (*(target or ()), *(reference or ()), data, roles, sign, policy) if name]
    try:
        outputs.check(inputs)
    except Exception as error:
        outputs.summarize_error(error)  # and nothing else: a file that was named may be an input
        raise
    # Until the policy is read, the report that is written over may be its baseline.
    outputs = outputs.sparing({"json": json} if json else {})
    try:
        rules = load_policy(policy)
        outputs = outputs.sparing(baseline_files(rules))
        run = _Run(policy, rules, outputs)
        if server is None and audit is None and dataset is None:
            files = _Files(target, reference, data, roles).complete()
            run.baselines(None)  # what is missing is better known before minutes are spent
            means, stds = normalisation(mean, std)
            reading = gate_local.Reading(
                architecture=architecture,
                branch=branch,
                options=parse_options(option),
                method=method,
                representation=representation,
                input_size=input_size,
                mean=means,
                std=stds,
                device=device,
            )
            spec |= {"recipe": load_recipe(recipe)}
            gate_local.score_case(
                files,
                reading,
                spec,
                rules.policy,
                decide=run.decide,
                finish=run.finish,
                keep=scores,
                sequential=sequential,
            )
        else:
            if sequential:
                raise SpecError("--sequential is for scoring on this machine; a service scores every sample")
            spec |= {"recipe": load_recipe(recipe).as_list(), "representation": representation}
            named = _Named(target, reference, data, dataset, roles, audit)
            with connect(server or os.environ.get("SSLMEM_URL"), token) as client:
                run.remotely(client, named.audit_id(client, spec), timeout)
    except (KeyboardInterrupt, EOFError, BrokenPipeError, SystemExit) as error:
        # typer and rich end these with 1, which would say that a rule is violated.
        outputs.write_not_evaluated(error)
        raise typer.Exit(NOT_EVALUATED) from error
    except Exception as error:
        outputs.write_not_evaluated(error)
        raise
    raise typer.Exit(run.exit_status(soft_fail=soft_fail))


@dataclass
class _Run:
    """One gate, from what was found to a status; without a decision there is no status 0."""

    policy: str
    rules: PolicyFile
    outputs: Outputs
    today: date = field(default_factory=lambda: datetime.now(UTC).date())
    status: int | None = None
    _baselines: dict[str, Case] | None = None

    def baselines(self, client: Client | None) -> dict[str, Case]:
        """The cases that rules compare with, read once."""
        if self._baselines is None:
            self._baselines = _baselines(self.rules, client)
        return self._baselines

    def decide(self, case: Case) -> Decision:
        """Decides on a case that there is no report of yet."""
        return decide(case, self.rules.policy, self.today, self.baselines(None))

    def finish(self, case: Case, summary: dict[str, Any], images: Images = None, client: Client | None = None) -> None:
        report = make_report(case, self.rules, self.today, self.baselines(client))
        self.outputs.write(report, summary, images)
        # A CI log has no width of its own.
        print_report(report, Console(highlight=False, width=None if sys.stdout.isatty() else LOG_WIDTH))
        self.status = report.decision.status

    def remotely(self, client: Client, audit_id: str, timeout: float | None) -> None:
        again = f"sslmem gate --policy {shlex.quote(self.policy)} --server {client.url} --audit {audit_id}"
        audit = gate_remote.wait_for(client, audit_id, timeout=timeout, again=again)
        case, summary = gate_remote.fetch_case(client, audit, self.rules.policy, self.outputs.scores)
        self.finish(case, summary, None, client)

    def exit_status(self, *, soft_fail: bool) -> int:
        if self.status is None:
            raise EvidenceError("the gate came to no decision")
        if soft_fail and self.status != PASSED:
            stderr.print(f"--soft-fail: the status would be {self.status}, and is 0", highlight=False, style="yellow")
            return PASSED
        return self.status


@dataclass(frozen=True)
class _Files:
    """What a local gate was given."""

    target: list[str] | None
    reference: list[str] | None
    data: Path | None
    roles: str | None

    def complete(self) -> gate_local.Files:
        if not (self.target and self.reference and self.data and self.roles):
            raise typer.BadParameter(
                "expected --target, --reference, --data and --roles; or with --server either --audit, "
                "or --target, --reference, --dataset and --roles"
            )
        targets, references = ([Path(name) for name in names] for names in (self.target, self.reference))
        return gate_local.Files(targets, references, self.data, Path(self.roles))


@dataclass(frozen=True)
class _Named:
    """What a gate through a server was given."""

    target: list[str] | None
    reference: list[str] | None
    data: Path | None
    dataset: UUID | None
    roles: str | None
    audit: UUID | None

    def audit_id(self, client: Client, spec: dict[str, Any]) -> str:
        """The id of the audit that was named, or is requested now."""
        if self.data is not None:
            raise typer.BadParameter("--data is read on this machine; with a server expected the id of a --dataset")
        if self.audit is not None:
            if self.target or self.reference or self.dataset or self.roles:
                raise typer.BadParameter("--audit names all that was audited; expected nothing else of it")
            return str(self.audit)
        if not (self.target and self.reference and self.dataset and self.roles):
            raise typer.BadParameter(
                "with a server expected --audit, or --target, --reference, --dataset and --roles, the last two as ids"
            )
        try:
            roles = UUID(self.roles)
        except ValueError as error:
            raise typer.BadParameter(f"with a server --roles is the id of a table; found {self.roles!r}") from error
        wanted = gate_remote.Wanted(self.target, self.reference, self.dataset, roles, spec)
        return gate_remote.request(client, wanted)


def baseline_files(rules: PolicyFile) -> dict[str, Path]:
    """The reports that rules name as baselines: from here, or else from the policy's folder."""
    found = {}
    for name in {rule.baseline for rule in rules.policy.rules if rule.baseline is not None}:
        try:
            UUID(name)
        except ValueError:
            found[name] = Path(name) if Path(name).is_file() else Path(rules.name).parent / name
    return found


def _baselines(rules: PolicyFile, client: Client | None) -> dict[str, Case]:
    """Earlier cases, from reports or from the service.

    Raises:
        EvidenceError: a report is not readable or was changed.
        PolicyError: an audit's id is named, and there is no service to ask.
    """
    found = {}
    files = baseline_files(rules)
    for name in sorted({rule.baseline for rule in rules.policy.rules if rule.baseline is not None}):
        if name in files:
            found[name] = read_report(files[name]).case
            continue
        audit_id = UUID(name)
        if client is None:
            raise PolicyError(f"the baseline {name} is an audit of a service; expected --server, or a report's path")
        audit = client.get(f"/v1/audits/{audit_id}")
        if audit["state"] != "succeeded":
            raise EvidenceError(f"the baseline {name} is {audit['state']}; expected an audit that succeeded")
        found[name] = gate_remote.fetch_case(client, audit, rules.policy)[0]
    return found
