"""Where a worker says that it computes, and which queues it serves for that."""

import pytest

from worker import device
from worker.device import find_device


def test_worker_without_a_gpu_serves_the_default_queue_alone() -> None:
    assert (find_device("cpu").name, find_device("cpu").queues) == ("cpu", ("default",))


def test_worker_with_a_gpu_serves_both_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "ASK_TORCH", "print('A large one')")
    found = find_device("cuda:0")
    assert (found.name, tuple(found.queues)) == ("A large one", ("default", "gpu"))


def test_gpu_that_is_not_there_stops_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "ASK_TORCH", "print('cpu')")
    with pytest.raises(SystemExit, match="SSLMEM_DEVICE is cuda, and torch finds no GPU here; expected one"):
        find_device("cuda")
