"""What a worker found of many samples, on disk until it is recorded: memory does not grow with the dataset."""

import json
import tempfile
from collections.abc import Iterator
from typing import Self

from service.intake import CheckedSample


class SampleSpool:
    """Samples in a temporary file, which is gone when it is closed."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile("w+", encoding="utf-8", prefix="sslmem-")  # noqa: SIM115  closed by __exit__

    def append(self, sample: CheckedSample) -> None:
        """Adds a sample at the end."""
        looks = None if sample.looks is None else sample.looks.hex()
        self._file.write(json.dumps([*sample[:-1], looks]) + "\n")

    def __iter__(self) -> Iterator[CheckedSample]:
        """Goes through all samples from the first one on."""
        self._file.seek(0)
        for line in self._file:
            path, key, label, skipped, looks = json.loads(line)
            yield CheckedSample(path, key, label, skipped, None if looks is None else bytes.fromhex(looks))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()
