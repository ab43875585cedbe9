"""Drawing: the pieces that every chart is made of. Places are pixels from the upper left corner."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from distbelief.report.axes import Axis, Scale
from distbelief.report.html import Html

WIDTH, HEIGHT = 620, 320
LEFT, RIGHT, TOP, BOTTOM = 62, 12, 12, 46  # margins, where numbers and labels stand
LETTER = 7.0  # width of one, about

Point = tuple[float, float]


def empty(what: str) -> Html:
    """In place of a drawing of nothing."""
    return Html(f'<p class="note">{escape(what)}: nothing was recorded.</p>')


def finite(line: Iterable[Point]) -> list[Point]:
    return [point for point in line if math.isfinite(point[0]) and math.isfinite(point[1])]


def path(points: Sequence[Point]) -> str:
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in points) if points else "M0 0"


def drawing(what: str, parts: Iterable[str], height: float = HEIGHT) -> Html:
    inside = "\n".join(parts)
    return Html(f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(what)}">\n{inside}\n</svg>')


def frame(across: Scale | None, up: Scale, x: Axis, y: Axis) -> str:
    """Grid, numbers and labels. Without `across`, what stands below the drawing is told by `column_names`."""
    parts = []
    for at, text in up.ticks:
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{at + 4:.1f}" text-anchor="end">{escape(text)}</text>')
    for at, text in across.ticks if across else ():
        parts.append(f'<path class="axis" d="M{at:.1f} {HEIGHT - BOTTOM}v4"/>')
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{escape(text)}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    return "".join(parts) + labels(x.label, y.label, HEIGHT - BOTTOM)


def labels(x: str, y: str, bottom: float) -> str:
    middle = (TOP + bottom) / 2
    return (
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.1f}" y="{bottom + 38:.1f}" text-anchor="middle">{escape(x)}</text>'
        f'<text transform="translate(13 {middle:.1f}) rotate(-90)" text-anchor="middle">{escape(y)}</text>'
    )


def column_names(names: Sequence[str], step: float) -> str:
    """Below the columns, as many names as there is room for."""
    every = max(1, math.ceil(max(len(name) for name in names) * LETTER / step))
    return "".join(
        f'<text x="{LEFT + (place + 0.5) * step:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
        f"{escape(names[place])}</text>"
        for place in range(0, len(names), every)
    )
