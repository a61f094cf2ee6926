"""How values are written for people."""

from __future__ import annotations

from typing import Any

from search.evaluation.interval import Interval


def number(value: Any) -> str:
    """Format the value of a parameter: floats to three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def objective_value(objective: str, value: float) -> str:
    """Format the value of an objective: three decimals, or a whole number of parameters."""
    return f"{value:,.0f}" if objective == "parameters" else f"{value:.3f}"


def duration(seconds: float) -> str:
    """Format a time in two units at most: 3 h 12 min, 4 min 5 s."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def interval(of: Interval) -> str:
    """Format the interval of a metric."""
    return f"{of.low:.3f} to {of.high:.3f}"


def difference_interval(of: Interval) -> str:
    """Format the interval of a difference, with signs."""
    return f"{of.low:+.3f} to {of.high:+.3f}"
