"""HTML pages that need no network: one file each, for the screen and for paper.

base.html    the layout of all pages; a room's template extends it
charts.html  macros: the scripts that charts need, and a chart
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import jinja2
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from search.pages.plotly_style import WIDTH


@dataclass(frozen=True)
class Chart:
    """A figure with its title and caption; without a figure, the caption says why there is none."""

    key: str
    title: str
    caption: str
    drawn: go.Figure | None = None

    @property
    def json(self) -> str:
        """The figure for a script element: Plotly writes < and > as escapes."""
        assert self.drawn is not None
        return str(self.drawn.to_json())


@cache
def template(room: str, name: str) -> jinja2.Template:
    """A template from the package `room`, or from this one. Each value is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(room, ""), jinja2.PackageLoader(__package__, "")]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(width=WIDTH, plotlyjs=get_plotlyjs)
    return environment.get_template(name)
