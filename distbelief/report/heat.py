"""Heat map: a value for every pair of two choices, as colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from distbelief.report.drawing import BOTTOM, HEIGHT, LEFT, LETTER, RIGHT, TOP, WIDTH, drawing, empty, labels
from distbelief.report.html import Html

_MAP = ((253, 231, 37), (94, 201, 98), (33, 145, 140), (59, 82, 139), (68, 1, 84))  # viridis, from its bright end


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a heat map.

    Attributes:
        value: None for what was not tried, or has none.
        text: What stands in it.
        title: What a pointer shows there.
    """

    value: float | None
    text: str
    title: str


@dataclass(frozen=True, slots=True)
class Sides:
    """What columns and rows are, and how each is called."""

    x: str
    columns: Sequence[str]
    y: str
    rows: Sequence[str]


def heat(what: str, sides: Sides, fields: Sequence[Sequence[Field]], span: tuple[float, float] | None = None) -> Html:
    """Values as colours, dark to light from high to low; the lowest of each row is framed.

    Args:
        fields: Of every row, for every column.
        span: Values that have the ends of the colours, for several maps alike; by default those that there are.
    """
    values = [f.value for row in fields for f in row if f.value is not None and math.isfinite(f.value)]
    if not values:
        return empty(what)
    low, high = span or (min(values), max(values))
    edge = max(LEFT, 30 + LETTER * max(len(name) for name in sides.rows))
    wide = (WIDTH - edge - RIGHT) / len(sides.columns)
    high_px = min(46.0, (HEIGHT - TOP - BOTTOM) / len(sides.rows))
    bottom = TOP + high_px * len(sides.rows)
    parts = []
    for r, row in enumerate(fields):
        known = [f.value for f in row if f.value is not None and math.isfinite(f.value)]
        top = TOP + r * high_px
        parts.append(
            f'<text x="{edge - 8:.1f}" y="{top + high_px / 2 + 4:.1f}" text-anchor="end">{escape(sides.rows[r])}</text>'
        )
        for c, each in enumerate(row):
            left = edge + c * wide
            box = f'x="{left + 1:.1f}" y="{top + 1:.1f}" width="{wide - 2:.1f}" height="{high_px - 2:.1f}" rx="3"'
            fill, ink = 'class="none"', 'class="strong"'
            if each.value is not None and math.isfinite(each.value):
                red, green, blue = _colour((each.value - low) / (high - low) if high > low else 0.0)
                bright = 0.299 * red + 0.587 * green + 0.114 * blue > 140
                fill, ink = f'fill="rgb({red} {green} {blue})"', f'style="fill:{"#000" if bright else "#fff"}"'
            best = f'<rect class="best" {box}/>' if known and each.value == min(known) and len(known) > 1 else ""
            parts.append(
                f'<g><rect {box} {fill}/>{best}<text {ink} x="{left + wide / 2:.1f}" y="{top + high_px / 2 + 4:.1f}" '
                f'text-anchor="middle">{escape(each.text)}</text><title>{escape(each.title)}</title></g>'
            )
    for c, name in enumerate(sides.columns):
        parts.append(
            f'<text x="{edge + (c + 0.5) * wide:.1f}" y="{bottom + 18:.1f}" text-anchor="middle">{escape(name)}</text>'
        )
    parts.append(labels(sides.x, sides.y, bottom))
    return drawing(what, parts, bottom + BOTTOM)


def _colour(share: float) -> tuple[int, int, int]:
    """Between the colours of the map, for 0 to 1."""
    place = share * (len(_MAP) - 1)
    first = min(int(place), len(_MAP) - 2)
    part = place - first
    red, green, blue = (round(a + part * (b - a)) for a, b in zip(_MAP[first], _MAP[first + 1], strict=True))
    return red, green, blue
