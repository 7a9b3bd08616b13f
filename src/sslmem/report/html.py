"""An audit's report as one HTML file that needs nothing else: no script, no network."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from PIL import Image

from sslmem.datasets.image import decode_image
from sslmem.errors import UndecodableImage
from sslmem.report.summary import Histogram, ScoredSample, Summary
from sslmem.roles import ROLE_MEANING

THUMBNAIL = 96  # pixels
PLOT_WIDTH, PLOT_HEIGHT = 640, 64


@dataclass(frozen=True)
class Bar:
    """A bar of a histogram, in the plot's pixels."""

    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True)
class Plot:
    """One role's histogram on the axis that all roles share."""

    role: str
    n: int
    meaning: str
    bars: list[Bar]
    mean_x: float | None


def render_report(
    summary: Summary,
    read_image: Callable[[str], bytes] | None,
    *,
    title: str,
    suspicions: Sequence[str] = (),
    template: str = "report.html",
    more: Mapping[str, object] | None = None,
) -> str:
    """Renders a summary as HTML.

    Args:
        summary: what was found.
        read_image: returns the encoded bytes of a sample by its path; raises UndecodableImage if it cannot. None
            where the images are not at hand: samples are then named, not shown.
        title: heading of the report.
        suspicions: what speaks against the encoders, as sentences.
        template: that extends the report.
        more: what that template shows besides.
    """
    environment = Environment(
        loader=PackageLoader("sslmem.report"), autoescape=select_autoescape(), undefined=StrictUndefined
    )
    edges = summary.histogram.edges
    kind = "candidates" if summary.extremes_of else "images"
    return environment.get_template(template).render(
        **(more or {}),
        title=title,
        suspicions=suspicions,
        summary=summary,
        meanings=ROLE_MEANING,
        plots=_plots(summary),
        plot_width=PLOT_WIDTH,
        plot_height=PLOT_HEIGHT,
        ticks=_ticks(edges),
        zero_x=_x(0.0, edges) if edges and edges[0] <= 0 <= edges[-1] else None,
        galleries=[
            (f"Most memorized {kind}", [(s, _thumbnail(s, read_image)) for s in summary.most_memorized]),
            (f"Least memorized {kind}", [(s, _thumbnail(s, read_image)) for s in summary.least_memorized]),
        ],
    )


def _x(score: float, edges: list[float]) -> float:
    return (score - edges[0]) / (edges[-1] - edges[0]) * PLOT_WIDTH


def _plots(summary: Summary) -> list[Plot]:
    histogram = summary.histogram
    meanings = {str(role): meaning for role, meaning in ROLE_MEANING.items()}
    return [
        Plot(
            role=row.role,
            n=row.n,
            meaning=meanings.get(row.role, ""),
            bars=_bars(histogram, row.role),
            mean_x=None if row.mean_score is None else _x(row.mean_score, histogram.edges),
        )
        for row in summary.roles
        if row.n > 0
    ]


def _bars(histogram: Histogram, role: str) -> list[Bar]:
    counts, edges = histogram.counts[role], histogram.edges
    width, tallest = PLOT_WIDTH / len(counts), max(counts)
    bars = []
    for i, count in enumerate(counts):
        if count:
            height = PLOT_HEIGHT * count / tallest
            title = f"{role}: {count} samples with scores from {edges[i]:+.4f} to {edges[i + 1]:+.4f}"
            bars.append(Bar(i * width, PLOT_HEIGHT - height, max(width - 1, 1), height, title))
    return bars


def _ticks(edges: list[float]) -> list[tuple[float, str]]:
    if not edges:
        return []
    places = [edges[0] + (edges[-1] - edges[0]) * part / 4 for part in range(5)]
    return [(_x(place, edges), f"{place:+.3f}") for place in places]


def _thumbnail(sample: ScoredSample, read_image: Callable[[str], bytes] | None) -> str | None:
    """The image as a data URL, small images enlarged without smoothing; None if it cannot be read."""
    if read_image is None:
        return None
    try:
        image = Image.fromarray(decode_image(read_image(sample.sample)))
    except UndecodableImage:
        return None
    scale = THUMBNAIL / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
