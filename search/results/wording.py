"""How values are written for people."""

from __future__ import annotations

from typing import Any

from optuna.trial import FrozenTrial

from search.evaluation.interval import Interval
from search.study.branches import without_family


def number(value: Any) -> str:
    """Format the value of a parameter: floats to three digits, truth values as in a study file."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def objective_value(objective: str, value: float) -> str:
    """Format the value of an objective: three decimals, or a whole number of parameters."""
    return f"{value:,.0f}" if objective == "parameters" else f"{value:.3f}"


def duration(seconds: float) -> str:
    """Format a time in two units at most: 3 h 12 min, 4 min 5 s; below ten seconds to a tenth."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def percent(share: float) -> str:
    """Format a share of 0 to 1: 34 %; below 1 %, unless it is 0."""
    return "< 1 %" if 0 < share < 0.005 else f"{share * 100:.0f} %"


def settings(trial: FrozenTrial) -> str:
    """Format the settings of a trial that have an effect: the family first, and its own without its name."""
    params = trial.params
    family = params.get("family")
    rest = without_family({name: value for name, value in params.items() if name != "family"}, family)
    listed = ", ".join(f"{name} {number(value)}" for name, value in rest.items())
    return listed if family is None else f"{family}: {listed}" if listed else str(family)


#: Stands in a table where there is no interval.
TOO_FEW = "too few clips"


def interval(of: Interval | None) -> str:
    """Format the interval of a metric."""
    return TOO_FEW if of is None else f"{of.low:.3f} to {of.high:.3f}"


def difference_interval(of: Interval | None) -> str:
    """Format the interval of a difference, with signs."""
    return TOO_FEW if of is None else f"{of.low:+.3f} to {of.high:+.3f}"


def interval_or_why(of: Interval | None, why: str) -> str:
    """Say what the 95 % interval of a metric is, or `why` there is none."""
    return why if of is None else f"95 % interval {interval(of)}"
