"""How Plotly's figures look: fixed sizes that fit A4, colours that colour-blind eyes tell apart."""

from __future__ import annotations

import html

import plotly.graph_objects as go

from search.pages.colours import BLACK, GREY, PALE

WIDTH = 680  # pixels: what is left of A4 within margins of 15 mm

#: Beside the figure, where a line above it would not hold all names.
LEGEND_BESIDE = {"orientation": "v", "x": 1.02, "y": 1, "yanchor": "top"}


def lay_out(figure: go.Figure, *, height: int, x: str | None, y: str | None) -> go.Figure:
    """A figure with these axis titles, of this height (pixels)."""
    axis = {
        "gridcolor": PALE, "linecolor": GREY, "ticks": "outside", "tickcolor": GREY, "zeroline": False,
        "title_font_size": 13, "title_standoff": 8, "automargin": True,
    }  # fmt: skip
    figure.update_xaxes(axis, title_text=x)
    figure.update_yaxes(axis, title_text=y)
    return figure.update_layout(
        template="none", width=WIDTH, height=height, margin={"l": 62, "r": 20, "t": 40, "b": 52}, hovermode="closest",
        font={"family": "system-ui, sans-serif", "size": 13, "color": BLACK},
        paper_bgcolor="white", plot_bgcolor="white", showlegend=len(figure.data) > 1,
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
    )  # fmt: skip


def plain(name: str) -> str:
    """A name as it stands: Plotly takes tags in its texts for markup."""
    return html.escape(name, quote=False)
