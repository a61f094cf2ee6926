"""The search space of a study: its open settings, their ranges and their parameter names.

A setting is a value, `{low, high, log, step}` or `{choices: […]}`. `model:` is the block of one family or a list of
blocks; the families of a list are the branches of a conditional space, chosen by the parameter `family`. Members of an
ensemble have blocks of their own, with settings that may be open, too: model.members.chroma.features.n_chroma.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import BaseTrial

from features.did_you_mean import did_you_mean

Path = tuple[str | int, ...]
Tree = dict[str, Any]

INTERVAL_KEYS = ("low", "high", "log", "step")
#: Settings that cannot be searched.
CLOSED_FOR_GOOD = (
    ("study",),
    ("search",),
    ("validation",),
    ("corpus", "root"),
    ("corpus", "machines"),  # trials would be validated on different clips
    ("features", "sample_rate"),  # a property of the clips
    ("features", "channel"),
    ("features", "resample"),
    ("baseline",),
    ("from",),
)


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


def without_member(path: Path) -> Path:
    """Return the path that a member's setting would have in a recipe of its own."""
    depth = path.index("members") if "members" in path else -2
    return path[depth + 2 :]


def ranges_in(tree: Mapping[str, Any], path: Path = ()) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Yield every range of a tree, with its path."""
    for key, value in tree.items():
        if is_range(value):
            yield (*path, key), value
        elif isinstance(value, Mapping):
            yield from ranges_in(value, (*path, key))
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, Mapping):
                    yield from ranges_in(item, (*path, key, index))


def range_hint(content: Mapping[str, Any]) -> str:
    """Return a hint with the form of a range, and with the key that was perhaps meant."""
    known = (*INTERVAL_KEYS, "choices")
    near = next(filter(None, (did_you_mean(key, known) for key in content if key not in known)), "")
    return f"a range is {{low, high}} with log or step, or {{choices: […]}}{near}"


def put(tree: Any, path: Path, value: Any) -> None:
    """Replace the value at a path."""
    for key in path[:-1]:
        tree = tree[key]
    tree[path[-1]] = value


@dataclass(frozen=True)
class OpenSetting:
    """An open setting and its parameter."""

    path: Path
    name: str
    distribution: BaseDistribution
    #: Values that stand for the range inside a trial; None for a setting that changes the training.
    grid: tuple[Any, ...] | None = None

    @property
    def is_scoring(self) -> bool:
        """Whether a trial closes it after its training: it changes only what is made of the training."""
        return self.grid is not None

    @property
    def scoring_values(self) -> list[Any]:
        """The values that a trial tries on its training: every choice, or the grid's values in the range."""
        d = self.distribution
        if isinstance(d, CategoricalDistribution):
            return list(d.choices)
        assert isinstance(d, IntDistribution | FloatDistribution)
        kind = int if isinstance(d, IntDistribution) else float
        inside = [value for value in map(kind, self.grid or ()) if d._contains(float(value))]
        return inside or list(dict.fromkeys([d.low, d.high]))

    @property
    def branch(self) -> int | None:
        """The position of its family in a list; None for a setting of all families, or of the only one."""
        return self.path[1] if self.path[0] == "model" and isinstance(self.path[1], int) else None

    @property
    def extremes(self) -> list[Any]:
        """The values with which the range is checked: both ends, or every choice."""
        if isinstance(self.distribution, CategoricalDistribution):
            return list(self.distribution.choices)
        assert isinstance(self.distribution, IntDistribution | FloatDistribution)
        return [self.distribution.low, self.distribution.high]

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


@dataclass(frozen=True)
class Space:
    """The tree of a study, with its open settings."""

    tree: Tree
    families: tuple[str, ...]  # if there are several, the parameter `family` chooses one
    settings: tuple[OpenSetting, ...]

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return the distribution of every parameter, also of conditional ones."""
        parameters: dict[str, BaseDistribution] = {s.name: s.distribution for s in self.settings}
        if len(self.families) > 1:
            parameters["family"] = CategoricalDistribution(self.families)
        return parameters

    @property
    def has_trainings(self) -> bool:
        """Whether trials can differ in what they train."""
        return len(self.families) > 1 or not all(setting.is_scoring for setting in self.settings)

    def of_branch(self, branch: int) -> list[OpenSetting]:
        """Return the open settings of a family, those of all families included."""
        return [setting for setting in self.settings if setting.branch in (None, branch)]

    def suggest(self, trial: BaseTrial) -> int:
        """Let the trial suggest its family and all settings that change its training; return the family's position."""
        branch = self._branch(trial)
        for setting in self.of_branch(branch):
            if not setting.is_scoring:
                setting.suggest(trial)
        return branch

    def close(self, trial: BaseTrial) -> Tree:
        """Return the tree with the trial's values in place of ranges, and with the trial's family."""
        tree = copy.deepcopy(self.tree)
        branch = self._branch(trial)
        for setting in self.of_branch(branch):
            put(tree, setting.path, setting.suggest(trial))
        if isinstance(tree["model"], list):
            tree["model"] = tree["model"][branch]
        return tree

    def _branch(self, trial: BaseTrial) -> int:
        if len(self.families) == 1:
            return 0
        return self.families.index(trial.suggest_categorical("family", self.families))


def read_space(
    tree: Tree, *, is_real: Callable[[Path], bool], scoring_grid: Callable[[Path], Sequence[Any] | None]
) -> Space:
    """Read and check the ranges of a tree.

    `is_real` returns whether a setting takes real numbers. `scoring_grid` returns the values that stand for a range of
    a setting that a trial closes after its training, and None for any other setting.
    Raises RangeError with the path of the first broken rule.
    """
    families = _families(tree)
    ranges = list(ranges_in(tree))
    for path, _ in ranges:
        if any(without_member(path)[: len(closed)] == closed for closed in CLOSED_FOR_GOOD) or path[-1] == "family":
            raise RangeError(path, "holds a range, but this setting cannot be searched: give one value")
    names = parameter_names(tree)
    _check_names(names, families)
    settings = [
        replace(
            _open(path, names[path], content, real=is_real(path)),
            grid=None if (grid := scoring_grid(path)) is None else tuple(grid),
        )
        for path, content in ranges
    ]
    return Space(tree=tree, families=families, settings=tuple(settings))


def parameter_names(tree: Tree) -> dict[Path, str]:
    """Return the parameter name of every range, and of the list of families.

    It is the setting's own name; where several settings share it, the family or member comes first. Of a setting of
    `model:` and one of another block, such as `decay`, that of `model:` has its family first.
    """
    families = _families(tree)
    paths = [path for path, _ in ranges_in(tree)]
    shared = Counter(str(path[-1]) for path in paths)
    in_blocks = Counter(str(path[-1]) for path in paths if len(path) == 2)
    names: dict[Path, str] = {("model",): "family"} if len(families) > 1 else {}
    for path in paths:
        name = str(path[-1])
        if shared[name] > 1 and "members" in path:
            name = f"{path[path.index('members') + 1]}.{name}"
        elif shared[name] > 1 and len(path) == 3 and isinstance(path[1], int):
            name = f"{families[path[1]]}.{name}"
        elif path[0] == "model" and len(path) == 2 and in_blocks[name] > 1:
            name = f"{families[0]}.{name}"
        names[path] = name
    return names


def only_families(tree: Tree, kept: Sequence[int]) -> Tree:
    """Return a study's tree with only these families; the baseline is kept unless its family is removed."""
    names = parameter_names(tree)
    rest = copy.deepcopy(tree)
    rest["model"] = [rest["model"][branch] for branch in kept]
    new_names = parameter_names(rest)
    baseline = rest.get("baseline") or {}
    if "family" in baseline and baseline["family"] not in _families(rest):
        return rest | {"baseline": {}}
    moved = {}
    for path, name in names.items():
        if path[0] == "model" and len(path) > 1 and isinstance(path[1], int):
            path = ("model", kept.index(path[1]), *path[2:]) if path[1] in kept else ()
        if name in baseline and path in new_names:
            moved[new_names[path]] = baseline[name]
    return rest | {"baseline": moved}


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _families(tree: Tree) -> tuple[str, ...]:
    blocks = tree["model"] if isinstance(tree.get("model"), list) else [tree.get("model")]
    return tuple(str(block.get("family")) if isinstance(block, Mapping) else "" for block in blocks)


def _check_names(names: Mapping[Path, str], families: tuple[str, ...]) -> None:
    if not families:
        raise RangeError(("model",), "must be one family's block, or a list of at least one")
    first: dict[str, Path] = {}
    for path, name in names.items():
        if name in first:
            other = ".".join(map(str, first[name]))
            raise RangeError(
                path, f"two open settings would both be the parameter {name!r} (the other is {other}): close one"
            )
        first[name] = path
    for index, family in enumerate(families):
        if family in families[:index]:
            raise RangeError(("model", index), f"names the family {family} again: each may stand once in the list")


def _open(path: Path, name: str, content: Mapping[str, Any], *, real: bool) -> OpenSetting:
    if "choices" in content:
        return _choices(path, name, content)
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
    if not real and isinstance(low, int) and isinstance(high, int) and isinstance(step, int | None):
        return OpenSetting(path, name, IntDistribution(low, high, log=log, step=1 if step is None else step))
    return OpenSetting(path, name, FloatDistribution(float(low), float(high), log=log, step=step))


def _choices(path: Path, name: str, content: Mapping[str, Any]) -> OpenSetting:
    choices = content["choices"]
    if len(content) > 1 or not isinstance(choices, list) or not choices:
        raise RangeError(path, f"choices must be a list of at least one value and stand alone, but got {dict(content)}")
    for choice in choices:
        if not isinstance(choice, bool | int | float | str | None):
            raise RangeError((*path, "choices"), f"a choice must be a number or a text, but got {choice}")
    if len({(type(choice), choice) for choice in choices}) < len(choices):
        raise RangeError((*path, "choices"), f"each choice may stand once, but got {choices}")
    return OpenSetting(path, name, CategoricalDistribution(choices))
