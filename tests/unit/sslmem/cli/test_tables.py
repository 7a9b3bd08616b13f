"""The summary as text for people."""

from collections.abc import Callable

import pytest

from sslmem.cli.tables import print_resources, print_summary
from sslmem.report.rows import ScoreRow
from sslmem.report.summary import summarize
from sslmem.spec import ScoreSpec
from tests.unit.builders import row

Printed = Callable[[list[ScoreRow]], str]


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Printed:
    """What is printed of the summary of rows."""
    monkeypatch.setenv("COLUMNS", "200")

    def prints(rows: list[ScoreRow]) -> str:
        summary = summarize(rows, ScoreSpec(input_size=32), target_digests=["t"], reference_digests=["r"])
        print_summary(summary.model_dump(mode="json"))
        return capsys.readouterr().out

    return prints


ROWS = [
    *(row(f"c{i}.png", "candidate", 0.3 + 0.01 * i) for i in range(12)),
    *(row(f"e{i}.png", "external", 0.01 * i) for i in range(12)),
    row("broken.png", "shared", None),
]


def test_roles_are_shown_with_numbers_and_meaning(printed: Printed) -> None:
    lines = printed(ROWS).splitlines()
    candidate = next(line for line in lines if "candidate " in line and "12" in line)
    assert "+0.3550 ± 0.0104" in candidate
    assert "trained on by the target only" in candidate
    shared = next(line for line in lines if " shared " in line)
    assert " 0 " in shared
    assert " - " in shared


def test_finding_is_the_answer_in_words(printed: Printed) -> None:
    text = printed(ROWS)
    assert "Memorization found: " in text
    assert text.rstrip().endswith(ScoreSpec(input_size=32).digest)


def test_contrasts_are_shown_with_their_intervals(printed: Printed) -> None:
    assert "+0.3000  (+0.2695 to +0.3305)" in printed(ROWS)


def test_most_memorized_samples_are_shown_in_order(printed: Printed) -> None:
    lines = printed(ROWS).splitlines()
    places = [next(i for i, line in enumerate(lines) if f"c{number}.png" in line) for number in range(11, 1, -1)]
    assert places == sorted(places)
    assert not any("c1.png" in line for line in lines)


def test_skipped_samples_are_counted(printed: Printed) -> None:
    assert "1 of 25 samples were skipped, first broken.png: image-undecodable: it is no image" in printed(ROWS)


@pytest.mark.parametrize("rows", [[], [row("a", None, None)], [row("a", None, 0.1)]])
def test_little_is_shown_too(printed: Printed, rows: list[ScoreRow]) -> None:
    assert "Undecided" in printed(rows)


@pytest.mark.parametrize("name", ["[red]a[/red].png", "[/]b.png", "[link=x]c.png"])
def test_names_with_markup_are_shown_as_they_are(printed: Printed, name: str) -> None:
    assert name in printed([row(name, "candidate", 0.5)])
    assert name in printed([row(name, "candidate", None)])


def test_resources_are_shown_one_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    print_resources([{"id": "1", "name": None, "state": "[ready]"}], ("id", "name", "state"))
    assert "[ready]" in capsys.readouterr().out
