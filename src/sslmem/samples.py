"""Samples on their way to the encoders: read, decoded ahead in threads, or skipped with their reason."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from sslmem.datasets.image import decode_image, sample_key
from sslmem.datasets.source import Dataset
from sslmem.errors import UndecodableImage
from sslmem.views.make import Image

Result = TypeVar("Result")

DECODE_THREADS = min(8, os.cpu_count() or 1)
CONSTANT = "image-constant: all its pixels have one colour, so its views are alike under any encoder"


@dataclass(frozen=True)
class Sample:
    """An image to score.

    Attributes:
        name: its path within the dataset.
        key: its sample key, which determines its views.
        data: its encoded bytes.
        problem: why it cannot be read, if so.
    """

    name: str
    key: str
    data: bytes
    problem: str | None = None


@dataclass(frozen=True)
class DecodedSample:
    """A sample with its pixels, or with the reason why it has no score."""

    name: str
    key: str
    image: Image | None
    skipped: str | None


def read_samples(dataset: Dataset, names: Iterable[str]) -> Iterator[Sample]:
    """Reads samples one after the other; an unreadable one carries its reason."""
    for name in names:
        try:
            data = dataset.read(name)
        except UndecodableImage as error:
            yield Sample(name, sample_key(b""), b"", str(error))
        else:
            yield Sample(name, sample_key(data), data)


def decode(sample: Sample) -> DecodedSample:
    """Decodes a sample once; a damaged or constant image is skipped with its reason."""
    try:
        if sample.problem is not None:
            raise UndecodableImage(sample.problem)
        image = decode_image(sample.data)
    except UndecodableImage as error:
        return DecodedSample(sample.name, sample.key, None, f"{UndecodableImage.code}: {error}")
    if bool((image == image[:1, :1]).all()):
        return DecodedSample(sample.name, sample.key, None, CONSTANT)
    return DecodedSample(sample.name, sample.key, image, None)


def decode_ahead(samples: Iterable[Sample], lookahead: int) -> Iterator[DecodedSample]:
    """Decodes samples in threads, at most so many before they are asked for, in their order."""
    return work_ahead(decode, samples, lookahead)


def work_ahead(work: Callable[[Sample], Result], samples: Iterable[Sample], lookahead: int) -> Iterator[Result]:
    """Works on samples in threads, at most so many before they are asked for, in their order."""
    remaining = iter(samples)
    with ThreadPoolExecutor(DECODE_THREADS) as pool:
        waiting: deque[Future[Result]] = deque(pool.submit(work, s) for s in islice(remaining, lookahead))
        while waiting:
            done = waiting.popleft().result()
            waiting.extend(pool.submit(work, sample) for sample in islice(remaining, 1))
            yield done
