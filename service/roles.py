"""Tables of roles: registered once for a dataset, used by any number of audits."""

import uuid
from collections import Counter

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session

from models.dataset import Dataset, DatasetSample, RoleSet
from service import intake
from service.errors import RoleSetNotFound
from sslmem.roles import match_roles, read_roles, roles_digest


def register_roles(session: Session, dataset_id: uuid.UUID, text: str, name: str) -> tuple[RoleSet, bool]:
    """Registers a CSV table of roles.

    Returns:
        The table, or the one with the same roles that was registered before; and whether it is new.

    Raises:
        DatasetNotFound: there is no such dataset.
        NotReady: the dataset was not checked yet, or was refused.
        RolesError: the table is not usable, or names samples that the dataset does not have.
    """
    dataset = intake.hold(session, Dataset, dataset_id)
    intake.require_ready(dataset)
    roles = read_roles(text)
    samples = select(DatasetSample.path, DatasetSample.sample_key).where(DatasetSample.dataset_id == dataset_id)
    keys = dict(session.execute(samples).all())
    match_roles(roles, set(keys))
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
    return session.get_one(RoleSet, role_set_id), True


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
