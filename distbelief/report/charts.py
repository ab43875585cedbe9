"""Charts: drawings of a run's numbers as SVG, to stand in a page.

Colours are the page's variables, so that a drawing follows light, dark and print; curves differ in their dashes as
well. Every mark has a title, which a browser shows under the pointer and a screen reader says. A library would draw
this too, at several times the size of this package, and its colours would be fixed when it drew.

Places are pixels in the drawing, from its upper left corner; a browser scales it to the width that there is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from distbelief.histogram import binned
from distbelief.report.axes import Axis, Scale
from distbelief.report.drawing import (
    BOTTOM,
    HEIGHT,
    LEFT,
    LETTER,
    RIGHT,
    TOP,
    WIDTH,
    Point,
    column_names,
    drawing,
    empty,
    finite,
    frame,
    path,
)
from distbelief.report.html import Html

COLOURS = 7
DASHES = ("", "7 3", "2 3", "9 3 2 3")
DOTS = 60  # points of a curve, from which on they are not marked one by one
BARS = 80  # in a histogram; more values than that share them
FEWEST = 8  # values that a histogram has room for
NAMES = 300  # pixels that the names of bars take at most


@dataclass(frozen=True, slots=True)
class Curve:
    """A line through points.

    Attributes:
        points: (x, y), by x; what is not finite is left out.
        low, high: Edges of a band around it, likewise; both or none.
        style: Its number: colour and dashes.
        joined: False for points without a line.
    """

    name: str
    points: Sequence[Point]
    low: Sequence[Point] = ()
    high: Sequence[Point] = ()
    style: int = 0
    joined: bool = True

    @property
    def colour(self) -> str:
        return f"var(--c{self.style % COLOURS})"

    @property
    def stroke(self) -> str:
        """As attributes of a line."""
        dashes = DASHES[self.style // COLOURS % len(DASHES)]
        return f'stroke="{self.colour}"' + (f' stroke-dasharray="{dashes}"' if dashes else "")

    @property
    def mark(self) -> Html:
        """What stands beside its name in a legend."""
        line = f'<path class="curve" d="M0 5H26" {self.stroke}/>'
        return Html(f'<svg viewBox="0 0 26 10" aria-hidden="true">{line}</svg>')


def curves(what: str, of: Sequence[Curve], x: Axis, y: Axis, level: float | None = None) -> Html:
    """Lines over a common axis. `what`: for those who hear the page; `level`: a line across, at this y."""
    every = [p for curve in of for line in (curve.points, curve.low, curve.high) for p in finite(line)]
    across = Scale(x, [p[0] for p in every], LEFT, WIDTH - RIGHT, tight=True)
    up = Scale(y, [p[1] for p in every] + ([] if level is None else [level]), HEIGHT - BOTTOM, TOP)
    inside = [p for p in every if (p[0] > 0 or not x.log) and (p[1] > 0 or not y.log)]
    if not inside:
        return empty(what)
    parts = [frame(across, up, x, y)]
    if level is not None:
        parts.append(f'<path class="axis" stroke-dasharray="4 4" d="M{LEFT} {up(level):.1f}H{WIDTH - RIGHT}"/>')

    def placed(line: Sequence[Point]) -> list[tuple[float, float]]:
        kept = [p for p in finite(line) if (p[0] > 0 or not x.log) and (p[1] > 0 or not y.log)]
        return [(across(a), up(b)) for a, b in kept]

    for curve in of:
        if curve.low:
            band = placed(curve.low) + placed(curve.high)[::-1]
            parts.append(f'<path class="band" fill="{curve.colour}" d="{path(band)}Z"/>')
        if curve.joined:
            parts.append(f'<path class="curve" {curve.stroke} d="{path(placed(curve.points))}"/>')
        parts += _dots(curve, placed, x, y)
    return drawing(what, parts)


def _dots(curve: Curve, placed: Callable[[Sequence[Point]], list[Point]], x: Axis, y: Axis) -> list[str]:
    """A mark where a point is, if they are few, and what a pointer shows there."""
    size = 4.0 if not curve.joined else 2.6 if len(curve.points) <= DOTS else 0
    found = []
    for point in curve.points:
        for a, b in placed([point]):
            text = escape(f"{curve.name}: {y.text(point[1])} at {x.text(point[0])}")
            dot = f'<circle cx="{a:.1f}" cy="{b:.1f}" r="{size}" fill="{curve.colour}"/>' if size else ""
            found.append(f'<g>{dot}<circle class="place" cx="{a:.1f}" cy="{b:.1f}" r="7"/><title>{text}</title></g>')
    return found


def bar_width(counts: Mapping[int, int]) -> int:
    """Values that share a bar."""
    return -(-(max(counts) - min(counts) + 1) // BARS)


def histogram(what: str, counts: Mapping[int, int], x: Axis, mean: float) -> Html:
    """How often each whole number came, as shares; a line marks the mean."""
    if not counts:
        return empty(what)
    least = min(counts)
    width = bar_width(counts)
    bars = binned(counts, least, width)
    total = sum(counts.values())
    y = Axis("share of updates", from_zero=True, text=lambda v: f"{100 * v:.3g} %")
    last = max(max(bars) + width, least + FEWEST * width)
    across = Scale(x, [least - 0.5, last - 0.5], LEFT, WIDTH - RIGHT, tight=True)
    up = Scale(y, [count / total for count in bars.values()], HEIGHT - BOTTOM, TOP)
    parts = [frame(across, up, x, y)]
    for first, count in sorted(bars.items()):
        left, right, top = across(first - 0.5), across(first + width - 0.5), up(count / total)
        span = f"{first:,}" if width == 1 else f"{first:,} to {first + width - 1:,}"
        gap = min(1.0, (right - left) / 6)
        parts.append(
            f'<rect x="{left + gap:.1f}" y="{top:.1f}" width="{right - left - 2 * gap:.1f}" '
            f'height="{HEIGHT - BOTTOM - top:.1f}" fill="var(--c0)"><title>{span}: {count:,} of {total:,}, '
            f"{100 * count / total:.2f} %</title></rect>"
        )
    at = across(mean)
    parts.append(f'<path class="axis" stroke-dasharray="4 4" d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
    side, anchor = (-5, "end") if at > WIDTH * 0.8 else (5, "start")
    parts.append(
        f'<text class="said" x="{at + side:.1f}" y="{TOP + 10}" text-anchor="{anchor}">mean {mean:,.2f}</text>'
    )
    return drawing(what, parts)


@dataclass(frozen=True, slots=True)
class Spread:
    """One row's spread: the values that 5, 50 and 95 % of its counts are at or below, and its mean."""

    name: str
    low: float
    middle: float
    high: float
    mean: float


def spreads(what: str, of: Sequence[Spread], x_label: str, y: Axis) -> Html:
    """Each one's spread as a bar with a dot at its middle, side by side."""
    if not of:
        return empty(what)
    x = Axis(x_label)
    up = Scale(y, [value for each in of for value in (each.low, each.high)], HEIGHT - BOTTOM, TOP)
    step = (WIDTH - LEFT - RIGHT) / len(of)
    parts = [frame(None, up, x, y), column_names([each.name for each in of], step)]
    for place, each in enumerate(of):
        at = LEFT + (place + 0.5) * step
        width = max(1.5, min(8.0, step * 0.55))
        text = escape(
            f"{each.name}: middle {each.middle:g}, 5 to 95 %: {each.low:g} to {each.high:g}, mean {each.mean:.2f}"
        )
        parts.append(
            f'<g><path stroke="var(--c5)" stroke-width="{width:.1f}" '
            f'd="M{at:.1f} {up(each.low) + 1:.1f}V{up(each.high) - 1:.1f}"/>'
            f'<circle class="mark" cx="{at:.1f}" cy="{up(each.middle):.1f}" r="{max(1.5, width / 2.4):.1f}"/>'
            f"<title>{text}</title></g>"
        )
    return drawing(what, parts)


def stacks(what: str, names: Sequence[str], parts_of: Mapping[str, Sequence[float]], x_label: str, y: Axis) -> Html:
    """A column per name, made of its parts. `parts_of`: part to its size for every name."""
    if not names:
        return empty(what)
    sums = [sum(sizes[place] for sizes in parts_of.values()) for place in range(len(names))]
    up = Scale(y, [*sums, 0.0], HEIGHT - BOTTOM, TOP)
    step = (WIDTH - LEFT - RIGHT) / len(names)
    parts = [frame(None, up, Axis(x_label), y), column_names(names, step)]
    for place, name in enumerate(names):
        bottom = 0.0
        for colour, (part, sizes) in enumerate(parts_of.items()):
            size = sizes[place]
            height = up(bottom) - up(bottom + size)
            text = escape(f"{name}: {part} {y.text(size)} of {y.text(sums[place])}")
            parts.append(
                f'<rect x="{LEFT + (place + 0.12) * step:.1f}" y="{up(bottom + size):.1f}" width="{0.76 * step:.1f}" '
                f'height="{height:.1f}" fill="var(--c{colour % COLOURS})"><title>{text}</title></rect>'
            )
            bottom += size
    return drawing(what, parts)


def bars(what: str, of: Sequence[tuple[str, float]], y: Axis) -> Html:
    """A bar per name, from the left, with its value; "never" for one that is not finite."""
    if not any(math.isfinite(value) for _, value in of):
        return empty(what)
    edge = min(NAMES, 16 + LETTER * max(len(name) for name, _ in of))
    step = min(34.0, (HEIGHT - TOP - BOTTOM) / len(of))
    bottom = TOP + step * len(of)
    across = Scale(y, [0.0, *[value for _, value in of]], edge, WIDTH - RIGHT)
    parts = []
    for at, text in across.ticks:
        parts.append(f'<path class="grid" d="M{at:.1f} {TOP}V{bottom:.1f}"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 18:.1f}" text-anchor="middle">{escape(text)}</text>')
    for place, (name, value) in enumerate(of):
        top, middle, known = TOP + step * (place + 0.15), TOP + step * (place + 0.5) + 4, math.isfinite(value)
        end = across(value if known else 0.0)
        text = y.text(value) if known else "never"
        parts.append(
            f'<g><rect x="{edge:.1f}" y="{top:.1f}" width="{end - edge:.1f}" height="{0.7 * step:.1f}" '
            f'fill="var(--c0)"/><text x="{edge - 8:.1f}" y="{middle:.1f}" text-anchor="end">{escape(name)}</text>'
            f'<text class="said" x="{end + 5:.1f}" y="{middle:.1f}">{escape(text)}</text>'
            f"<title>{escape(f'{name}: {text}')}</title></g>"
        )
    parts.append(
        f'<text x="{(edge + WIDTH - RIGHT) / 2:.1f}" y="{bottom + 38:.1f}" text-anchor="middle">'
        f"{escape(y.label)}</text>"
    )
    return drawing(what, parts, bottom + BOTTOM)


def patch(style: int) -> Html:
    """What stands beside the name of a part of `stacks` in a legend."""
    square = f'<rect width="26" height="10" fill="var(--c{style % COLOURS})"/>'
    return Html(f'<svg viewBox="0 0 26 10" aria-hidden="true">{square}</svg>')
