"""One service, from its first boot through everything that may be killed under it."""

import csv
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.auditing import Uploaded, ended, in_the_middle, scored_samples, upload
from tests.support.materials import EncoderFile, Material
from tests.support.processes import ROOT, Service, command, environment, gone
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("service") / "home")
    yield service
    service.ensure_stopped()


@pytest.fixture(scope="module")
def uploaded(
    service: Service, many_images: Material, target_file: EncoderFile, reference_file: EncoderFile
) -> Uploaded:
    with service.client() as client:
        return upload(client, many_images, target_file, reference_file)


def test_first_boot_says_where_it_is_and_shows_a_token(service: Service) -> None:
    assert service.lines[0].startswith(f"sslmem is running at {service.url}  ")
    assert f"{service.url}/docs" in service.lines[0]
    assert service.lines[1].startswith(f"API token, shown this once: {service.token}  ")
    assert service.lines[2] == "Ctrl-C stops it."


def test_secrets_are_readable_by_their_owner_only(service: Service) -> None:
    for name in ("token", "postgres/password", "redis/password", "redis/redis.conf"):
        assert stat.S_IMODE((service.home / name).stat().st_mode) == 0o600, name


def sslmem(service: Service, *arguments: object) -> str:
    """Runs the command as people do; it finds the service by its folder."""
    program = Path(sys.executable).parent / "sslmem"
    run = subprocess.run(
        [program, *map(str, arguments)],
        env={**os.environ, "SSLMEM_HOME": str(service.home), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_audit_by_the_command_line_and_a_real_worker(
    service: Service, material: Material, target_file: EncoderFile, reference_file: EncoderFile, tmp_path: Path
) -> None:
    table = tmp_path / "roles.csv"
    table.write_text(material.roles)
    how = ("--architecture", target_file.architecture, "--input-size", 16)
    target = sslmem(service, "encoders", "push", target_file.path, *how).strip()
    reference = sslmem(service, "encoders", "push", reference_file.path, *how).strip()
    dataset = sslmem(service, "datasets", "push", material.archive).strip()
    roles = sslmem(service, "datasets", "roles", dataset, table).strip()
    audit, _, summary = sslmem(
        service, "audits", "request", "--target", target, "--reference", reference, "--dataset", dataset, "--roles",
        roles, "--views", 4, "--follow"
    ).partition("\n")  # fmt: skip
    assert "score spec sha256:" in summary
    sslmem(service, "audits", "scores", audit, "--out", tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open(newline="") as file:
        assert [row["sample"] for row in csv.DictReader(file)] == sorted(material.paths)
    with service.client() as client:
        (worker,) = client.get("/v1/workers")["items"]
    assert worker["alive"]


@pytest.mark.parametrize("victim", ["child", "worker", "sweeper", "api", "redis", "postgres"])
def test_audit_survives_the_sudden_death_of(
    service: Service, uploaded: Uploaded, many_images: Material, victim: str
) -> None:
    audit_id = in_the_middle(service, uploaded)
    process = service.program("worker").children()[0] if victim == "child" else service.program(victim)
    process.send_signal(signal.SIGKILL)
    eventually(lambda: gone(process))
    audit = ended(service, audit_id)
    assert (audit["state"], audit["failure"]) == ("succeeded", None)
    assert scored_samples(service, audit_id) == sorted(many_images.paths)
    if victim != "child":
        revived = eventually(lambda: service.program(victim))
        assert revived.pid != process.pid
        assert f"{victim} ended (signal SIGKILL); starting it again" in "\n".join(service.lines)


def test_second_service_in_one_folder_is_refused(service: Service) -> None:
    run = subprocess.run(
        command("up"), cwd=ROOT, env=environment(service.home), capture_output=True, text=True, check=False, timeout=60
    )
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == (
        f"sslmem: the service is already running in {service.home}, at {service.url} (process {service.process.pid})\n"
    )


def test_nothing_was_logged_as_an_error_of_our_own(service: Service, uploaded: Uploaded) -> None:
    """What the deaths above left in the logs are lost connections, never mistakes."""
    assert uploaded.num_samples == 160
    for name, log in service.logs().items():
        for mistake in ("TypeError", "AttributeError", "IntegrityError", "DataError", "ProgrammingError", "KeyError"):
            assert mistake not in log, name
