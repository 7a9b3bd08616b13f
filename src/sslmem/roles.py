"""The four split roles of SSLMem and the tables that assign them (Wang et al. 2024, section 3)."""

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Literal, Protocol, cast, get_args

from sslmem.errors import RolesError

Role = Literal["shared", "candidate", "independent", "external"]
ROLES: tuple[Role, ...] = get_args(Role)

PARQUET = b"PAR1"
RANGE = re.compile(r"(?:(.+)/)?(\d{1,18})-(\d{1,18})", re.ASCII)
NUMBERED = re.compile(r"(?:.+/)?\d{5,}", re.ASCII)

Line = tuple[int, Any, Any]  # number, sample and role

ROLE_MEANING: dict[Role, str] = {
    "shared": "trained on by target and reference",
    "candidate": "trained on by the target only",
    "independent": "trained on by the reference only",
    "external": "trained on by neither: the null",
}


class Named(Protocol):
    """What names and numbers of samples are looked up in: a dataset."""

    @property
    def samples(self) -> Sequence[Any]:
        """The samples, each with its ``path``, in the order of their paths."""

    def position(self, path: str) -> int | None:
        """Where a sample stands in that order; None if there is none."""

    def below(self, folder: str) -> range:
        """The positions of the samples in a folder or split."""


def read_roles(content: str | bytes) -> dict[str, Role]:
    """Reads a table with the columns ``sample`` and ``role``, as CSV, JSON lines or Parquet.

    Args:
        content: the table. ``sample`` is a path within the dataset, with forward slashes; a folder, such as
            ``shared/``; or a range of numbers, both ends included, such as ``train/0-39999``.

    Returns:
        The role by what the table names, in its order; :func:`match_roles` makes samples of it.

    Raises:
        RolesError: it is no such table, a column is missing, a role is unknown, a sample has two roles, or it is empty.
    """
    if isinstance(content, bytes):
        if content.startswith(PARQUET):
            return _collect(_parquet_lines(content))
        try:
            content = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise RolesError(f"the table of roles is not readable as text in UTF-8: {error}") from error
    content = content.removeprefix("\ufeff")
    if content.lstrip()[:1] == "{":
        return _collect(_json_lines(content))
    try:
        return _collect(_csv_lines(csv.DictReader(io.StringIO(content, newline=""))))
    except csv.Error as error:
        raise RolesError(f"the table of roles is not readable as CSV: {error}") from error


def _csv_lines(reader: "csv.DictReader[str]") -> Iterator[Line]:
    columns = [name.strip() for name in reader.fieldnames or []]
    if columns.count("sample") != 1 or columns.count("role") != 1:
        raise RolesError(f"expected a CSV with the columns sample,role; found the columns {columns}")
    reader.fieldnames = columns
    for row in reader:
        yield reader.line_num, row["sample"], row["role"]


def _json_lines(text: str) -> Iterator[Line]:
    for number, line in enumerate(io.StringIO(text), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RolesError(f"line {number} is no JSON: {error}") from error
        if not isinstance(row, dict) or "sample" not in row or "role" not in row:
            raise RolesError(f'line {number}: expected an object such as {{"sample": "a.png", "role": "shared"}}')
        yield number, row["sample"], row["role"]


def _parquet_lines(content: bytes) -> Iterator[Line]:
    import pyarrow as pa  # noqa: PLC0415  the client does without
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        with pq.ParquetFile(pa.BufferReader(content)) as file:
            columns = file.schema_arrow.names
            if columns.count("sample") != 1 or columns.count("role") != 1:
                raise RolesError(f"expected a table with the columns sample and role; found the columns {columns}")
            number = 0
            for batch in file.iter_batches(columns=["sample", "role"]):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row["sample"], row["role"]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise RolesError(f"the table of roles is not readable as Parquet: {error}") from error


def _collect(lines: Iterable[Line]) -> dict[str, Role]:
    roles: dict[str, Role] = {}
    for number, *row in lines:
        sample, role = (value.strip() if isinstance(value, str) else value or "" for value in row)
        if role not in ROLES:
            raise RolesError(f"line {number}: role is one of {', '.join(ROLES)}; found {role!r}")
        if not sample or not isinstance(sample, str):
            raise RolesError(f"line {number}: the sample is empty; expected the image's path")
        path = str(PurePosixPath(sample)) + ("/" if sample.endswith("/") else "")
        if roles.setdefault(path, cast("Role", role)) != role:
            raise RolesError(f"line {number}: {path} is both {roles[path]} and {role}")
    if not roles:
        raise RolesError("the table of roles holds no rows; expected one row per sample")
    return roles


def names_samples_only(roles: Iterable[str]) -> bool:
    """Whether a table names samples one by one, without folders and ranges."""
    return not any(name.endswith("/") or RANGE.fullmatch(name) for name in roles)


def match_roles(roles: Mapping[str, Role], dataset: Named) -> dict[str, Role]:
    """Gives every sample that a table names its role.

    Returns:
        The role by path, in the order of the table.

    Raises:
        RolesError: a sample, folder or range is not in the dataset, or a sample has two roles.
    """
    found: dict[str, Role] = {}
    unknown = []
    for name, role in roles.items():
        if dataset.position(name) is not None:
            paths: Iterable[str] = [name]
        else:
            places = _places(name, dataset)
            if not places:
                unknown.append(name)
            paths = (dataset.samples[place].path for place in places)
        for path in paths:
            if found.setdefault(path, role) != role:
                raise RolesError(f"{path} is both {found[path]} and {role}; expected one role for each sample")
    if unknown:
        shown, example = ", ".join(unknown[:3]), dataset.samples[0].path if dataset.samples else ""
        raise RolesError(
            f"{len(unknown)} of {len(roles)} samples with a role are not in the dataset, first {shown}; "
            f"expected paths within it, such as {example}"
        )
    return found


def _places(name: str, dataset: Named) -> range:
    """The positions of the samples of a folder or range; none if it is neither."""
    if name.endswith("/"):
        return dataset.below(name[:-1])
    match = RANGE.fullmatch(name)
    if match is None:
        return range(0)
    folder, first, last = match[1], int(match[2]), int(match[3])
    if folder is None and _has_splits(dataset):
        raise RolesError(f"the dataset has several splits; expected a range of one of them, such as train/{name}")
    within = range(len(dataset.samples)) if folder is None else dataset.below(folder)
    if not within:
        return within
    if not first <= last < len(within):
        raise RolesError(f"the range {name} goes beyond its {len(within)} samples, which count from 0")
    return within[first : last + 1]


def _has_splits(dataset: Named) -> bool:
    """Whether samples are numbered anew in each of several splits."""
    first, last = dataset.samples[0].path, dataset.samples[-1].path
    return bool(NUMBERED.fullmatch(first)) and first.rpartition("/")[0] != last.rpartition("/")[0]


def roles_digest(roles: Mapping[str, Role]) -> str:
    """``sha256:`` and the hexadecimal digest of a table of roles, whatever the order of its lines."""
    lines = "\n".join(f"{path}\t{role}" for path, role in sorted(roles.items()))
    return "sha256:" + hashlib.sha256(lines.encode()).hexdigest()
