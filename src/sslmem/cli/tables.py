"""An audit's summary as text for people. Works on the JSON form, which the server sends and the wheel alone reads."""

from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from sslmem.roles import ROLE_MEANING


def _number(value: float | None, form: str = "+.4f") -> str:
    return "-" if value is None else format(value, form)


def _estimate(mean: float | None, error: float | None) -> str:
    return _number(mean) if error is None else f"{_number(mean)} ± {error:.4f}"


def print_summary(summary: dict[str, Any]) -> None:
    """Prints the scores by role, the contrasts against the external samples, the extremes and the finding."""
    console = Console(highlight=False, markup=False)  # names of files are no markup
    console.print(_roles(summary))
    if summary["contrasts"]:
        console.print(_contrasts(summary))
    console.print(_extremes(summary))
    if summary["num_skipped"]:
        first = summary["skipped"][0]
        console.print(
            f"{summary['num_skipped']} of {summary['num_samples']} samples were skipped, "
            f"first {first['sample']}: {first['reason']}",
            soft_wrap=True,
        )
    console.print(summary["finding"]["sentence"], style="bold", soft_wrap=True)
    for line in _measurement(summary):
        console.print(line, soft_wrap=True)


def _roles(summary: dict[str, Any]) -> Table:
    table = Table(title="Memorization score by role (mean ± standard error)", title_justify="left")
    for heading in ("role", "n", "score", "bounded score", ""):
        table.add_column(heading, justify="right" if heading in ("n", "score", "bounded score") else "left")
    for row in summary["roles"]:
        table.add_row(
            row["role"],
            str(row["n"]),
            _estimate(row["mean_score"], row["standard_error"]),
            _estimate(row["mean_score_bounded"], row["standard_error_bounded"]),
            ROLE_MEANING.get(row["role"], ""),
        )
    return table


def _contrasts(summary: dict[str, Any]) -> Table:
    table = Table(title="Against the external samples (95 % interval)", title_justify="left")
    for heading in ("role", "difference of means", "AUC"):
        table.add_column(heading)
    for row in summary["contrasts"]:
        d, auc = row["difference"], row["auc"]
        table.add_row(
            row["role"],
            f"{d['estimate']:+.4f}  ({d['low']:+.4f} to {d['high']:+.4f})",
            f"{auc['estimate']:.3f}  ({auc['low']:.3f} to {auc['high']:.3f})",
        )
    return table


def _extremes(summary: dict[str, Any]) -> Table:
    of = f" of the {summary['extremes_of']} role" if summary["extremes_of"] else ""
    table = Table(title=f"The {len(summary['most_memorized'])} most memorized images{of}", title_justify="left")
    for heading in ("sample", "role", "score", "bounded score"):
        table.add_column(heading, justify="right" if "score" in heading else "left")
    for row in summary["most_memorized"]:
        score = _estimate(row["score"], row["standard_error"])
        table.add_row(row["sample"], row["role"] or "", score, _number(row["score_bounded"]))
    return table


def _measurement(summary: dict[str, Any]) -> Iterator[str]:
    compat = summary.get("compat")
    if compat:
        means = ", ".join(f"{role} {mean:+.4f}" for role, mean in compat["mean_scores"].items())
        yield f"by the convention {compat['name']} (divided by {compat['divisor']:.4f}): {means}"
    measured = f"measured: {summary['spec']['representation']}"
    if summary["conditions"]:
        measured += "; computed in " + ", ".join(sorted({run["precision"] for run in summary["conditions"]}))
    yield measured
    yield f"score spec {summary['spec_digest']}"


def print_resources(items: Iterable[dict[str, Any]], columns: tuple[str, ...]) -> None:
    """Prints resources of the service, one row each."""
    table = Table(box=None)
    for column in columns:
        table.add_column(column, no_wrap=column == "id")
    for item in items:
        table.add_row(*(_cell(item.get(column)) for column in columns))
    Console(highlight=False, markup=False).print(table)


def _cell(value: Any) -> str:  # noqa: ANN401  what JSON can say
    return "" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
