"""The style of Plotly's figures: fixed sizes that fit A4, colours that colour-blind people can distinguish."""

from __future__ import annotations

import html

import plotly.graph_objects as go

from search.pages.colours import BLACK, GREY, PALE

WIDTH = 680  # pixels: the width of A4 within margins of 15 mm

#: A legend beside the figure, for names that do not fit in a line above it.
LEGEND_BESIDE = {"orientation": "v", "x": 1.02, "y": 1, "yanchor": "top"}


def lay_out(figure: go.Figure, *, height: int, x: str | None, y: str | None) -> go.Figure:
    """The figure with these axis titles and this height (pixels)."""
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
    """The name, escaped so that it is shown as it is: Plotly takes tags in its texts for markup."""
    return html.escape(name, quote=False)
