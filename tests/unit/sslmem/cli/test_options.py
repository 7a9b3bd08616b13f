"""Parsers that several commands share."""

from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from sslmem.cli.main import spread
from sslmem.cli.options import automatic, load_recipe, three_numbers
from sslmem.errors import RecipeError
from sslmem.recipe import RECIPES, Recipe


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("0.5", (0.5, 0.5, 0.5)), ("0.1,0.2,0.3", (0.1, 0.2, 0.3)), (" 1, -2 ,3e-1", (1.0, -2.0, 0.3))],
)
def test_three_numbers_or_one_for_all(text: str, numbers: tuple[float, float, float]) -> None:
    assert three_numbers(text) == numbers


@pytest.mark.parametrize("text", ["", "1,2", "1,2,3,4", "a,b,c", "1,,3", "nan", "1,2,inf"])
def test_what_is_not_three_numbers_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="expected"):
        three_numbers(text)


def test_positive_number_or_the_machines_choice() -> None:
    assert automatic("auto") is None
    assert automatic("12") == 12


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "", "many", "AUTO"])
def test_what_is_neither_a_positive_number_nor_auto_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="expected a positive number or auto"):
        automatic(text)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipe_is_loaded_by_name(name: str) -> None:
    assert load_recipe(name) == Recipe.named(name)


def test_recipe_is_loaded_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("- invert: {p: 0.25}\n")
    assert load_recipe(str(tmp_path / "r.yaml")).as_list() == [{"invert": {"p": 0.25}}]


def test_recipe_goes_by_name_before_it_goes_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "simclr").write_text("- invert\n")
    monkeypatch.chdir(tmp_path)
    assert load_recipe("simclr") == Recipe.named("simclr")


def test_recipe_that_is_neither_is_refused_with_the_names(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="expected one of simclr, paper-weak"):
        load_recipe(str(tmp_path))


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ("score --target a b --data d", "score --target a --target b --data d"),
        ("score --target a --target b", "score --target a --target b"),
        ("score --reference a b c", "score --reference a --reference b --reference c"),
        ("score --target a b --reference c d", "score --target a --target b --reference c --reference d"),
        ("score --data a b", "score --data a b"),
        ("encoders push a --name b", "encoders push a --name b"),
        ("score --target a b --json", "score --target a --target b --json"),
        ("", ""),
    ],
)
def test_option_of_several_values_is_repeated_before_each(given_: str, expected: str) -> None:
    assert spread(given_.split()) == expected.split()


@given(st.lists(st.sampled_from(["--target", "--reference", "--data", "--json", "a", "b", "c"]), max_size=12))
def test_spreading_twice_changes_no_more(arguments: list[str]) -> None:
    once = spread(arguments)
    assert spread(once) == once
    assert [a for a in once if not a.startswith("--")] == [a for a in arguments if not a.startswith("--")]
