"""Line plots as SVG: axes, ticks, lines with intervals, a legend."""

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 150, 16, 44
COLOURS = ("#0b62a4", "#c2410c", "#15803d", "#7c3aed")


@dataclass(frozen=True)
class Line:
    """A named line: points (x, y, low, high)."""

    name: str
    points: Sequence[tuple[float, float, float, float]]


def plot(lines: Sequence[Line], *, x_label: str, y_label: str, level: float | None = None) -> str:
    """A plot of shares in [0, 1] over positions that are spaced evenly, with a dashed line at ``level``."""
    ticks = sorted({point[0] for line in lines for point in line.points})
    step = (WIDTH - LEFT - RIGHT) / max(1, len(ticks) - 1)

    def x(value: float) -> float:
        return LEFT + ticks.index(value) * step

    def y(value: float) -> float:
        return TOP + (1 - value) * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}">',
        "<style>text{font:12px sans-serif}</style>",
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(f'<path d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.2f}</text>')
    foot, middle = HEIGHT - BOTTOM + 16, (LEFT + WIDTH - RIGHT) / 2
    parts += [f'<text x="{x(t):.1f}" y="{foot}" text-anchor="middle">{t:g}</text>' for t in ticks]
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{x_label}</text>')
    turned = f"translate(14 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)"
    parts.append(f'<text transform="{turned}" text-anchor="middle">{y_label}</text>')
    if level is not None:
        parts.append(f'<path d="M{LEFT} {y(level):.1f}H{WIDTH - RIGHT}" stroke="#555" stroke-dasharray="4 3"/>')
    for number, line in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        path = "L".join(f"{x(p[0]):.1f} {y(p[1]):.1f}" for p in line.points)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for at, middle_y, low, high in line.points:
            parts.append(f'<path d="M{x(at):.1f} {y(low):.1f}V{y(high):.1f}" stroke="{colour}"/>')
            parts.append(f'<circle cx="{x(at):.1f}" cy="{y(middle_y):.1f}" r="3" fill="{colour}"/>')
        row = TOP + 14 + 18 * number
        parts.append(f'<path d="M{WIDTH - RIGHT + 10} {row - 4}h16" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{WIDTH - RIGHT + 30}" y="{row}">{line.name}</text>')
    return "".join(parts) + "</svg>\n"
