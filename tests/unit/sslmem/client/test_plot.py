"""The picture of an audit's scores."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from sslmem.client.plot import plot_scores
from sslmem.report.rows import ScoreRow
from sslmem.report.summary import summarize
from sslmem.spec import ScoreSpec

SVG = "{http://www.w3.org/2000/svg}"


def row(sample: str, role: str, score: float) -> ScoreRow:
    return ScoreRow(sample, role, score, score / 2, 0.01, 1.0, 1.0 + score, None)


def summary_of(scores: dict[str, list[float]]) -> dict[str, Any]:
    rows = [row(f"{role}-{i}", role, score) for role, values in scores.items() for i, score in enumerate(values)]
    spec = ScoreSpec(input_size=32)
    return summarize(rows, spec, target_digests=["f"], reference_digests=["g"]).model_dump(mode="json")


@pytest.fixture
def summary() -> dict[str, Any]:
    generator = np.random.default_rng(0)
    return summary_of(
        {"candidate": generator.normal(0.1, 0.05, 300).tolist(), "external": generator.normal(0, 0.05, 90).tolist()}
    )


def titles(image: ET.Element, kind: str) -> list[str]:
    return [shape.findtext(f"{SVG}title", "") for shape in image.iter(f"{SVG}{kind}")]


def test_every_score_is_in_a_bar(summary: dict[str, Any]) -> None:
    image = ET.fromstring(plot_scores(summary).svg)
    assert sum(int(title.split()[0]) for title in titles(image, "rect")) == 390
    texts = [text.text for text in image.iter(f"{SVG}text")]
    assert {"candidate", "n = 300", "external", "n = 90"} <= set(texts)


def test_bars_stay_within_the_image_and_the_tallest_of_each_role_is_as_high_as_the_plot(
    summary: dict[str, Any],
) -> None:
    image = ET.fromstring(plot_scores(summary).svg)
    bars = [
        {name: float(bar.attrib[name]) for name in ("x", "y", "width", "height")} for bar in image.iter(f"{SVG}rect")
    ]
    width, height = (float(image.attrib[name]) for name in ("width", "height"))
    assert all(0 <= bar["x"] <= bar["x"] + bar["width"] <= width for bar in bars)
    assert all(0 <= bar["y"] <= bar["y"] + bar["height"] <= height for bar in bars)
    assert [bar["height"] for bar in bars].count(max(bar["height"] for bar in bars)) == 2


def test_means_and_zero_are_marked(summary: dict[str, Any]) -> None:
    found = titles(ET.fromstring(plot_scores(summary).svg), "line")
    means = [row["mean_score"] for row in summary["roles"] if row["n"]]
    assert [title for title in found if title.startswith("mean")] == [f"mean {mean:+.4f}" for mean in means]
    assert found.count("zero") == 1


def test_zero_is_left_out_where_no_score_is_near() -> None:
    found = titles(ET.fromstring(plot_scores(summary_of({"external": [0.5, 0.6, 0.7]})).svg), "line")
    assert "zero" not in found


@pytest.mark.parametrize("scores", [{"external": [0.5]}, {"external": [0.25, 0.25]}])
def test_scores_without_any_spread_are_drawn(scores: dict[str, list[float]]) -> None:
    image = ET.fromstring(plot_scores(summary_of(scores)).svg)
    assert sum(int(title.split()[0]) for title in titles(image, "rect")) == len(scores["external"])


def test_no_scores_are_said_to_be_none() -> None:
    assert "no scores" in plot_scores(summary_of({})).svg


def test_picture_is_shown_by_notebooks_and_saved(summary: dict[str, Any], tmp_path: Path) -> None:
    picture = plot_scores(summary)
    picture.save(tmp_path / "scores.svg")
    assert (tmp_path / "scores.svg").read_text() == picture._repr_svg_() == picture.svg
