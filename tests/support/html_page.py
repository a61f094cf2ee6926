"""An HTML page as a browser reads it: its text, its tables, its charts."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

from plotly.offline import get_plotlyjs

_VOID = {"meta", "br", "wbr", "img", "link", "base"}


class Page(HTMLParser):
    """A page as a browser reads it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        html = html.replace(get_plotlyjs(), "")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.blocks: list[str] = []  # the contents of each <pre>
        self.rows: list[list[str]] = []
        self.figures: dict[str, dict[str, Any]] = {}
        self._open: list[str] = []
        self._words: list[str] = []
        self.feed(html)
        self.text = " ".join("".join(self._words).split())
        for script in self.scripts:
            if drawn := re.match(r'draw\("(\w+)", (.*)\);$', script, re.DOTALL):
                self.figures[drawn[1]] = json.loads(drawn[2])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._words.append(" ")
        if tag not in _VOID:
            self._open.append(tag)
        for name, contents in (("script", self.scripts), ("pre", self.blocks)):
            if tag == name:
                contents.append("")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, "every element ends where it should"

    def handle_data(self, data: str) -> None:
        if "script" in self._open:
            self.scripts[-1] += data
        elif "style" not in self._open:
            self._words.append(data)
            if "pre" in self._open:
                self.blocks[-1] += data
            if {"td", "th"} & set(self._open):
                self.rows[-1][-1] += data

    def row(self, first: str) -> list[str]:
        """The cells of the row whose first cell is `first`."""
        (row,) = [row for row in self.rows if row and row[0] == first]
        return row
