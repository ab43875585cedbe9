"""Pictures: the figures of a page as SVG files of their own, for a paper or a README.

A figure's title and legend stand in the picture; what only a pointer finds is left out. Light or dark as the reader's
system is, like the page.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from importlib import resources
from pathlib import Path
from xml.etree import ElementTree

from distbelief.report.drawing import LETTER, WIDTH
from distbelief.report.html import Html
from ps.wire.files import write_whole

TITLE_HEIGHT, LINE_HEIGHT = 30, 20
MARK_WIDTH, GAP = 32, 18
_SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" role="img" aria-label="{title}">
<style>
{style}
svg {{ font-family: system-ui, sans-serif; }}
</style>
<rect width="{width}" height="{height:.0f}" fill="var(--paper)"/>
<text class="strong" x="6" y="19" style="font-size: 15px; font-weight: 600">{title}</text>
{legend}
<g transform="translate(0 {top:.0f})">
{drawing}
</g>
</svg>
"""


def write_pictures(page: str, folder: Path) -> None:
    """Write every figure of a page into this folder, made if it is not there, under its title's name."""
    folder.mkdir(exist_ok=True)
    for title, picture in pictures(page):
        name = re.sub(r"[^a-z0-9.]+", "-", title.lower()).strip("-.")
        write_whole(folder / f"{name}.svg", picture.encode())


def pictures(page: str) -> Iterator[tuple[str, str]]:
    """Every figure of a page that is a drawing: its title, and the SVG."""
    style = (resources.files("distbelief.report") / "page.css").read_text("utf-8")
    variables = style[: style.index("* {")]
    drawn = "\n".join(line for line in style.splitlines() if line.startswith(("svg .", "svg text")))
    for text in re.findall(r"<figure>.*?</figure>", page, re.DOTALL):
        figure = ElementTree.fromstring(text)
        if (drawing := figure.find("svg")) is None:
            continue
        title = figure.findtext("figcaption") or ""
        legend, lines = _legend(figure)
        height = float(drawing.attrib["viewBox"].split()[3])
        top = TITLE_HEIGHT + LINE_HEIGHT * lines
        yield title, _SVG.format(
            width=WIDTH, height=top + height, title=escape(title), style=variables + drawn, legend=legend, top=top,
            drawing="\n".join(_plain(part) for part in drawing),
        )  # fmt: skip


def _legend(figure: ElementTree.Element) -> tuple[Html, int]:
    """Names beside their marks, and on how many lines they stand."""
    parts, x, line = [], 6.0, 0
    for entry in figure.iterfind("ul/li"):
        mark = entry[0]
        name = mark.tail or ""
        width = MARK_WIDTH + LETTER * len(name) + GAP
        if x > 6 and x + width > WIDTH:
            x, line = 6.0, line + 1
        mark.tail = ""
        inside = "".join(_plain(part) for part in mark)
        y = TITLE_HEIGHT + LINE_HEIGHT * line
        text = f'<text x="{MARK_WIDTH}" y="9">{escape(name)}</text>'
        parts.append(f'<g transform="translate({x:.0f} {y})">{inside}{text}</g>')
        x += width
    return Html("\n".join(parts)), line + 1 if parts else 0


def _plain(part: ElementTree.Element) -> str:
    """One piece of a drawing, without what only a pointer finds."""
    for parent in part.iter():
        for child in [*parent]:
            if child.tag == "title" or child.get("class") == "place":
                parent.remove(child)
    return ElementTree.tostring(part, encoding="unicode")
