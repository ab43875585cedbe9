"""HTML: a page out of texts, tables and drawings, whole in one file: no script, and nothing is fetched.

The page's own policy forbids a browser to load anything. Light or dark as the reader's system is; on paper, light.
Functions take plain text, which they escape, unless an argument is said to be Html.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from typing import NewType

Html = NewType("Html", str)

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
{lead}
</header>
<main>
{content}
</main>
</body>
</html>
"""


def page(title: str, lead: Html, content: Iterable[Html]) -> str:
    """A whole page."""
    style = (resources.files("distbelief.report") / "page.css").read_text("utf-8")
    return _PAGE.format(title=escape(title), lead=lead, content="\n".join(content), style=style)


def joined(*parts: Html) -> Html:
    return Html("\n".join(parts))


def paragraph(text: str, kind: str = "") -> Html:
    """`kind`: a class of page.css."""
    return Html(f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>")


def section(title: str, *content: Html) -> Html:
    return joined(Html(f"<section>\n<h2>{escape(title)}</h2>"), *content, Html("</section>"))


def side_by_side(*figures: Html) -> Html:
    """Figures in as many columns as there is room for."""
    return joined(Html('<div class="figures">'), *figures, Html("</div>"))


def figure(title: str, drawing: Html, legend: Html, note: str = "") -> Html:
    """A drawing under its title.

    Args:
        drawing: An SVG.
        legend: From `legend`, or empty.
        note: What one should know to read it.
    """
    below = f'<p class="note">{escape(note)}</p>' if note else ""
    caption = f"<figcaption>{escape(title)}</figcaption>"
    return Html(f"<figure>\n{caption}\n{legend}\n{drawing}\n{below}\n</figure>")


def legend(entries: Iterable[tuple[str, Html]]) -> Html:
    """Names beside their marks, each a small SVG."""
    items = "".join(f"<li>{mark}{escape(name)}</li>" for name, mark in entries)
    return Html(f'<ul class="legend">{items}</ul>')


def tiles(pairs: Iterable[tuple[str, str]]) -> Html:
    """The few numbers that matter most, large."""
    items = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs)
    return Html(f'<dl class="tiles">{items}</dl>')


def facts(pairs: Iterable[tuple[str, str]]) -> Html:
    """Names and values, a row each."""
    rows = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in pairs)
    return Html(f'<div class="scroll"><table class="facts">{rows}</table></div>')


def table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> Html:
    """A table of numbers, flush right; the first column names the row. `kind`: "words" if the last one is text."""
    first = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    inside = f"<thead><tr>{first}</tr></thead><tbody>{body}</tbody>"
    return Html(f'<div class="scroll"><table class="{kind}">{inside}</table></div>')


def notices(kind: str, lines: Iterable[str]) -> Html:
    """What a reader must not miss. `kind`: "good", "warning" or "bad"."""
    marks = {"good": "✓", "warning": "!", "bad": "✕"}
    items = "".join(f'<li><b aria-label="{kind}">{marks[kind]}</b> {escape(line)}</li>' for line in lines)
    return Html(f'<ul class="notices {kind}">{items}</ul>') if items else Html("")


def code(text: str) -> Html:
    """What one types or what a file holds, as it is."""
    return Html(f"<pre><code>{escape(text)}</code></pre>")


def folded(title: str, content: Html) -> Html:
    """Content that shows when one asks for it."""
    return Html(f"<details><summary>{escape(title)}</summary>\n{content}\n</details>")
