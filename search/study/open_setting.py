"""One open setting: the range of a study file, its parameter, and the rules that a range must keep."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import BaseTrial

from features.did_you_mean import did_you_mean

Path = tuple[str | int, ...]

INTERVAL_KEYS = ("low", "high", "log", "step")


class RangeError(Exception):
    """A range breaks a rule; the document adds the place."""

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(message)
        self.path = path


def is_range(value: object) -> bool:
    """Whether a value of the tree is a range, and not a block whose settings or members have such names."""
    if not isinstance(value, Mapping):
        return False
    return any(key in value and not isinstance(value[key], Mapping) for key in ("low", "high", "choices"))


def values_of(content: Any) -> list[Any]:
    """Return the choices of a setting, or the value that it has."""
    return list(content["choices"]) if is_range(content) and "choices" in content else [content]


def range_hint(content: Mapping[str, Any]) -> str:
    """Return a hint with the form of a range, and with the key that was perhaps meant."""
    known = (*INTERVAL_KEYS, "choices")
    near = next(filter(None, (did_you_mean(key, known) for key in content if key not in known)), "")
    return f"a range is {{low, high}} with log or step, or {{choices: […]}}{near}"


@dataclass(frozen=True)
class Facts:
    """What the schema knows of a setting."""

    takes_reals: bool = False
    default: Any = None
    #: Values that stand for a range of it inside a trial; None for a setting that changes the training.
    grid: tuple[Any, ...] | None = None
    #: Names of the settings whose values decide whether it has an effect.
    beside: frozenset[str] = frozenset()


@dataclass(frozen=True)
class OpenSetting:
    """An open setting and its parameter."""

    path: Path
    name: str
    distribution: BaseDistribution
    facts: Facts = Facts()

    @property
    def is_scoring(self) -> bool:
        """Whether a trial closes it after its training: it changes only what is made of the training."""
        return self.facts.grid is not None

    @property
    def scoring_values(self) -> list[Any]:
        """The values that a trial tries on its training: every choice, or the grid's values in the range."""
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            return list(d.choices)
        assert isinstance(d, IntDistribution | FloatDistribution)
        kind = int if isinstance(d, IntDistribution) else float
        inside = [value for value in map(kind, self.facts.grid or ()) if d._contains(float(value))]
        return inside or list(dict.fromkeys([d.low, d.high]))

    @property
    def branch(self) -> int | None:
        """The position of its branch in a list; None for a setting of all branches, or of the only family."""
        return self.path[1] if self.path[0] == "model" and isinstance(self.path[1], int) else None

    @property
    def extremes(self) -> list[Any]:
        """The values with which the range is checked: both ends, or every choice."""
        if isinstance(self.distribution, CategoricalDistribution):
            return list(self.distribution.choices)
        assert isinstance(self.distribution, IntDistribution | FloatDistribution)
        return [self.distribution.low, self.distribution.high]

    @property
    def at_rest(self) -> Any:
        """Its value where it has no effect: the default, or the first value of a range without it."""
        d, default = self.distribution, self.facts.default
        if isinstance(d, CategoricalDistribution):
            is_inside = default in d.choices
        else:
            is_inside = type(default) in (int, float) and d._contains(float(default))
        return default if is_inside else self.extremes[0]

    @property
    def in_words(self) -> str:
        """The range in words: every choice, or both ends, the scale and the step."""
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            return ", ".join(map(_shown, d.choices))
        assert isinstance(d, IntDistribution | FloatDistribution)
        log = ", logarithmic" if d.log else ""
        step = f", in steps of {_shown(d.step)}" if d.step not in (None, 1) else ""
        return f"{_shown(d.low)} to {_shown(d.high)}{log}{step}"

    def suggest(self, trial: BaseTrial) -> Any:
        """Return the trial's value for this setting."""
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            return trial.suggest_categorical(self.name, d.choices)
        if isinstance(d, IntDistribution):
            return trial.suggest_int(self.name, d.low, d.high, step=d.step, log=d.log)
        assert isinstance(d, FloatDistribution)
        return trial.suggest_float(self.name, d.low, d.high, step=d.step, log=d.log)


def open_setting(path: Path, name: str, content: Mapping[str, Any], facts: Facts) -> OpenSetting:
    """Return the open setting that a range describes.

    Raises RangeError with the place of the first rule that the range breaks.
    """
    if "choices" in content:
        return OpenSetting(path, name, CategoricalDistribution(_choices(path, content)), facts)
    unknown = [key for key in content if key not in INTERVAL_KEYS]
    missing = [key for key in ("low", "high") if key not in content]
    if unknown or missing:
        got = f"got {', '.join(map(str, content))}"
        place = (*path, str(unknown[0])) if unknown else path
        raise RangeError(place, f"does not fit, {got}; {range_hint(content)}")
    low, high, log, step = (content.get(key) for key in INTERVAL_KEYS)
    log = False if log is None else log
    for key, number in (("low", low), ("high", high), ("step", step)):
        if isinstance(number, bool) or not (isinstance(number, int | float) or (key == "step" and number is None)):
            raise RangeError((*path, key), f"must be a number, but got {number!r}")
        if number is not None and not math.isfinite(number):
            raise RangeError((*path, key), f"must be finite, but got {number}")
    if not isinstance(log, bool):
        raise RangeError((*path, "log"), f"must be true or false, but got {log!r}")
    assert isinstance(low, int | float) and isinstance(high, int | float)
    got = f"but got low = {low}, high = {high}"
    if low > high:
        raise RangeError(path, f"low ≤ high must hold, {got}")
    if log and low <= 0:
        raise RangeError(path, f"low > 0 must hold for log: true, {got}")
    if log and step is not None:
        raise RangeError(path, "log and step exclude each other: give one of them")
    if step is not None and step <= 0:
        raise RangeError((*path, "step"), f"step > 0 must hold, but got {step}")
    if step is not None and not math.isclose((high - low) / step, round((high - low) / step), abs_tol=1e-8):
        raise RangeError((*path, "step"), f"steps of {step} must lead from low to high, {got}")
    if not facts.takes_reals and isinstance(low, int) and isinstance(high, int) and isinstance(step, int | None):
        return OpenSetting(path, name, IntDistribution(low, high, log=log, step=1 if step is None else step), facts)
    return OpenSetting(path, name, FloatDistribution(float(low), float(high), log=log, step=step), facts)


def _choices(path: Path, content: Mapping[str, Any]) -> list[Any]:
    choices = content["choices"]
    if len(content) > 1 or not isinstance(choices, list) or not choices:
        raise RangeError(path, f"choices must be a list of at least one value and stand alone, but got {dict(content)}")
    for choice in choices:
        if not isinstance(choice, bool | int | float | str | None):
            is_stack = isinstance(choice, list) and all(isinstance(part, str) for part in choice)
            remedy = f": write {'+'.join(choice)}" if is_stack else ""
            raise RangeError((*path, "choices"), f"a choice must be a number or a text, but got {choice}{remedy}")
    if len({(type(choice), choice) for choice in choices}) < len(choices):
        raise RangeError((*path, "choices"), f"each choice may stand once, but got {choices}")
    return choices


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
