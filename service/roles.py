"""Tables of roles: registered once for a dataset, used by any number of audits."""

import uuid
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, cast

import numpy as np
from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from models.dataset import Dataset, DatasetSample, RoleEntry, RoleSet
from service import intake
from service.errors import RoleSetNotFound
from sslmem.report.twins import Hashes, compare_roles
from sslmem.roles import Role, match_roles, read_roles, roles_digest

BATCH = 5_000


class SampleName(NamedTuple):
    """A sample of a dataset that was checked."""

    path: str


@dataclass(frozen=True)
class Listed:
    """The samples of a dataset in the order of their paths, to look tables of roles up in."""

    samples: Sequence[SampleName]

    def position(self, path: str) -> int | None:
        """Where a sample stands; None if there is none."""
        place = bisect_left(self.samples, (path,))
        return place if place < len(self.samples) and self.samples[place].path == path else None

    def below(self, folder: str) -> range:
        """The positions of the samples in a folder or split."""
        return range(*(bisect_left(self.samples, (f"{folder}{end}",)) for end in ("/", "0")))  # "0" follows "/"


def register_roles(session: Session, dataset_id: uuid.UUID, content: str | bytes, name: str) -> tuple[RoleSet, bool]:
    """Registers a table of roles: CSV, JSON lines or Parquet.

    Returns:
        The table, or the one with the same roles that was registered before; and whether it is new.

    Raises:
        DatasetNotFound: there is no such dataset.
        NotReady: the dataset was not checked yet, or was refused.
        RolesError: the table is not usable, or names samples that the dataset does not have.
    """
    dataset = intake.hold(session, Dataset, dataset_id)
    intake.require_ready(dataset)
    samples = select(DatasetSample.path, DatasetSample.sample_key).where(DatasetSample.dataset_id == dataset_id)
    keys = dict(session.execute(samples).all())
    roles = match_roles(read_roles(content), Listed([SampleName(path) for path in sorted(keys)]))
    entries = sorted(roles.items())
    digest = roles_digest(roles)
    statement = (
        postgresql.insert(RoleSet)
        .values(
            dataset_id=dataset_id,
            name=name,
            digest=digest,
            num_samples=len(entries),
            counts=dict(Counter(roles.values())),
        )
        .on_conflict_do_nothing()
        .returning(RoleSet.id)
    )
    role_set_id = session.scalar(statement)
    if role_set_id is None:
        same = select(RoleSet).where(RoleSet.dataset_id == dataset_id, RoleSet.digest == digest)
        return session.scalars(same).one(), False
    intake.copy_rows(
        session,
        "role_entries (role_set_id, position, path, sample_key, role)",
        ((role_set_id, position, path, keys[path], role) for position, (path, role) in enumerate(entries)),
    )
    role_set = session.get_one(RoleSet, role_set_id)
    role_set.twins = _twins(session, role_set)
    session.flush()
    return role_set, True


def _twins(session: Session, role_set: RoleSet) -> list[dict[str, Any]]:
    """Equal and alike images across the roles of a table."""
    here = (DatasetSample.dataset_id == role_set.dataset_id) & (DatasetSample.path == RoleEntry.path)
    statement = (
        select(RoleEntry.path, RoleEntry.role, RoleEntry.sample_key, DatasetSample.looks, DatasetSample.skipped)
        .join(DatasetSample, here)
        .where(RoleEntry.role_set_id == role_set.id)
        .order_by(RoleEntry.position)
        .execution_options(yield_per=BATCH)
    )
    paths, roles, keys, looks = list[str](), list[Role](), list[str](), list[Hashes | None]()
    for path, role, key, looked, skipped in session.execute(statement):
        paths.append(path)
        roles.append(cast("Role", role))
        # What cannot be read has no content to compare, and the key of nothing.
        keys.append(key if skipped is None else f"{path} is skipped")
        looks.append(None if looked is None else np.frombuffer(looked, dtype=np.uint64))
    found = compare_roles(paths, roles, keys, looks)
    return [{**asdict(pair), "examples": [list(names) for names in pair.examples]} for pair in found]


def get_roles(session: Session, dataset_id: uuid.UUID, role_set_id: uuid.UUID, *, hold: bool = False) -> RoleSet:
    """Returns a table of roles of a dataset; with ``hold`` it cannot be deleted until the transaction ends.

    Raises:
        RoleSetNotFound: there is none.
    """
    lock = {"read": True, "key_share": True} if hold else None
    role_set = session.get(RoleSet, role_set_id, with_for_update=lock)
    if role_set is None or role_set.dataset_id != dataset_id:
        raise RoleSetNotFound(f"the dataset {dataset_id} has no table of roles with the id {role_set_id}")
    return role_set


def remove_roles(session: Session, dataset_id: uuid.UUID, role_set_id: uuid.UUID) -> None:
    """Deletes a table of roles that no audit uses.

    Raises:
        InUse: an audit uses it.
        RoleSetNotFound: there is none.
    """
    session.get(RoleSet, role_set_id, with_for_update=True)  # waits for a request that is about to use it
    role_set = get_roles(session, dataset_id, role_set_id)
    intake.require_unused(session, RoleSet, role_set_id, f"the table of roles {role_set.name}")
    session.execute(delete(RoleSet).where(RoleSet.id == role_set_id))


def list_roles(session: Session, dataset_id: uuid.UUID) -> list[RoleSet]:
    """Returns the tables of roles of a dataset, newest first.

    Raises:
        DatasetNotFound: there is no such dataset.
    """
    intake.get(session, Dataset, dataset_id)
    statement = select(RoleSet).where(RoleSet.dataset_id == dataset_id).order_by(RoleSet.created_at.desc())
    return list(session.scalars(statement))
