"""Tables of roles."""

import uuid

import pytest
from sqlalchemy import func, select

from models.dataset import Dataset, RoleEntry, RoleSet
from service import roles
from service.context import Context
from service.errors import DatasetNotFound, NotReady, RoleSetNotFound
from sslmem.errors import RolesError
from tests.support import rows


@pytest.fixture
def dataset(context: Context) -> Dataset:
    with context.sessions.begin() as session:
        return rows.add_dataset(session, ["a.png", "b.png", "c,\"d'\\.png"])


def register(context: Context, dataset: Dataset, text: str) -> tuple[RoleSet, bool]:
    with context.sessions.begin() as session:
        return roles.register_roles(session, dataset.id, text, "roles")


def test_entries_are_in_the_order_of_paths_whatever_the_order_of_the_table(context: Context, dataset: Dataset) -> None:
    table = 'sample,role\n"c,""d\'\\.png",external\nb.png,shared\na.png,candidate\n'
    role_set, new = register(context, dataset, table)
    with context.sessions.begin() as session:
        entries = session.execute(
            select(RoleEntry.position, RoleEntry.path, RoleEntry.role).order_by(RoleEntry.position)
        ).all()
    assert new
    assert entries == [(0, "a.png", "candidate"), (1, "b.png", "shared"), (2, "c,\"d'\\.png", "external")]
    assert (role_set.num_samples, role_set.counts) == (3, {"candidate": 1, "external": 1, "shared": 1})


def test_folders_and_ranges_stand_for_samples(context: Context) -> None:
    with context.sessions.begin() as session:
        numbers = rows.add_dataset(session, [f"{s}/{i:05}" for s in ("test", "train") for i in range(9)], "numbers")
    by_range, _ = register(context, numbers, "sample,role\ntest/,external\ntrain/0-3,shared\ntrain/4-8,candidate\n")
    assert by_range.counts == {"external": 9, "shared": 4, "candidate": 5}
    lines = "\n".join(f'{{"sample": "train/{i:05}", "role": "{"shared" if i < 4 else "candidate"}"}}' for i in range(9))
    by_name, new = register(context, numbers, lines + '\n{"sample": "test/0-8", "role": "external"}')
    assert (by_name.id, new) == (by_range.id, False)


def test_same_roles_in_another_order_are_the_same_table(context: Context, dataset: Dataset) -> None:
    first, _ = register(context, dataset, "sample,role\na.png,candidate\nb.png,external\n")
    second, new = register(context, dataset, "role,sample\nexternal,b.png\ncandidate,a.png\n")
    assert (second.id, new) == (first.id, False)
    with context.sessions.begin() as session:
        assert session.scalars(select(func.count()).select_from(RoleEntry)).one() == 2


def test_other_roles_are_another_table(context: Context, dataset: Dataset) -> None:
    first, _ = register(context, dataset, "sample,role\na.png,candidate\n")
    second, new = register(context, dataset, "sample,role\na.png,external\n")
    assert new
    assert first.id != second.id
    with context.sessions.begin() as session:
        assert [row.id for row in roles.list_roles(session, dataset.id)] == [second.id, first.id]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("", "the columns sample,role"),
        ("a.png,candidate\n", "the columns sample,role"),
        ("sample,role\n", "holds no rows"),
        ("sample,role\na.png,member\n", "line 2: role is one of"),
        ("sample,role\n,shared\n", "line 2: the sample is empty"),
        ("sample,role\nnowhere.png,shared\n", "1 of 1 samples with a role are not in the dataset, first nowhere.png"),
        ("sample,role\na\0.png,shared\n", "not in the dataset"),
        ("sample,role\na.png,sha\0red\n", "role is one of"),
        ("sample,role\na.png,shared\na.png,external\n", "a.png is both shared and external"),
    ],
)
def test_unusable_table_is_refused_with_its_fault(context: Context, dataset: Dataset, table: str, words: str) -> None:
    with pytest.raises(RolesError, match=words):
        register(context, dataset, table)
    with context.sessions.begin() as session:
        assert roles.list_roles(session, dataset.id) == []


def test_dataset_that_is_not_ready_takes_no_roles(context: Context) -> None:
    with context.sessions.begin() as session:
        dataset = rows.add_dataset(session, ["a.png"], state="checking")
    with pytest.raises(NotReady):
        register(context, dataset, "sample,role\na.png,shared\n")


def test_roles_belong_to_their_dataset(context: Context, dataset: Dataset) -> None:
    role_set, _ = register(context, dataset, "sample,role\na.png,shared\n")
    with context.sessions.begin() as session:
        assert roles.get_roles(session, dataset.id, role_set.id).id == role_set.id
        with pytest.raises(RoleSetNotFound):
            roles.get_roles(session, uuid.uuid4(), role_set.id)


def test_unknown_dataset_has_no_roles(context: Context) -> None:
    with context.sessions.begin() as session, pytest.raises(DatasetNotFound):
        roles.list_roles(session, uuid.uuid4())
