"""The scores of an audit as a picture, drawn from its summary: nothing needs to be installed or fetched for it."""

from html import escape
from pathlib import Path

from sslmem.client.http import Json

WIDTH, HEIGHT, LEFT, TOP = 640, 72, 96, 24  # pixels: of a plot, of what is left of it and above all
GAP = 12
COLORS = {"candidate": "#b2452f", "independent": "#3b6ea5", "shared": "#7a6a9b", "external": "#6b7280"}


class Picture:
    """An SVG image, which notebooks show.

    Attributes:
        svg: its source.
    """

    def __init__(self, svg: str) -> None:
        self.svg = svg

    def _repr_svg_(self) -> str:
        return self.svg

    def save(self, path: str | Path) -> None:
        """Writes the image to a file."""
        Path(path).write_text(self.svg, encoding="utf-8")


def plot_scores(summary: Json) -> Picture:
    """Draws the histogram of each role's scores on one axis, with the mean as a line and zero dotted.

    Each histogram has a height of its own, so that roles of few samples can be read as well.

    Args:
        summary: of an audit, in its JSON form.
    """
    edges: list[float] = summary["histogram"]["edges"]
    rows = [row for row in summary["roles"] if row["n"] > 0]
    if not rows or not edges:
        return Picture(_svg(LEFT + WIDTH, TOP, [_text(0, 16, "no scores")]))
    low, high = edges[0], edges[-1]

    def x(score: float) -> float:
        return LEFT + (score - low) / (high - low) * WIDTH

    parts = [_text(LEFT, 14, "memorization score by role; higher is more memorized by the target")]
    for i, row in enumerate(rows):
        counts = summary["histogram"]["counts"][row["role"]]
        base = TOP + i * (HEIGHT + GAP) + HEIGHT
        color = COLORS.get(row["role"], "#6b7280")
        parts.append(_text(0, base - HEIGHT / 2, row["role"]))
        parts.append(_text(0, base - HEIGHT / 2 + 14, f"n = {row['n']}"))
        for count, start, end in zip(counts, edges[:-1], edges[1:], strict=True):
            if count:
                height, width = HEIGHT * count / max(counts), max(1.0, x(end) - x(start) - 1)
                title = f"{count} from {start:+.4f} to {end:+.4f}"
                parts.append(
                    f'<rect x="{x(start):.1f}" y="{base - height:.1f}" width="{width:.1f}" height="{height:.1f}" '
                    f'fill="{color}"><title>{title}</title></rect>'
                )
        parts.append(_line(LEFT, base, LEFT + WIDTH, base, "#9ca3af"))
        mean = row["mean_score"]
        if mean is not None:
            parts.append(_line(x(mean), base - HEIGHT, x(mean), base, "#111827", f"mean {mean:+.4f}"))
    bottom = TOP + len(rows) * (HEIGHT + GAP)
    if low <= 0 <= high:
        parts.append(_line(x(0), TOP, x(0), bottom - GAP, "#9ca3af", "zero", dotted=True))
    for share in range(5):
        score = low + (high - low) * share / 4
        parts.append(_text(x(score), bottom + 4, f"{score:+.3f}", "middle"))
    return Picture(_svg(LEFT + WIDTH + 24, bottom + 12, parts))


def _svg(width: float, height: float, parts: list[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="11" fill="#374151">{"".join(parts)}</svg>'
    )


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, color: str, title: str = "", *, dotted: bool = False) -> str:
    dash = ' stroke-dasharray="2 3"' if dotted else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}"{dash}>'
        f"<title>{escape(title)}</title></line>"
    )
