"""Stopping the service, and starting it again on the same data."""

import signal
import threading

from sslmem.errors import SslmemError
from tests.e2e.conftest import Start
from tests.support.auditing import ended, in_the_middle, scored_samples, upload
from tests.support.materials import EncoderFile, Material
from tests.support.processes import gone
from tests.support.waiting import eventually


def test_sigterm_and_sigint_stop_everything_in_order_and_lose_nothing(
    start: Start, many_images: Material, target_file: EncoderFile, reference_file: EncoderFile
) -> None:
    """A lease longer than the test: a chunk that were not handed back would never be scored."""
    service = start(SSLMEM_LEASE_SECONDS="3600")
    with service.client() as client:
        uploaded = upload(client, many_images, target_file, reference_file)
    audit_id = in_the_middle(service, uploaded)
    below = service.below()
    assert len(below) >= 6
    assert service.stop(signal.SIGTERM) == 0
    assert [process for process in below if not gone(process)] == []
    assert not (service.home / "service.json").exists()
    assert not (service.home / "processes.json").exists()
    # Whoever needs a server was stopped before it.
    for name in ("api", "sweeper", "worker"):
        assert "OperationalError" not in service.logs()[name], name
    again = start(SSLMEM_LEASE_SECONDS="3600")
    assert len(again.lines) == 2, "no second token"
    assert again.token == service.token
    assert ended(again, audit_id)["state"] == "succeeded"
    assert scored_samples(again, audit_id) == sorted(many_images.paths)
    below = again.below()
    assert again.stop(signal.SIGINT) == 0
    assert [process for process in below if not gone(process)] == []


def test_killed_service_leaves_nothing_running_and_starts_again_on_its_data(
    start: Start, many_images: Material, target_file: EncoderFile, reference_file: EncoderFile
) -> None:
    service = start()
    with service.client() as client:
        uploaded = upload(client, many_images, target_file, reference_file)
    audit_id = in_the_middle(service, uploaded)
    below = service.below()
    service.process.kill()
    again = start()  # at once, while the others are still ending
    eventually(lambda: all(map(gone, below)))
    assert ended(again, audit_id)["state"] == "succeeded"
    assert scored_samples(again, audit_id) == sorted(many_images.paths)

    def poll() -> None:
        try:
            with again.client() as client:
                client.get(f"/v1/encoders/{uploaded.body['target_ids'][0]}", wait=0)
                client.get(f"/v1/audits/{slow_id}", wait=60)
        except SslmemError:
            pass  # the service went away, as it should

    slow_id = in_the_middle(again, uploaded)
    threads = [threading.Thread(target=poll) for _ in range(3)]
    for thread in threads:
        thread.start()
    below = again.below()
    assert again.stop(signal.SIGINT, signal.SIGINT, seconds=20) in (0, -signal.SIGINT)
    for thread in threads:
        thread.join()
    assert [process for process in below if not gone(process)] == []
