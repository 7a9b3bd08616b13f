"""Tables of roles."""

import csv
import io
import json
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sslmem.datasets.protocol import SampleEntry
from sslmem.errors import RolesError
from sslmem.roles import ROLE_MEANING, ROLES, match_roles, names_samples_only, read_roles


class Listed:
    """Samples by name, in order."""

    def __init__(self, paths: Iterable[str]) -> None:
        self.samples = [SampleEntry(path) for path in sorted(paths)]
        self._paths = [sample.path for sample in self.samples]

    def position(self, path: str) -> int | None:
        return self._paths.index(path) if path in self._paths else None

    def below(self, folder: str) -> range:
        found = [i for i, path in enumerate(self._paths) if path.startswith(f"{folder}/")]
        return range(found[0], found[-1] + 1) if found else range(0)


def refusal(text: str) -> str:
    with pytest.raises(RolesError) as caught:
        read_roles(text)
    assert caught.value.code == "roles-invalid"
    assert "\n" not in caught.value.detail
    return caught.value.detail


def test_reads_roles_in_the_order_of_the_table() -> None:
    roles = read_roles("sample,role\nb.png,shared\na.png,candidate\nd/c.png,independent\nx.png,external\n")
    assert list(roles.items()) == [
        ("b.png", "shared"),
        ("a.png", "candidate"),
        ("d/c.png", "independent"),
        ("x.png", "external"),
    ]


def test_every_role_has_a_meaning() -> None:
    assert tuple(ROLE_MEANING) == ROLES


def test_columns_may_come_in_any_order_with_others_between() -> None:
    assert read_roles(" role ,label, sample \nshared,7, a.png \n") == {"a.png": "shared"}


def test_byte_order_mark_is_no_part_of_the_first_column() -> None:
    assert read_roles("\ufeffsample,role\na.png,shared\n") == {"a.png": "shared"}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_may_end_in_any_way(end: str) -> None:
    assert read_roles(end.join(["sample,role", "a.png,shared", "", "b.png,external"])) == {
        "a.png": "shared",
        "b.png": "external",
    }


def test_quoted_path_may_hold_a_comma() -> None:
    assert read_roles('sample,role\n"a,b.png",shared\n') == {"a,b.png": "shared"}


def test_different_spellings_of_a_path_are_one_sample() -> None:
    assert read_roles("sample,role\n./d//a.png,shared\nd/a.png,shared\n") == {"d/a.png": "shared"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expected a CSV with the columns sample,role; found the columns []"),
        ("\n\n", "expected a CSV with the columns sample,role; found the columns []"),
        ("sample\na.png\n", "expected a CSV with the columns sample,role; found the columns ['sample']"),
        ("path,role\na.png,shared\n", "found the columns ['path', 'role']"),
        ("sample;role\na.png;shared\n", "found the columns ['sample;role']"),
        ("sample,role\n", "the table of roles holds no rows"),
        ("sample,role\na.png,member\n", "role is one of shared, candidate, independent, external; found 'member'"),
        ("sample,role\na.png,Shared\n", "line 2: role is one of"),
        ("sample,role\na.png\n", "line 2: role is one of"),
        ("sample,role\n\na.png,shared\nb.png,\n", "line 4: role is one of"),
        ("sample,role\n ,shared\n", "line 2: the sample is empty; expected the image's path"),
        ("sample,role\na.png,shared\na.png,external\n", "line 3: a.png is both shared and external"),
        ("sample,role\na.png,shared\n./a.png,external\n", "line 3: a.png is both shared and external"),
        (f"sample,role\n{'a' * 200_000},shared\n", "the table of roles is not readable as CSV: field larger"),
    ],
)  # fmt: skip
def test_table_that_is_not_usable_is_refused_with_the_reason(text: str, reason: str) -> None:
    assert reason in refusal(text)


@given(
    st.dictionaries(
        st.from_regex(r"[a-z ,\"é]{0,6}[a-z]\.png", fullmatch=True).map(str.strip),
        st.sampled_from(ROLES),
        min_size=1,
        max_size=8,
    )
)
def test_what_the_csv_module_writes_reads_back(roles: dict[str, str]) -> None:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["sample", "role"])
    writer.writerows(roles.items())
    assert read_roles(text.getvalue()) == roles


@given(st.text(max_size=60).map(lambda text: "sample,role\n" + text))
def test_any_text_is_a_table_or_a_roles_error(text: str) -> None:
    try:
        roles = read_roles(text)
    except RolesError:
        return
    assert roles
    assert set(roles.values()) <= set(ROLES)


def test_samples_that_the_dataset_lacks_are_refused_by_name() -> None:
    roles = read_roles("sample,role\n" + "".join(f"{i}.jpg,shared\n" for i in range(5)))
    with pytest.raises(RolesError) as caught:
        match_roles(roles, Listed(["0.jpg", "train/1.jpg"]))
    assert caught.value.detail == (
        "4 of 5 samples with a role are not in the dataset, first 1.jpg, 2.jpg, 3.jpg; "
        "expected paths within it, such as 0.jpg"
    )


def test_dataset_may_hold_samples_without_a_role() -> None:
    assert match_roles({"a.png": "shared"}, Listed(["a.png", "b.png"])) == {"a.png": "shared"}


def test_rejects_a_column_that_is_there_twice() -> None:
    with pytest.raises(RolesError, match="found the columns"):
        read_roles("sample,role,role\na.png,shared,external\n")


# Other tables


def test_json_lines_are_read() -> None:
    lines = [json.dumps({"sample": "a.png", "role": "shared"}), "", '{"role": "external", "sample": "ä.png", "x": [1]}']
    assert read_roles("\n".join(lines).encode()) == {"a.png": "shared", "ä.png": "external"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"sample": "a.png"', "line 1 is no JSON"),
        ('{"sample": "a.png", "role": "shared"}\n[]', "line 2: expected an object such as"),
        ('{"sample": "a.png"}', "line 1: expected an object such as"),
        ('{"sample": 7, "role": "shared"}', "line 1: the sample is empty"),
        ('{"sample": "a.png", "role": ["shared"]}', "line 1: role is one of"),
        ('{"a":' * 100_000, "is no JSON"),
    ],
)
def test_json_lines_that_are_not_usable_are_refused(text: str, reason: str) -> None:
    assert reason in refusal(text)


def parquet(columns: dict[str, list[object]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def test_parquet_is_read() -> None:
    table = parquet({"role": ["shared", "external"], "sample": ["a.png", "b.png"], "more": [1, 2]})
    assert read_roles(table) == {"a.png": "shared", "b.png": "external"}


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (parquet({"role": ["shared"]}), "expected a table with the columns sample and role"),
        (parquet({"role": ["shared"], "sample": [None]}), "line 1: the sample is empty"),
        (parquet({"role": ["shared"], "sample": [1]}), "line 1: the sample is empty"),
        (parquet({"role": ["shared"], "sample": ["a"]})[:-20], "is not readable as Parquet"),
        (b"PAR1", "is not readable as Parquet"),
    ],
)
def test_parquet_that_is_not_usable_is_refused(table: bytes, reason: str) -> None:
    with pytest.raises(RolesError) as caught:
        read_roles(table)
    assert reason in caught.value.detail


# Folders and ranges


NUMBERS = Listed([f"{split}/{i:05}" for split in ("test", "train") for i in range(20)])
FILES = Listed(["candidate/a.png", "candidate/x/b.png", "candidate-2/c.png", "shared/d.png"])


def test_folder_stands_for_its_samples() -> None:
    found = match_roles(read_roles("sample,role\ncandidate/,candidate\nshared/d.png,shared\n"), FILES)
    assert found == {"candidate/a.png": "candidate", "candidate/x/b.png": "candidate", "shared/d.png": "shared"}


def test_range_stands_for_samples_by_their_numbers_both_ends_included() -> None:
    found = match_roles(read_roles("sample,role\ntrain/0-2,shared\ntrain/3-3,candidate\ntest/,external\n"), NUMBERS)
    assert list(found.items())[:4] == [
        ("train/00000", "shared"),
        ("train/00001", "shared"),
        ("train/00002", "shared"),
        ("train/00003", "candidate"),
    ]
    assert list(found.values()).count("external") == 20


def test_range_without_a_folder_counts_all_samples_in_the_order_of_their_paths() -> None:
    assert match_roles({"1-2": "shared"}, FILES) == {"candidate/a.png": "shared", "candidate/x/b.png": "shared"}


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("train/0-4,shared\ntrain/4-6,candidate\n", "train/00004 is both shared and candidate"),
        ("train/,shared\ntrain/00004,candidate\n", "train/00004 is both shared and candidate"),
        ("train/15-20,shared\n", "goes beyond its 20 samples"),
        ("train/5-4,shared\n", "goes beyond its 20 samples"),
        ("0-4,shared\n", "expected a range of one of them, such as train/0-4"),
        ("val/0-4,shared\n", "1 of 1 samples with a role are not in the dataset, first val/0-4"),
        ("val/,shared\n", "are not in the dataset, first val/"),
        ("train,shared\n", "are not in the dataset, first train"),
    ],
)
def test_folders_and_ranges_that_do_not_fit_are_refused(table: str, reason: str) -> None:
    with pytest.raises(RolesError) as caught:
        match_roles(read_roles("sample,role\n" + table), NUMBERS)
    assert reason in caught.value.detail


def test_sample_that_is_called_like_a_range_is_itself() -> None:
    assert match_roles({"0-1": "shared"}, Listed(["0-1", "a.png"])) == {"0-1": "shared"}


def test_tables_of_samples_alone_are_told_from_others() -> None:
    assert names_samples_only(["a.png", "x/00001"])
    assert not names_samples_only(["a.png", "x/"])
    assert not names_samples_only(["x/0-7"])
