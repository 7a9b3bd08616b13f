"""The four split roles of SSLMem and the CSV table that assigns them (Wang et al. 2024, section 3)."""

import csv
import hashlib
import io
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Literal, get_args

from sslmem.errors import RolesError

Role = Literal["shared", "candidate", "independent", "external"]
ROLES: tuple[Role, ...] = get_args(Role)

ROLE_MEANING: dict[Role, str] = {
    "shared": "trained on by target and reference",
    "candidate": "trained on by the target only",
    "independent": "trained on by the reference only",
    "external": "trained on by neither: the null",
}


def read_roles(text: str) -> dict[str, Role]:
    """Reads a CSV table with the columns ``sample`` and ``role``.

    Args:
        text: the table; ``sample`` is the image's path within the dataset, with forward slashes.

    Returns:
        The role by path, in the order of the table.

    Raises:
        RolesError: it is no CSV, a column is missing, a role is unknown, a sample has two roles, or it is empty.
    """
    try:
        return _read_roles(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline="")))
    except csv.Error as error:
        raise RolesError(f"the table of roles is not readable as CSV: {error}") from error


def _read_roles(reader: "csv.DictReader[str]") -> dict[str, Role]:
    columns = [name.strip() for name in reader.fieldnames or []]
    if columns.count("sample") != 1 or columns.count("role") != 1:
        raise RolesError(f"expected a CSV with the columns sample,role; found the columns {columns}")
    reader.fieldnames = columns
    roles: dict[str, Role] = {}
    for row in reader:
        sample, role = (row["sample"] or "").strip(), (row["role"] or "").strip()
        if role not in ROLES:
            raise RolesError(f"line {reader.line_num}: role is one of {', '.join(ROLES)}; found {role!r}")
        if not sample:
            raise RolesError(f"line {reader.line_num}: the sample is empty; expected the image's path")
        path = str(PurePosixPath(sample))
        if roles.setdefault(path, role) != role:
            raise RolesError(f"line {reader.line_num}: {path} is both {roles[path]} and {role}")
    if not roles:
        raise RolesError("the table of roles holds no rows; expected one row per sample")
    return roles


def match_roles(roles: dict[str, Role], samples: set[str]) -> None:
    """Checks that every sample named by the roles is in the dataset.

    Raises:
        RolesError: some are not; the message names the first few.
    """
    unknown = [path for path in roles if path not in samples]
    if unknown:
        shown, example = ", ".join(unknown[:3]), next(iter(sorted(samples)), "")
        raise RolesError(
            f"{len(unknown)} of {len(roles)} samples with a role are not in the dataset, first {shown}; "
            f"expected paths within it, such as {example}"
        )


def roles_digest(roles: Mapping[str, Role]) -> str:
    """``sha256:`` and the hexadecimal digest of a table of roles, whatever the order of its lines."""
    lines = "\n".join(f"{path}\t{role}" for path, role in sorted(roles.items()))
    return "sha256:" + hashlib.sha256(lines.encode()).hexdigest()
