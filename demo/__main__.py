"""``python -m demo``: trains a small pair of encoders on real images, audits them, and shows what was memorized."""

import argparse
import signal
import sys
from pathlib import Path
from typing import Any

from demo.digits import Digit, read_digits, roles_csv, split_roles, write_archive
from demo.service import running_service
from demo.train import INPUT_SIZE, MEAN, RECIPE, STD, train
from service.embedded.process import ServiceStartError
from sslmem.cli.audits import follow_audit
from sslmem.cli.connection import home, upload_progress
from sslmem.cli.tables import print_summary
from sslmem.client.http import Client
from sslmem.errors import SslmemError
from sslmem.roles import Role

# Digits are so alike that few images and many epochs are needed before an encoder remembers them one by one.
COUNTS: dict[Role, int] = {"shared": 20, "candidate": 60, "independent": 60}
EPOCHS = 160
SEED = 0
EXIT_FAILED = 2


def train_pair(digits: list[Digit], roles: dict[str, Role], folder: Path, *, epochs: int, null: bool) -> list[Path]:
    """Returns the checkpoints of target and reference.

    With ``null`` the target is trained on the independent images instead of the candidates, like the reference,
    from another seed: it cannot have memorized candidates, and the audit must say so.
    """
    trained_on: set[Role] = {"shared", "independent" if null else "candidate"}
    return [
        train("target", digits, roles, trained_on, epochs=epochs, seed=1, folder=folder),
        train("reference", digits, roles, {"shared", "independent"}, epochs=epochs, seed=2, folder=folder),
    ]


def audit(client: Client, checkpoints: list[Path], archive: Path, roles: dict[str, Role]) -> dict[str, Any]:
    """Uploads everything, requests the audit, follows it to its end and returns it."""
    encoders = []
    for path in checkpoints:
        with upload_progress() as progress:
            task = progress.add_task(f"uploading {path.name}", total=path.stat().st_size)
            encoder = client.push_encoder(
                path,
                input_size=INPUT_SIZE,
                mean=(MEAN,) * 3,
                std=(STD,) * 3,
                advance=lambda count, p=progress, t=task: p.advance(t, count),  # type: ignore[misc]
            )
        print(f"{encoder['name']}: {encoder['architecture']}, checked by a worker, {encoder['weights_digest']}")
        encoders.append(encoder["id"])
    dataset = client.push_dataset(archive)
    print(f"{dataset['name']}: {dataset['num_samples']} images")
    role_set = client.push_roles(dataset["id"], roles_csv(roles))
    requested = client.request_audit(
        force=True,  # a real audit each time, though the same one may be there
        name="demo",
        target_ids=encoders[:1],
        reference_ids=encoders[1:],
        dataset_id=dataset["id"],
        role_set_id=role_set["id"],
        spec={"recipe": RECIPE.as_list()},
    )
    print(f"audit {requested['id']} requested\n")
    return {**requested, "summary": follow_audit(client, requested["id"])}


def run(arguments: argparse.Namespace) -> None:
    """Runs the demo from data to report."""
    folder = home() / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    digits = read_digits()[: arguments.images]
    roles = split_roles(digits, COUNTS, SEED)
    archive = folder / "digits.zip"
    write_archive(digits, archive)
    checkpoints = train_pair(digits, roles, folder, epochs=arguments.epochs, null=arguments.null)
    with running_service() as client:
        result = audit(client, checkpoints, archive, roles)
        report = folder / "report.html"
        client.download(result["links"]["report"], report)
    print_summary(result["summary"])
    print(f"\nreport: {report}")
    print(f"The audit is kept: make run, then {Path(sys.executable).parent}/sslmem audits show {result['id']}")


def interrupt(*_: object) -> None:
    """Signal handler."""
    raise KeyboardInterrupt


def main() -> None:
    """Parses the arguments; what is in the way is one line and status 2."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of the training of each encoder")
    parser.add_argument("--images", type=int, default=None, help="how many of the digits to use; all 1797")
    parser.add_argument("--null", action="store_true", help="audit a target that was never shown the candidates")
    arguments = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):  # like Ctrl-C: the service that was started is stopped
        signal.signal(number, interrupt)
    try:
        run(arguments)
    except (SslmemError, ServiceStartError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        sys.exit(EXIT_FAILED)


if __name__ == "__main__":
    main()
