"""Pictures: every figure of a page, whole in a file of its own."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from distbelief.report import charts, html
from distbelief.report.axes import Axis
from distbelief.report.charts import Curve
from distbelief.report.course import curves
from distbelief.report.pictures import pictures, write_pictures

SVG = "{http://www.w3.org/2000/svg}"
X, Y = Axis("workers"), Axis("error & more")


def page_of(*lines: Curve) -> str:
    figure = curves("Error: a < b", lines, X, Y, "A note.")
    nothing = html.figure("Nothing", charts.curves("Nothing", [], X, Y), html.Html(""))
    return html.page("A page", html.paragraph("about"), [html.side_by_side(figure, nothing)])


def test_a_picture_has_its_title_its_legend_and_its_colours() -> None:
    ((title, picture),) = pictures(page_of(Curve("sync & slow", [(1, 2), (2, 3)]), Curve("async", [(1, 1)], style=1)))
    assert title == "Error: a < b"
    texts = [element.text for element in ElementTree.fromstring(picture).iter(f"{SVG}text")]
    assert texts[:3] == ["Error: a < b", "sync & slow", "async"]
    assert "error & more" in texts
    assert picture.count("var(--c1)") >= 2
    assert "--c1: #" in picture
    assert "prefers-color-scheme: dark" in picture


def test_what_only_a_pointer_finds_is_left_out() -> None:
    page = page_of(Curve("here", [(1, 2), (2, 3)]))
    ((_, picture),) = pictures(page)
    assert page.count("<title>here") == 2
    assert page.count('class="place"') == 2
    root = ElementTree.fromstring(picture)
    assert root.find(f".//{SVG}title") is None
    assert 'class="place"' not in picture
    assert len(root.findall(f".//{SVG}circle")) == 2


def test_a_legend_that_is_too_long_takes_more_lines() -> None:
    def height(curves: int) -> float:
        ((_, picture),) = pictures(page_of(*(Curve("a name of some length", [(1, 2)], style=i) for i in range(curves))))
        return float(ElementTree.fromstring(picture).attrib["viewBox"].split()[3])

    assert height(1) == height(3)
    assert height(4) == height(3) + 20


def test_files_have_the_names_of_the_figures(tmp_path: Path) -> None:
    write_pictures(page_of(Curve("here", [(1, 2)])), tmp_path / "figures")
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["error-a-b.svg"]
