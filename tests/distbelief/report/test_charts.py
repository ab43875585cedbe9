"""Charts: what a drawing says of its numbers, read back from the SVG."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from distbelief.report import charts, html
from distbelief.report.axes import Axis, share
from distbelief.report.charts import Curve, Spread
from distbelief.report.heat import Field, Sides, heat
from distbelief.report.html import Html

X, Y = Axis("examples"), Axis("error", text=share)


def titles(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("title")]


def test_a_curve_says_its_points_and_leaves_out_what_is_none() -> None:
    points = [(0.0, 0.9), (1000.0, math.nan), (2000.0, 0.1)]
    svg = charts.curves("errors", [Curve("32 workers", points)], X, Y)
    assert titles(svg) == ["32 workers: 90 % at 0", "32 workers: 10 % at 2k"]
    assert ElementTree.fromstring(svg).get("aria-label") == "errors"
    assert "nan" not in svg


def test_curves_differ_in_colour_and_then_in_dashes() -> None:
    marks = {Curve("c", [], style=style).mark for style in range(4 * charts.COLOURS)}
    assert len(marks) == 4 * charts.COLOURS


def test_a_band_encloses_its_curve() -> None:
    line = [(0.0, 0.5), (1.0, 0.4)]
    low, high = [(x, y - 0.1) for x, y in line], [(x, y + 0.1) for x, y in line]
    svg = charts.curves("errors", [Curve("c", line, low, high)], X, Y)
    numbers = [float(n) for n in re.findall(r'class="band"[^>]* d="M([^"]*)Z"', svg)[0].replace("L", " ").split()]
    ((_, middle),) = re.findall(r'class="curve"[^>]* d="M([\d.]+) ([\d.]+)L', svg)
    assert numbers[1] > float(middle) > numbers[-1]  # pixels count downwards


def test_a_histogram_counts_everything_once() -> None:
    counts = {value: value + 1 for value in range(1000)}
    svg = charts.histogram("staleness", counts, Axis("updates"), 500.0)
    found = [re.fullmatch(r"([\d,]+) to ([\d,]+): ([\d,]+) of 500,500, [\d.]+ %", text) for text in titles(svg)]
    assert len(found) <= charts.BARS
    assert sum(int(match[3].replace(",", "")) for match in found if match) == sum(counts.values())
    assert "mean 500.00" in svg


def test_spreads_and_stacks_name_what_they_show() -> None:
    (text,) = titles(charts.spreads("staleness", [Spread("worker 3", 1, 4, 9, 4.5)], "worker", Y))
    assert text == "worker 3: middle 4, 5 to 95 %: 1 to 9, mean 4.50"
    svg = charts.stacks("time", ["0", "1"], {"computing": [3.0, 4.0], "waiting": [1.0, 0.0]}, "worker", Axis("ms"))
    assert titles(svg)[:2] == ["0: computing 3 of 4", "0: waiting 1 of 4"]
    heights = [float(h) for h in re.findall(r'height="([\d.]+)"', svg)]
    assert heights[0] == pytest.approx(3 * heights[1], rel=0.01)


def test_bars_are_as_long_as_their_values() -> None:
    svg = charts.bars("time", [("async", 2.0), ("sync", 4.0), ("lost", math.inf)], Axis("s"))
    assert titles(svg) == ["async: 2", "sync: 4", "lost: never"]
    widths = [float(w) for w in re.findall(r'width="([\d.]+)"', svg)]
    assert widths[1] == pytest.approx(2 * widths[0], rel=0.01)
    assert widths[2] == 0.0


def test_a_heat_map_frames_the_least_of_each_row() -> None:
    fields = [[Field(0.5, "a", "A"), Field(0.1, "b", "B")], [Field(None, "-", "none"), Field(math.nan, "div", "C")]]
    svg = heat("errors", Sides("rate", ["0.1", "0.2"], "workers", ["1", "32"]), fields)
    assert titles(svg) == ["A", "B", "none", "C"]
    groups = ElementTree.fromstring(svg).findall("g")
    framed = [group.findtext("title") for group in groups if any(r.get("class") == "best" for r in group)]
    assert framed == ["B"]


@pytest.mark.parametrize(
    "svg",
    [
        charts.curves("x", [Curve("c", [(0.0, math.nan)])], X, Y),
        charts.histogram("x", {}, X, math.nan),
        charts.spreads("x", [], "w", Y),
        charts.stacks("x", [], {}, "w", Y),
        charts.bars("x", [("a", math.inf)], Y),
        heat("x", Sides("a", ["1"], "b", ["2"]), [[Field(None, "-", "")]]),
    ],
)
def test_nothing_to_draw_is_said(svg: Html) -> None:
    assert svg == '<p class="note">x: nothing was recorded.</p>'


def test_names_cannot_break_out_of_a_drawing_or_a_page() -> None:
    evil = '<script>"&'
    svg = charts.curves(evil, [Curve(evil, [(1.0, 2.0)])], Axis(evil), Axis(evil))
    parts = [html.paragraph(evil), html.facts([(evil, evil)]), html.table([evil], [[evil, evil]]), html.code(evil)]
    for text in (svg, html.page(evil, html.paragraph(evil), parts), html.folded(evil, html.tiles([(evil, evil)]))):
        assert "<script" not in text
        assert "&lt;script&gt;" in text
