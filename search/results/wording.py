"""How values are written where people read them."""

from __future__ import annotations

from typing import Any

from search.evaluation.interval import Interval


def number(value: Any) -> str:
    """A parameter's value, short."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def objective_value(objective: str, value: float) -> str:
    """An objective's value: figures to three digits, costs as they are."""
    return f"{value:,.0f}" if objective == "parameters" else f"{value:.3f}"


def interval(of: Interval) -> str:
    """The interval of a figure."""
    return f"{of.low:.3f} to {of.high:.3f}"


def difference_interval(of: Interval) -> str:
    """The interval of a difference, with signs."""
    return f"{of.low:+.3f} to {of.high:+.3f}"
