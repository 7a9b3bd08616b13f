"""Goes through a dataset once: which samples there are, which cannot be scored and why, and how each looks."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sslmem.datasets.protocol import Dataset
from sslmem.report.twins import Hashes, RoleTwins, compare_roles, perceptual_hash
from sslmem.roles import Role
from sslmem.samples import DECODE_THREADS, Sample, decode, read_samples, work_ahead

LOOKAHEAD = 4 * DECODE_THREADS


@dataclass(frozen=True)
class SkippedSample:
    """A sample that has no score, and why."""

    sample: str
    reason: str


@dataclass(frozen=True)
class ScannedSample:
    """A sample that was read and decoded.

    Attributes:
        name: its path in the dataset.
        key: the digest of its encoded bytes.
        label: its class, where there is one.
        looks: its perceptual hash ``[2]``; None if it cannot be decoded.
        skipped: itself with the reason why it cannot be scored, if so.
    """

    name: str
    key: str
    label: str | None
    looks: Hashes | None
    skipped: SkippedSample | None


def _look(sample: Sample) -> tuple[Sample, Hashes | None, SkippedSample | None]:
    decoded = decode(sample)
    skipped = None if decoded.skipped is None else SkippedSample(sample.name, decoded.skipped)
    return sample, None if decoded.image is None else perceptual_hash(decoded.image), skipped


def scan(dataset: Dataset) -> Iterator[ScannedSample]:
    """Reads and decodes all samples, in the order of their names; nothing is kept."""
    names = (entry.path for entry in dataset.samples)
    looked = work_ahead(_look, read_samples(dataset, names), LOOKAHEAD)
    for entry, (sample, looks, skipped) in zip(dataset.samples, looked, strict=True):
        yield ScannedSample(sample.name, sample.key, entry.label, looks, skipped)


def twins_across_roles(dataset: Dataset, roles: Mapping[str, Role]) -> list[RoleTwins]:
    """Exact and near duplicates across the roles of a dataset's samples. It keeps some 100 bytes of each sample."""
    names = list(roles)
    keys, looks = list[str](), list[Hashes | None]()
    for sample, looked, _ in work_ahead(_look, read_samples(dataset, names), LOOKAHEAD):
        # What cannot be read has no content to compare.
        keys.append(sample.key if sample.problem is None else f"{sample.name} cannot be read")
        looks.append(looked)
    return compare_roles(names, list(roles.values()), keys, looks)
