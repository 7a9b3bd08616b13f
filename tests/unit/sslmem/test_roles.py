"""The CSV table of roles."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sslmem.errors import RolesError
from sslmem.roles import ROLE_MEANING, ROLES, match_roles, read_roles


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
        match_roles(roles, {"0.jpg", "train/1.jpg"})
    assert caught.value.detail == (
        "4 of 5 samples with a role are not in the dataset, first 1.jpg, 2.jpg, 3.jpg; "
        "expected paths within it, such as 0.jpg"
    )


def test_dataset_may_hold_samples_without_a_role() -> None:
    match_roles({"a.png": "shared"}, {"a.png", "b.png"})


def test_rejects_a_column_that_is_there_twice() -> None:
    with pytest.raises(RolesError, match="found the columns"):
        read_roles("sample,role,role\na.png,shared,external\n")
