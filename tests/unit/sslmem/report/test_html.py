"""The report as one HTML file."""

import base64
import io
import re
from collections.abc import Callable
from html.parser import HTMLParser

import pytest
from PIL import Image

from sslmem.errors import UndecodableImage
from sslmem.recipe import Recipe
from sslmem.report.html import render_report
from sslmem.report.rows import ScoreRow
from sslmem.report.summary import summarize
from sslmem.spec import ScoreSpec
from tests.unit.builders import encoded, noise, row

HOSTILE = "<script>alert('x')</script>\"'&{{'a' * 9}}{% raw %}.png"
PNG = encoded(noise(8, 8))


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "tr") or tag in self.open:
            while self.open and self.open.pop() != tag:
                pass

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def report(
    rows: list[ScoreRow],
    *,
    spec: ScoreSpec | None = None,
    read: Callable[[str], bytes] = lambda _: PNG,
    title: str = "Audit of x",
) -> str:
    spec = spec or ScoreSpec(input_size=32)
    summary = summarize(rows, spec, target_digests=["sha256:target"], reference_digests=["sha256:reference"])
    return render_report(summary, read, title=title)


ROWS = [
    *(row(f"candidate-{i}.png", "candidate", 0.3 + 0.01 * i) for i in range(12)),
    *(row(f"external-{i}.png", "external", 0.01 * i) for i in range(12)),
    row("broken.png", "shared", None),
    row("unassigned.png", None, -0.2),
]


def test_report_begins_with_what_speaks_against_the_encoders() -> None:
    summary = summarize(ROWS, ScoreSpec(input_size=32), target_digests=["sha256:t"], reference_digests=["sha256:r"])
    text = render_report(summary, None, title="Audit of x", suspicions=["a target is suspect: <b>it was never trained"])
    said = "Suspect: a target is suspect: &lt;b&gt;it was never trained. The scores below may say nothing."
    assert text.index(said) < text.index("Scores by role")
    assert "Suspect" not in report(ROWS)


def test_report_needs_nothing_else() -> None:
    page = Page(report(ROWS))
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form"), tag
        for name, value in attributes.items():
            assert not name.startswith("on"), name
            if name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
                assert (value or "").startswith("data:image/png;base64,"), value
    assert not re.search(r"url\(|@import", report(ROWS))


def test_report_closes_what_it_opens() -> None:
    assert Page(report(ROWS)).open == []


def test_report_answers_first() -> None:
    text = Page(report(ROWS)).text
    assert text.index("Memorization found: ") < text.index("Scores by role")


def test_report_shows_every_role_with_its_meaning_and_numbers() -> None:
    text = Page(report(ROWS)).text
    for expected in ("trained on by the target only", "trained on by neither: the null", "unassigned", "+0.3550"):
        assert expected in text


def test_report_shows_the_contrast_with_the_externals() -> None:
    assert "+0.3000 (" in Page(report(ROWS)).text


def test_gallery_shows_the_extremes_with_their_scores() -> None:
    page = Page(report(ROWS))
    shown = [image["alt"] for image in page.all("img")]
    assert shown[:10] == [f"candidate-{i}.png" for i in range(11, 1, -1)]
    assert shown[10:] == [f"candidate-{i}.png" for i in range(10)]
    assert "Most memorized candidates" in page.text
    assert "Least memorized candidates" in page.text
    assert "+0.4100 ± 0.0100" in page.text


def test_gallery_says_which_image_cannot_be_read() -> None:
    def read(name: str) -> bytes:
        if name == "candidate-11.png":
            raise UndecodableImage("gone")
        return b"no image" if name == "candidate-10.png" else PNG

    page = Page(report(ROWS, read=read))
    assert len(page.all("img")) == 18
    assert page.text.count("not readable") == 2
    assert "candidate-11.png" in page.text


def test_report_draws_a_histogram_of_each_role_that_has_scores() -> None:
    page = Page(report(ROWS))
    labels = [svg.get("aria-label") for svg in page.all("svg") if svg.get("role") == "img"]
    assert labels == [f"Histogram of the scores of {role} samples" for role in ("candidate", "external", "unassigned")]
    counts = [int(number) for number in re.findall(r"(\d+) samples with scores from", page.text)]
    assert sum(counts) == 25


def test_bars_lie_within_their_plot() -> None:
    for bar in Page(report(ROWS)).all("rect"):
        x, y, width, height = (float(bar[name] or "nan") for name in ("x", "y", "width", "height"))
        assert 0 <= x <= x + width <= 640.1
        assert 0 <= y <= y + height <= 64.1
        assert height > 0


def test_skipped_samples_are_listed_with_their_reasons() -> None:
    text = Page(report(ROWS)).text
    assert "1 of 26 samples have no score: unknown, not absent." in text
    assert "broken.png image-undecodable: it is no image" in text


def test_report_without_skipped_samples_says_nothing_of_them() -> None:
    assert "Skipped samples" not in Page(report(ROWS[:5])).text


def test_report_says_how_it_was_measured() -> None:
    spec = ScoreSpec(
        views=7,
        pairing="original",
        distance="angular",
        seed=42,
        input_size=48,
        recipe=Recipe.named("paper-independent"),
    )
    text = Page(report(ROWS, spec=spec)).text
    assert "the original with each view, 7 views of 48 pixels, seed 42" in text
    for expected in ("angular", "gaussian_blur", "kernel_size 5", spec.digest, "sha256:target", "sha256:reference"):
        assert expected in text


@pytest.mark.parametrize("place", ["sample", "title", "skipped"])
def test_hostile_names_are_shown_not_run(place: str) -> None:
    rows = [row(HOSTILE if place == "sample" else "a.png", "candidate", 0.5), row("b.png", "candidate", 0.1)]
    if place == "skipped":
        rows.append(ScoreRow(HOSTILE, None, None, None, None, None, None, f"reason {HOSTILE}"))
    html = report(rows, title=HOSTILE if place == "title" else "Audit")
    page = Page(html)
    assert page.all("script") == []
    assert HOSTILE in "".join(page.words)
    if place == "sample":
        assert HOSTILE in [image["alt"] for image in page.all("img")]
    assert "a" * 9 not in page.text


@pytest.mark.parametrize(
    "rows",
    [[], [row("a.png", "candidate", None)], [row("a.png", "candidate", 0.0)], [row("a.png", None, -3.0)] * 4],
    ids=["no samples", "no scores", "one score", "equal scores"],
)
def test_report_of_little_is_a_report(rows: list[ScoreRow]) -> None:
    page = Page(report(rows))
    assert "Undecided" in page.text
    assert page.open == []


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (200, 150), (5, 7)])
def test_thumbnail_of_any_image_is_small(size: tuple[int, int]) -> None:
    image = encoded(noise(*size))
    page = Page(report(ROWS[:1], read=lambda _: image))
    source = page.all("img")[0]["src"] or ""
    width, height = Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))).size
    assert max(width, height) == 96
    assert min(width, height) == max(1, round(96 * min(size) / max(size)))
