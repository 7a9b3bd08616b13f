"""Parsers and helpers that several commands share."""

import math
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from sslmem.errors import RecipeError, RequestRefused, SpecError
from sslmem.recipe import RECIPES, Recipe

stderr = Console(stderr=True, markup=False)


def three_numbers(text: str) -> tuple[float, float, float]:
    """Parses ``0.5,0.5,0.5``; a single number stands for all three channels."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"expected three numbers such as 0.5,0.5,0.5; found {text!r}") from error
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) != 3:
        raise typer.BadParameter(f"expected three numbers such as 0.5,0.5,0.5; found {len(numbers)}")
    if not all(map(math.isfinite, numbers)):
        raise typer.BadParameter(f"expected finite numbers; found {text!r}")
    return numbers[0], numbers[1], numbers[2]


def normalisation(
    mean: str | None, std: str | None
) -> tuple[tuple[float, float, float] | None, tuple[float, float, float] | None]:
    """Parses both, where they were given.

    Raises:
        SpecError: a std is not above 0.
    """
    means, stds = (three_numbers(text) if text is not None else None for text in (mean, std))
    if stds is not None and min(stds) <= 0:
        raise SpecError(f"the normalisation divides by std; expected numbers above 0, found {std}")
    return means, stds


def parse_options(texts: list[str] | None) -> dict[str, int | float | bool | str]:
    """Parses ``num_heads=6``, ``max_pool=true`` and the like; the library knows which there are."""
    options: dict[str, int | float | bool | str] = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals or not name or name in options:
            raise typer.BadParameter(f"expected NAME=VALUE, each name once, such as num_heads=6; found {text!r}")
        options[name] = _value(value)
    return options


def _value(text: str) -> int | float | bool | str:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def automatic(text: str) -> int | None:
    """Parses a positive number or ``auto``."""
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) == 0:
        raise typer.BadParameter(f"expected a positive number or auto; found {text!r}")
    return int(text)


def load_recipe(name_or_file: str) -> Recipe:
    """Returns a recipe by name or from a YAML file.

    Raises:
        RecipeError: it is neither, or the file's content is no recipe.
    """
    if name_or_file in RECIPES:
        return Recipe.named(name_or_file)
    path = Path(name_or_file)
    if not path.is_file():
        raise RecipeError(f"expected one of {', '.join(RECIPES)} or a YAML file; there is no file {name_or_file!r}")
    try:
        return Recipe.from_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"the recipe {path} is not readable: {error}") from error


Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def confirm(what: str, *, yes: bool) -> None:
    """Asks whether to delete; without a terminal to ask at, ``--yes`` must have said so.

    Raises:
        RequestRefused: the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter(f"expected --yes to delete {what}, since there is no terminal to ask at")
    if not typer.confirm(f"Delete {what}? It cannot be brought back.", err=True):
        raise RequestRefused("nothing was deleted")


def samples_progress() -> Progress:
    """A bar that counts samples, on standard error if that is a terminal, gone when done."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=stderr,
        transient=True,
        disable=not stderr.is_terminal,
    )


def part_progress() -> Progress:
    """A bar of what part is done, on standard error if that is a terminal, gone when done."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=stderr,
        transient=True,
        disable=not stderr.is_terminal,
    )
