"""How Plotly draws an analysis's charts: fixed sizes that fit A4, colours that colour-blind people can distinguish.

A chart shows a bounded number of IDs and clips; the page says if it leaves some out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from search.analysis.differences import Distances, Spectrum
from search.analysis.embedding import ANOMALOUS_TEST, NORMAL_TEST, ROLES, TRAINING, UNKNOWN, Map, role_of
from search.analysis.findings import method_name
from search.analysis.separability import MethodResult, Scope
from search.analysis.statistics import Values
from search.evaluation.interval import Interval
from search.pages.colours import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION
from search.pages.plotly_style import LEGEND_BESIDE, lay_out, plain

#: More spectra than this in one chart hide one another.
MOST_SPECTRA = 8
#: A table of distances has room for this many groups of clips.
MOST_DISTANCES = 16
#: A map has this many colours for machine IDs; further ones are grey.
MOST_COLOURS = 7

_COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK, GREY)
_DASHES = ("solid", "dash", "dot", "dashdot")
_SYMBOLS = {TRAINING: "circle-open", UNKNOWN: "square-open", NORMAL_TEST: "circle", ANOMALOUS_TEST: "x"}


def methods(scope: Scope) -> go.Figure:
    """A line for each method: AUC and interval, the best at the top; the best and its ties are filled."""
    figure = go.Figure()
    leading = (scope.best, *scope.ties)
    for name, colour, symbol, rows in (
        ("the best, and those that tie with it", BLUE, "circle", leading),
        ("worse than the best", GREY, "circle-open", [m for m in scope.methods if m not in leading]),
    ):
        figure.add_scatter(
            x=[measured.auc for measured in rows],
            y=[method_name(measured.method) for measured in rows],
            mode="markers", name=name, marker={"size": 9, "color": colour, "symbol": symbol},
            error_x=_spread(rows) | {"color": colour, "thickness": 1.5, "width": 4},
            hovertemplate="%{y}: AUC %{x:.3f}<extra></extra>",
        )  # fmt: skip
    figure.add_vline(x=0.5, line={"color": BLACK, "dash": "dot", "width": 1})
    lay_out(figure, height=96 + 21 * len(scope.methods), x="AUC (0.5: guessing, 1: perfect) and 95 % interval", y=None)
    order = [method_name(measured.method) for measured in reversed(scope.methods)]
    lowest = min(_ends(measured).low for measured in scope.methods)
    figure.update_xaxes(range=[min(0.48, lowest - 0.02), 1.01])
    return figure.update_yaxes(categoryorder="array", categoryarray=order, showgrid=True)


def spectra(shown: Sequence[Spectrum], frequencies: Values, names: Sequence[str]) -> go.Figure:
    """Mean log-spectra, each with the range of one standard deviation from clip to clip around it."""
    figure = go.Figure()
    hertz = np.round(frequencies, 1)
    for place, (spectrum, name) in enumerate(zip(shown, names, strict=True)):
        colour, dash = _COLOURS[place % len(_COLOURS)], _DASHES[place % len(_DASHES)]
        low, high = spectrum.mean - spectrum.spread, spectrum.mean + spectrum.spread
        figure.add_scatter(
            x=np.concatenate([hertz, hertz[::-1]]), y=np.round(np.concatenate([high, low[::-1]]), 1), fill="toself",
            mode="none", fillcolor=_faint(colour), hoverinfo="skip", legendgroup=name, showlegend=False,
        )  # fmt: skip
        figure.add_scatter(
            x=hertz, y=np.round(spectrum.mean, 1), mode="lines", name=plain(name), legendgroup=name,
            line={"color": colour, "width": 1.4, "dash": dash},
            hovertemplate="%{x:.0f} Hz: %{y:.1f} dB<extra>" + plain(name) + "</extra>",
        )  # fmt: skip
    lay_out(figure, height=330, x="frequency, Hz", y="mean level, dB")
    figure.update_layout(showlegend=True)
    ticks = [hz for hz in (20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000) if hertz[0] <= hz <= hertz[-1]]
    labels = [f"{hz // 1000}k" if hz >= 1000 else str(hz) for hz in ticks]
    return figure.update_xaxes(type="log", tickvals=ticks, ticktext=labels)


def distances(shown: Distances, *, largest: float) -> go.Figure:
    """A table of distances, dark where they are large; `largest` is that of all tables, so that shades compare."""
    names = [plain(name) for name in shown.names[:MOST_DISTANCES]]
    table = shown.table[:MOST_DISTANCES, :MOST_DISTANCES]
    figure = go.Figure()
    figure.add_heatmap(
        z=np.round(table, 3), x=names, y=names, colorscale=[[0, "#FFFFFF"], [1, BLUE]],
        zmin=0, zmax=1.25 * max(largest, 1.0),
        text=[["n/a" if np.isnan(cell) else f"{cell:.1f}" for cell in row] for row in table], texttemplate="%{text}",
        textfont={"size": 11}, showscale=False, xgap=1, ygap=1, hovertemplate="%{y} and %{x}: %{text}<extra></extra>",
    )  # fmt: skip
    lay_out(figure, height=70 + 26 * len(names), x=None, y=None)
    figure.update_xaxes(showgrid=False, type="category", side="top", tickangle=0 if len(names) < 9 else -40)
    figure.update_yaxes(showgrid=False, type="category", autorange="reversed")
    return figure.update_layout(margin={"t": 34, "b": 10})


def clip_map(shown: Map) -> go.Figure:
    """A map of clips, with a colour for each machine ID and a mark for each role."""
    figure = go.Figure()
    ids = sorted({clip.machine_id for clip in shown.clips})
    colours = dict(zip(ids, _COLOURS[:MOST_COLOURS], strict=False))
    roles = [role for role in ROLES if any(role_of(clip) == role for clip in shown.clips)]
    for role in roles:
        rows = [row for row, clip in enumerate(shown.clips) if role_of(clip) == role]
        of_rows = [colours.get(shown.clips[row].machine_id, GREY) for row in rows]
        figure.add_scatter(
            x=np.round(shown.places[rows, 0], 2), y=np.round(shown.places[rows, 1], 2), mode="markers",
            showlegend=False, marker=_marker(role, of_rows),
            text=[f"{plain(shown.clips[row].path.name)}, ID {plain(shown.clips[row].machine_id)}" for row in rows],
            hovertemplate="%{text}<extra>" + role + "</extra>",
        )  # fmt: skip
    # The legend explains colours and marks separately: a line for each pair would not fit.
    named = [(f"ID {plain(name)}", "machine ID", "circle", colour) for name, colour in colours.items()]
    if len(ids) > len(colours):
        named.append((f"{len(ids) - len(colours)} other IDs", "machine ID", "circle", GREY))
    for name, group, symbol, colour in [*named, *((role, "clip", _SYMBOLS[role], BLACK) for role in roles)]:
        figure.add_scatter(
            x=[None], y=[None], mode="markers", name=name, legendgroup=group, legendgrouptitle={"text": group},
            marker={"color": colour, "symbol": symbol, "size": 8, "line": {"color": colour, "width": 1.3}},
        )  # fmt: skip
    first, second = (f"{share:.0%} of the variance" for share in shown.explained)
    lay_out(figure, height=400, x=f"first component: {first}", y=f"second component: {second}")
    return figure.update_layout(
        showlegend=True,
        margin={"t": 10, "r": 150},
        legend=LEGEND_BESIDE | {"font": {"size": 12}, "itemclick": False},
    )


def _marker(role: str, colours: list[str]) -> dict[str, object]:
    return {"color": colours, "symbol": _SYMBOLS[role], "size": 8, "line": {"color": colours, "width": 1.3}}


def _spread(rows: Sequence[MethodResult]) -> dict[str, object]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [_ends(measured).high - measured.auc for measured in rows],
        "arrayminus": [measured.auc - _ends(measured).low for measured in rows],
    }


def _ends(measured: MethodResult) -> Interval:
    """The ends of the line that is drawn; without an interval, both are the AUC."""
    return measured.interval or Interval(measured.auc, measured.auc)


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, 0.13)"
