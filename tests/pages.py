"""A page as a browser reads it: its texts, and whether it is well formed and whole by itself."""

from __future__ import annotations

import re
from html.parser import HTMLParser

FETCHING = {"src", "href", "srcset", "action", "data", "poster", "xlink:href", "background"}


class Page(HTMLParser):
    """Parses a page; raises AssertionError where it is not well formed or would load anything.

    Attributes:
        texts: By tag, what stands in each element of that kind, in order.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts: dict[str, list[str]] = {}
        self._open: list[tuple[str, list[str]]] = []
        self.feed(text)
        self.close()
        assert self._open == []
        assert not re.search(r"url\(|@import|https?://", text)
        assert "Content-Security-Policy" in text

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in {"script", "link", "iframe", "img", "object", "embed", "base", "form"}, tag
        for name, value in attrs:
            assert name not in FETCHING, (tag, name, value)
            assert not name.startswith("on"), (tag, name)
            assert "nan" not in (value or "").lower().split(" "), (tag, name, value)
        if tag != "meta":  # which has no end
            self._open.append((tag, []))

    def handle_endtag(self, tag: str) -> None:
        opened, texts = self._open.pop()
        assert opened == tag, f"<{opened}> ended by </{tag}>"
        self.texts.setdefault(tag, []).append("".join(texts).strip())

    def handle_data(self, data: str) -> None:
        for _, texts in self._open:
            texts.append(data)

    def tiles(self) -> dict[str, str]:
        """Name to value."""
        return dict(zip(self.texts["dt"], self.texts["dd"], strict=True))
