"""One service, from its first boot through everything that may be killed under it."""

import csv
import os
import signal
import socket
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from tests.e2e.conftest import House
from tests.support.auditing import AUDIT_SECONDS, Uploaded, ended, in_the_middle, scored_samples
from tests.support.materials import EncoderFile, Material
from tests.support.processes import ROOT, Service, command, environment, gone
from tests.support.waiting import eventually


def test_first_boot_says_where_it_is_and_shows_a_token(house: House) -> None:
    house.running()
    service = house.services[0]
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
    below = process.children(recursive=True)
    process.send_signal(signal.SIGKILL)
    eventually(lambda: all(map(gone, [process, *below])))
    audit = ended(service, audit_id)
    assert (audit["state"], audit["failure"]) == ("succeeded", None)
    assert scored_samples(service, audit_id) == sorted(many_images.paths)
    if victim != "child":
        eventually(lambda: service.pid(victim) != process.pid)
        assert f"{victim} ended (signal SIGKILL); starting it again" in "\n".join(service.lines)


def test_second_service_in_one_folder_is_refused(service: Service) -> None:
    run = subprocess.run(
        command("up"), cwd=ROOT, env=environment(service.home), capture_output=True, text=True, check=False, timeout=60
    )
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == (
        f"sslmem: the service is already running in {service.home}, at {service.url} (process {service.process.pid})\n"
    )


def attempts_of(service: Service, audit_id: str) -> list[int]:
    """How often each chunk of an audit was claimed, as the database of the service has it."""
    (option,) = [word for word in service.program("postgres").cmdline() if word.startswith("port=")]
    password = (service.home / "postgres" / "password").read_text()
    with psycopg.connect(f"postgresql://sslmem:{password}@127.0.0.1:{option.removeprefix('port=')}/sslmem") as database:
        found = database.execute("SELECT attempts FROM chunks WHERE audit_id = %s", (audit_id,)).fetchall()
    return [attempts for (attempts,) in found]


def test_rolling_restart_of_every_program_goes_unnoticed(
    service: Service, uploaded: Uploaded, many_images: Material
) -> None:
    audit_id = in_the_middle(service, uploaded)
    states, numbers = list[str](), list[int]()

    def follow() -> None:
        with service.client() as client:
            states.extend(audit["state"] for audit in client.follow(audit_id))

    def listen() -> None:
        with service.client() as client:
            numbers.extend(event["number"] for event in client.events(audit_id) if "number" in event)

    with ThreadPoolExecutor(2) as pool:
        watchers = [pool.submit(follow), pool.submit(listen)]
        for name in ("worker", "api", "sweeper"):
            process = service.program(name)
            process.terminate()
            eventually(lambda name=name, pid=process.pid: service.pid(name) != pid)  # type: ignore[misc]
        for watcher in watchers:
            watcher.result(AUDIT_SECONDS)
    assert states[-1] == "succeeded"
    assert set(states) <= {"running", "finalising", "succeeded"}
    assert numbers == list(range(1, len(numbers) + 1)), "no event is missing, and none came twice"
    assert attempts_of(service, audit_id) == [1] * 6
    assert scored_samples(service, audit_id) == sorted(many_images.paths)


def test_sigterm_stops_everything_in_order_and_loses_nothing(
    house: House, uploaded: Uploaded, many_images: Material
) -> None:
    service = house.running()
    audit_id = in_the_middle(service, uploaded)
    before, below = service.logs(), service.below()
    assert len(below) >= 6
    assert service.stop(signal.SIGTERM) == 0
    assert [process for process in below if not gone(process)] == []
    assert not (service.home / "service.json").exists()
    for name in ("api", "sweeper", "worker"):  # whoever needs a server was stopped before it
        assert "OperationalError" not in service.logs()[name].removeprefix(before[name]), name
    again = house.running()
    assert not any("token" in line for line in again.lines)
    assert ended(again, audit_id)["state"] == "succeeded"
    assert scored_samples(again, audit_id) == sorted(many_images.paths)
    assert attempts_of(again, audit_id) == [1] * 6, "the running chunk was handed back, not lost"


def test_killed_service_leaves_nothing_running_and_starts_again_on_its_data(
    house: House, uploaded: Uploaded, many_images: Material
) -> None:
    service = house.running()
    audit_id = in_the_middle(service, uploaded)
    below = service.below()
    service.process.kill()
    service.process.wait()
    again = house.running()  # at once, while the others are still ending
    eventually(lambda: all(map(gone, below)))
    assert ended(again, audit_id)["state"] == "succeeded"
    assert scored_samples(again, audit_id) == sorted(many_images.paths)


def test_nothing_was_logged_as_a_mistake_of_our_own(service: Service, uploaded: Uploaded) -> None:
    """What the deaths above left in the logs are lost connections."""
    assert uploaded.num_samples == 96
    for name, log in service.logs().items():
        for mistake in ("TypeError", "AttributeError", "IntegrityError", "DataError", "ProgrammingError", "KeyError"):
            assert mistake not in log, name


def test_second_interrupt_hurries(service: Service) -> None:
    """A client is in the middle of an upload, for which the first interrupt would wait."""
    incoming = service.home / "artifacts" / "incoming"
    head = f"PUT /v1/encoders HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {service.token}\r\nContent-Length: 9\r\n\r\n"
    before, below = service.logs()["api"], service.below()
    with socket.create_connection(("127.0.0.1", service.port)) as upload:
        upload.sendall(head.encode() + b"half")
        eventually(lambda: incoming.is_dir() and any(incoming.iterdir()))
        service.process.send_signal(signal.SIGINT)
        eventually(lambda: "Shutting down" in service.logs()["api"].removeprefix(before))
        assert service.stop(signal.SIGINT) == 0
    assert [process for process in below if not gone(process)] == []
    assert "Application shutdown complete" not in service.logs()["api"].removeprefix(before)
