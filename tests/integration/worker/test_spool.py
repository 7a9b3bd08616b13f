"""Samples on their way from a worker to the database."""

from service.intake import CheckedSample
from worker.spool import SampleSpool


def test_samples_come_back_as_they_were_and_as_often_as_they_are_asked_for() -> None:
    samples = [
        CheckedSample("ä\n\ud800.png", "sha256:a", "l\t\0", None, bytes(range(16))),
        CheckedSample("b.png", "sha256:b", None, "image-undecodable: no image", None),
    ]
    with SampleSpool() as spool:
        for sample in samples:
            spool.append(sample)
        assert list(spool) == samples
        assert list(spool) == samples
