"""How Plotly draws a report's charts: fixed sizes that fit A4, colours that colour-blind people can distinguish.

AUC : on the validation clips, the mean over machine IDs, between 0 and 1; 0.5 is guessing.
A chart shows a bounded number of trials and machine IDs; its caption says if it leaves some out.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from optuna.trial import FrozenTrial
from plotly.subplots import make_subplots
from sklearn.metrics import roc_curve

from features.clips.clip import ANOMALY, NORMAL
from models.scoring.scores import Scores
from search.evaluation.evaluate import IdMetrics
from search.evaluation.interval import Interval
from search.evaluation.metrics import MAX_FALSE_POSITIVE_RATE
from search.evaluation.truth import Truth, scores_by_id
from search.pages.colours import BLACK, BLUE, GREEN, GREY, ORANGE, PALE, PURPLE, SKY, VERMILION
from search.pages.even_choice import even_choice
from search.pages.plotly_style import LEGEND_BESIDE, lay_out, plain
from search.results.status import worth
from search.results.wording import interval

#: More curves than this hide one another.
MOST_CURVES = 60
#: Of more machine IDs than this, those with the lowest AUC are shown.
MOST_IDS = 9

_COLOURS = (BLUE, VERMILION, GREEN, ORANGE, SKY, PURPLE)
_DASHES = ("solid", "dash", "dot")
_COLUMNS = 3
_MANY = 300  # more dots than this are drawn smaller


def intervals(rows: Sequence[tuple[str, float, Interval | None]], *, measure: str, guessing: float | None) -> go.Figure:
    """A dot for each value, with its name and its 95 % interval if it has one.

    `measure` names the metric, `guessing` is its value by chance.
    """
    figure = go.Figure()
    for (name, value, of), colour in zip(reversed(rows), (GREY, BLUE)[-len(rows) :], strict=True):
        low, high = of or (value, value)
        beside = "top left" if value > 0.95 else "top center"  # the axis ends at 1
        spread_in_words = "" if of is None else f", 95 % interval {interval(of)}"
        spread = {"type": "data", "symmetric": False, "array": [high - value], "arrayminus": [value - low]}
        figure.add_scatter(
            x=[value], y=[name], mode="markers+text", text=[f"{value:.3f}"], textposition=beside,
            marker={"size": 12, "color": colour}, error_x=spread | {"color": colour, "thickness": 3, "width": 7},
            hovertemplate=f"{measure} {value:.3f}{spread_in_words}<extra></extra>",
        )  # fmt: skip
    lowest = min(value if of is None else of.low for _, value, of in rows)
    scale = "1: perfect"
    if guessing is not None:
        figure.add_vline(x=guessing, line={"color": BLACK, "dash": "dot", "width": 1})
        scale = f"{guessing:g}: guessing, {scale}"
    with_interval = " and 95 % interval" if any(of is not None for *_, of in rows) else ""
    lay_out(figure, height=60 + 48 * len(rows), x=f"{measure} ({scale}){with_interval}", y=None)
    figure.update_xaxes(range=[min(0.48, lowest - 0.02), 1.01])
    figure.update_yaxes(showgrid=False, range=[-0.5, len(rows) - 0.3])
    return figure.update_layout(showlegend=False, margin={"t": 8})


def history(
    complete: Sequence[FrozenTrial],
    pruned: Sequence[FrozenTrial],
    *,
    ties: Collection[int],
    baseline: float | None,
    measure: str,
) -> go.Figure:
    """Each trial's value in the order of the trials (a pruned one's where it stopped); a line for the best so far."""
    ordered = sorted(complete, key=lambda trial: trial.number)
    stopped = [(trial.number, worth(trial)) for trial in pruned if trial.values]
    figure = go.Figure()
    _dots(figure, stopped, name="pruned, where it was stopped", colour=GREY, symbol="x-thin")
    leading = {*ties, *(trial.number for trial in complete[:1])}
    for name, colour, symbol, leads in (
        ("complete", SKY, "circle-open", False),
        ("complete: the best, and its ties", BLUE, "circle", True),
    ):
        points = [(trial.number, worth(trial)) for trial in ordered if (trial.number in leading) == leads]
        _dots(figure, points, name=name, colour=colour, symbol=symbol)
    if ordered:
        best = np.maximum.accumulate([worth(trial) for trial in ordered])
        figure.add_scatter(
            x=[trial.number for trial in ordered], y=best, mode="lines", name="best so far", hoverinfo="skip",
            line={"color": BLACK, "width": 1.5, "shape": "hv"},
        )  # fmt: skip
    if baseline is not None:
        _baseline(figure, baseline)
    return lay_out(figure, height=340, x="trial", y=f"validation {measure}")


def trade_offs(complete: Sequence[FrozenTrial], front: Sequence[FrozenTrial], *, names: Sequence[str]) -> go.Figure:
    """Each complete trial's first two objectives; the best trade-offs are joined by a line. `names` title the axes."""
    figure = go.Figure()
    of_front = {trial.number for trial in front}
    others = [trial for trial in complete if trial.number not in of_front]
    leading = sorted(front, key=lambda trial: trial.values[1])
    for trials, name, mode, colour in (
        (others, "other complete trials", "markers", SKY),
        (leading, "the best trade-offs", "lines+markers", BLUE),
    ):
        figure.add_scatter(
            x=[trial.values[1] for trial in trials], y=[trial.values[0] for trial in trials], name=name, mode=mode,
            text=[f"trial {trial.number}" for trial in trials], marker={"color": colour, "size": 8},
            line={"color": colour, "width": 1, "dash": "dot"},
            hovertemplate="%{text}: %{y:.3f}, %{x:.4g}<extra></extra>",
        )  # fmt: skip
    return lay_out(figure, height=340, x=names[1], y=f"validation {names[0]}")


def importances(shares: Mapping[str, float]) -> go.Figure:
    """A bar for each setting, the most important one first."""
    rows = sorted(shares.items(), key=lambda item: item[1])
    figure = go.Figure()
    figure.add_bar(
        x=[share for _, share in rows], y=[plain(name) for name, _ in rows], orientation="h", marker={"color": BLUE},
        text=[f"{share:.0%}" for _, share in rows], textposition="outside", cliponaxis=False, hoverinfo="skip",
    )  # fmt: skip
    lay_out(figure, height=60 + 28 * len(rows), x="share of the importance", y=None)
    figure.update_xaxes(range=[0, 1.15 * max(shares.values())], tickformat=".0%")
    return figure.update_layout(margin={"t": 8}, bargap=0.35)


def curves(
    complete: Sequence[FrozenTrial], pruned: Sequence[FrozenTrial], *, baseline: int | None, step: str, measure: str
) -> tuple[go.Figure, int]:
    """The values after each step (epoch or fold) of the best trial, the baseline, and an even choice of the others.

    `complete` has the best trial first. Returns the figure, and the number of trials that it shows.
    """
    named = [trial for trial in complete if trial is complete[0] or trial.number == baseline]
    names = {trial.number for trial in named}
    others = sorted((*complete, *pruned), key=lambda trial: trial.number)
    chosen = even_choice([trial for trial in others if trial.number not in names], MOST_CURVES - len(named))
    is_complete = {trial.number for trial in complete}
    figure = go.Figure()
    shown: set[str] = set()
    for trial in chosen:
        name, colour = ("complete", SKY) if trial.number in is_complete else ("pruned", GREY)
        _curve(figure, trial, name=name, colour=colour, width=1, ends="x-thin" if name == "pruned" else None)
        figure.data[-1].showlegend = name not in shown
        shown.add(name)
    for trial in reversed(named):
        if trial is complete[0]:
            _curve(figure, trial, name=f"best: trial {trial.number}", colour=BLUE, width=3)
        else:
            _curve(figure, trial, name="baseline", colour=ORANGE, width=3, dash="dash")
    return lay_out(figure, height=340, x=step, y=f"validation {measure}"), len(chosen) + len(named)


def histograms(scores: Scores, truth: Truth, ids: Mapping[str, IdMetrics]) -> go.Figure:
    """The scores of these machine IDs' clips, normal beside anomalous ones, a panel for each ID."""
    by_id = scores_by_id(scores, truth)
    columns = min(_COLUMNS, len(ids))
    rows = math.ceil(len(ids) / columns)
    titles = [f"{plain(name)}<br>AUC {of_id.auc:.3f}" for name, of_id in ids.items()]
    figure = make_subplots(rows, columns, subplot_titles=titles, horizontal_spacing=0.09, vertical_spacing=0.36 / rows)
    for place, name in enumerate(ids):
        id_scores, labels = by_id[name]
        edges = np.histogram_bin_edges(id_scores, bins=12)
        for label, kind, marker in (
            (NORMAL, "normal", {"color": BLUE, "opacity": 0.65}),
            # Hatched: in print without colour, both would be the same grey.
            (ANOMALY, "anomalous", {
                "color": VERMILION, "line": {"color": VERMILION, "width": 1},
                "pattern": {"shape": "/", "fgcolor": VERMILION, "bgcolor": "rgba(213, 94, 0, 0.15)", "size": 6},
            }),
        ):  # fmt: skip
            counts, _ = np.histogram(id_scores[labels == label], bins=edges)
            figure.add_bar(
                x=(edges[:-1] + edges[1:]) / 2, y=counts, width=np.diff(edges), name=kind, legendgroup=kind,
                showlegend=place == 0, row=place // columns + 1, col=place % columns + 1, marker=marker,
                hovertemplate=f"{kind}: %{{y}} clips<extra></extra>",
            )  # fmt: skip
    above, panels = 82, 175 * rows
    lay_out(figure, height=above + panels + 52, x=None, y=None)
    figure.update_xaxes(nticks=4, tickangle=0, tickformat="~g")
    figure.update_xaxes(title_text="score", row=rows)
    figure.update_yaxes(title_text="clips", col=1)
    figure.update_yaxes(rangemode="tozero", nticks=5)
    figure.update_annotations(font={"size": 11})
    return figure.update_layout(barmode="overlay", bargap=0, margin={"t": above}, legend={"y": 1 + 42 / panels})


def roc(scores: Scores, truth: Truth, ids: Mapping[str, IdMetrics]) -> go.Figure:
    """Detected anomalies against false alarms, a curve for each of these machine IDs."""
    by_id = scores_by_id(scores, truth)
    figure = go.Figure()
    figure.add_vrect(x0=0, x1=MAX_FALSE_POSITIVE_RATE, fillcolor=PALE, opacity=0.6, line_width=0, layer="below")
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", name="guessing", line={"color": BLACK, "dash": "dot", "width": 1}
    )
    for place, name in enumerate(ids):
        id_scores, labels = by_id[name]
        false_alarms, detected, _ = roc_curve(labels, id_scores)
        dash = _DASHES[place // len(_COLOURS) % len(_DASHES)]
        figure.add_scatter(
            x=false_alarms, y=detected, mode="lines", name=plain(name),
            line={"color": _COLOURS[place % len(_COLOURS)], "dash": dash, "width": 2},
            hovertemplate="%{x:.0%} false alarms: %{y:.0%} of the anomalies<extra>" + plain(name) + "</extra>",
        )  # fmt: skip
    lay_out(figure, height=400, x="false alarms: share of normal clips", y="detected: share of anomalous clips")
    figure.update_xaxes(range=[-0.01, 1.01], tickformat=".0%", constrain="domain")
    figure.update_yaxes(range=[-0.01, 1.01], tickformat=".0%", scaleanchor="x", constrain="domain")
    return figure.update_layout(margin={"t": 10}, legend=LEGEND_BESIDE)


def hardest(per_id: Mapping[str, IdMetrics]) -> dict[str, IdMetrics]:
    """The machine IDs that charts show: all of them, or those with the lowest AUC; in the order of their names."""
    chosen = sorted(per_id, key=lambda name: (per_id[name].auc, name))[:MOST_IDS]
    return {name: per_id[name] for name in sorted(chosen)}


def _dots(figure: go.Figure, points: Sequence[tuple[int, Any]], *, name: str, colour: str, symbol: str) -> None:
    size = 7 if len(points) <= _MANY else 4
    if points:
        figure.add_scatter(
            x=[number for number, _ in points], y=[value for _, value in points], mode="markers", name=name,
            marker={"color": colour, "symbol": symbol, "size": size, "line": {"color": colour, "width": 1.5}},
            hovertemplate="trial %{x}: %{y:.3f}<extra></extra>",
        )  # fmt: skip


def _curve(
    figure: go.Figure,
    trial: FrozenTrial,
    *,
    name: str,
    colour: str,
    width: float,
    dash: str = "solid",
    ends: Any = None,
) -> None:
    """A trial's values over its epochs; `ends` is the mark of the last one."""
    epochs = sorted(trial.intermediate_values)
    is_point = len(epochs) == 1
    sizes = [0] * (len(epochs) - 1) + [8 if ends else 6 if is_point else 0]
    figure.add_scatter(
        x=epochs, y=[_finite(trial.intermediate_values[epoch]) for epoch in epochs], mode="lines+markers", name=name,
        legendgroup=name, line={"color": colour, "width": width, "dash": dash},
        marker={"size": sizes, "symbol": ends or "circle", "line": {"color": colour, "width": 1.5 if ends else 0}},
        hovertemplate=f"trial {trial.number}, epoch %{{x}}: %{{y:.3f}}<extra></extra>",
    )  # fmt: skip


def _baseline(figure: go.Figure, value: float) -> None:
    figure.add_hline(
        y=value, line={"color": ORANGE, "dash": "dash", "width": 2}, annotation_text=f"baseline {value:.3f}",
        annotation_position="bottom right", annotation_font={"color": BLACK, "size": 11},
    )  # fmt: skip


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
