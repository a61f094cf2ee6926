"""The search space of a study: its open settings, their ranges and their parameter names.

A setting is a value, `{low, high, log, step}` or `{choices: […]}`. `model:` is the block of one family or a list of
blocks; those of a list are the branches of a conditional space (search.study.branches), and the parameter `family`
chooses one by its name. Members of an ensemble and branches have blocks of their own, with settings that may be open,
too: model.members.chroma.features.n_chroma.
"""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import BaseTrial

from search.study.branches import close_branch, names_in_words, names_of, replaces
from search.study.open_setting import OpenSetting, Path, RangeError, is_range, open_setting

Tree = dict[str, Any]

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
    ("machine_types",),  # a search closes what stands there by search.scoring_for
    ("baseline",),
    ("from",),
)


def in_branch(path: Path) -> Path:
    """Return the path that a setting has in the closed tree of its branch."""
    if path[:1] != ("model",) or len(path) < 3 or not isinstance(path[1], int):
        return path
    return path[2:] if path[2] == "features" else ("model", *path[2:])


def without_member(path: Path) -> Path:
    """Return the path that a member's setting would have in a recipe of its own."""
    return path[path.index("members") + 2 :] if "members" in path else in_branch(path)


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


def put(tree: Any, path: Path, value: Any) -> None:
    """Replace the value at a path."""
    for key in path[:-1]:
        tree = tree[key]
    tree[path[-1]] = value


@dataclass(frozen=True)
class Space:
    """The tree of a study, with its open settings."""

    tree: Tree
    families: tuple[str, ...]  # names of the branches; if there are several, the parameter `family` chooses one
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

    @property
    def families_in_words(self) -> str:
        """The names of the branches, each with its family if that is another name."""
        return ", ".join(names_in_words(self.tree))

    def settings_of(self, branch: int) -> list[OpenSetting]:
        """Return the open settings of a branch: its own, and those of the study that its features do not replace."""
        return [
            setting
            for setting in self.settings
            if setting.branch == branch
            or (
                setting.branch is None
                and not (setting.path[0] == "features" and replaces(self.tree, branch, str(setting.path[-1])))
            )
        ]

    def combinations(self, *, ahead: Mapping[str, Any]) -> list[Tree]:
        """Return every combination of the extremes of settings that change a training, in a study of one family.

        By parameter name; those with the values of `ahead` come first.
        """
        settings = [setting for setting in self.settings_of(0) if not setting.is_scoring]
        names = [setting.name for setting in settings]
        extremes = itertools.product(*(setting.extremes for setting in settings))
        combinations = [dict(zip(names, values, strict=True)) for values in extremes]
        wanted = {name: value for name, value in ahead.items() if name in names}
        return sorted(combinations, key=lambda combination: not wanted.items() <= combination.items())

    def suggest(self, trial: BaseTrial) -> int:
        """Let the trial suggest its branch and all settings that change its training; return the branch."""
        branch = self._branch(trial)
        for setting in self.settings_of(branch):
            if not setting.is_scoring:
                setting.suggest(trial)
        return branch

    def close(self, trial: BaseTrial) -> Tree:
        """Return the tree with the trial's values in place of ranges, and with the trial's branch."""
        branch = self._branch(trial)
        return self.closed(branch, {setting.path: setting.suggest(trial) for setting in self.settings_of(branch)})

    def closed(self, branch: int, values: Mapping[Path, Any]) -> Tree:
        """Return the tree of a branch, with a value for each of the branch's settings."""
        tree = copy.deepcopy(self.tree)
        for path, value in values.items():
            put(tree, path, value)
        close_branch(tree, branch)
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
    families = names_of(tree)
    ranges = list(ranges_in(tree))
    for path, _ in ranges:
        if any(without_member(path)[: len(closed)] == closed for closed in CLOSED_FOR_GOOD) or path[-1] in (
            "family",
            "name",
        ):
            raise RangeError(path, "holds a range, but this setting cannot be searched: give one value")
    names = parameter_names(tree)
    _check_names(tree, names, families)
    settings = [
        replace(
            open_setting(path, names[path], content, real=is_real(path)),
            grid=None if (grid := scoring_grid(path)) is None else tuple(grid),
        )
        for path, content in ranges
    ]
    return Space(tree=tree, families=families, settings=tuple(settings))


def parameter_names(tree: Tree) -> dict[Path, str]:
    """Return the parameter name of every range, and of the list of branches.

    It is the setting's own name; where several settings share it, the name of the branch or member comes first. Of a
    setting of `model:` and one of another block, such as `decay`, that of `model:` has its family first.
    """
    families = names_of(tree)
    paths = [path for path, _ in ranges_in(tree)]
    shared = Counter(str(path[-1]) for path in paths)
    in_blocks = Counter(str(path[-1]) for path in paths if len(path) == 2)
    names: dict[Path, str] = {("model",): "family"} if len(families) > 1 else {}
    for path in paths:
        name = str(path[-1])
        if shared[name] > 1 and "members" in path:
            name = f"{path[path.index('members') + 1]}.{name}"
        elif shared[name] > 1 and path[0] == "model" and len(path) > 2 and isinstance(path[1], int):
            name = f"{families[path[1]]}.{name}"
        elif path[0] == "model" and len(path) == 2 and in_blocks[name] > 1:
            name = f"{families[0]}.{name}"
        names[path] = name
    return names


def only_families(tree: Tree, kept: Sequence[int]) -> Tree:
    """Return a study's tree with only these branches.

    The baseline and the entries of `search.first` are kept unless their branch is removed: then they are empty.
    """
    rest = copy.deepcopy(tree)
    rest["model"] = [rest["model"][branch] for branch in kept]
    names: dict[str, str | None] = {}
    new_names, families = parameter_names(rest), names_of(rest)
    for path, name in parameter_names(tree).items():
        if path[0] == "model" and len(path) > 1 and isinstance(path[1], int):
            path = ("model", kept.index(path[1]), *path[2:]) if path[1] in kept else ()
        names[name] = new_names.get(path)
    baseline = rest.get("baseline") or {}
    rest["baseline"] = followed(baseline, names, families)
    if (rest.get("search") or {}).get("first"):
        rest["search"]["first"] = [followed(entry, names, families) for entry in rest["search"]["first"]]
    return rest


def followed(values: Mapping[str, Any], names: Mapping[str, str | None], families: Sequence[str]) -> Tree:
    """Return a trial's values after its parameters were renamed; empty if its family is not among the `families`."""
    return renamed(values, names) if values.get("family") in (None, *families) else {}


def renamed(values: Mapping[str, Any], names: Mapping[str, str | None]) -> Tree:
    """Return values of parameters under new names: without those whose new name is None; others keep their names."""
    kept = ((names.get(name, name), value) for name, value in values.items())
    return {name: value for name, value in kept if name is not None}


def _check_names(tree: Tree, names: Mapping[Path, str], families: tuple[str, ...]) -> None:
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
            block = tree["model"][index]
            if "name" in block:
                raise RangeError(
                    ("model", index, "name"), f"is that of another branch: each needs its own, not {family}"
                )
            raise RangeError(
                ("model", index), f"names the family {family} again: give the branch a `name` beside its family"
            )
