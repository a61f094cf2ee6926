"""The search space of a study: its open settings, their ranges and their parameter names.

A setting is a value, `{low, high, log, step}` or `{choices: […]}`. `model:` is the block of one family or a list of
blocks; those of a list are the branches of a conditional space (search.study.branches), and the parameter `family`
chooses one by its name. Members of an ensemble and branches have blocks of their own, with settings that may be open,
too: model.members.chroma.features.n_chroma.

A trial has a value for those settings alone that have an effect on its detector. For example, a branch that trains
nothing has no learning rate, and a density by Mahalanobis no number of neighbours. So two trials with different
parameters are different detectors, and the sampler learns from settings that matter.
"""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import BaseTrial, FixedTrial

from search.study.branches import close_branch, names_in_words, names_of, replaces
from search.study.open_setting import Facts, OpenSetting, Path, RangeError, is_range, open_setting

Tree = dict[str, Any]

#: Whether a setting may have an effect in a branch of a tree, some of whose ranges are closed: search.study.effects.
MayCount = Callable[[Tree, Path, int], bool]

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
    may_count: MayCount = field(default=lambda tree, path, branch: True, compare=False, repr=False)

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return the distribution of every parameter, also of conditional ones."""
        parameters: dict[str, BaseDistribution] = {s.name: s.distribution for s in self.settings}
        if len(self.families) > 1:
            parameters["family"] = CategoricalDistribution(self.families)
        return parameters

    @property
    def has_trainings(self) -> bool:
        """Whether trials can differ in what they train."""
        return len(self.families) > 1 or not all(setting.is_scoring for setting in self.settings_of(0))

    @property
    def families_in_words(self) -> str:
        """The names of the branches, each with its family if that is another name."""
        return ", ".join(names_in_words(self.tree))

    def read_by(self, branch: int) -> list[OpenSetting]:
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

    def settings_of(self, branch: int) -> list[OpenSetting]:
        """Return the open settings that may have an effect in a branch; those that decide over others come first."""
        return self._of_branches[branch]

    @cached_property
    def _of_branches(self) -> list[list[OpenSetting]]:
        return [
            _deciding_first(
                [setting for setting in self.read_by(branch) if self.may_count(self.tree, setting.path, branch)]
            )
            for branch in range(len(self.families))
        ]

    def chosen(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of the values, by parameter name, that have an effect beside the others."""
        branch = self.families.index(values["family"]) if "family" in values else 0
        named = [setting for setting in self.settings_of(branch) if setting.name in values]
        counting = self._counting(branch, named, lambda setting: values[setting.name])
        kept = {setting.name for setting in named if setting.path in counting} | {"family"}
        return {name: value for name, value in values.items() if name in kept}

    def combinations(self, *, ahead: Mapping[str, Any]) -> list[Tree]:
        """Return every combination of the extremes of settings that change a training, in a study of one family.

        By parameter name, without values that have no effect; those with the values of `ahead` come first.
        """
        settings = [setting for setting in self.settings_of(0) if not setting.is_scoring]
        names = [setting.name for setting in settings]
        combinations: dict[Hashable, Tree] = {}
        for values in itertools.product(*(setting.extremes for setting in settings)):
            combination = self.chosen(dict(zip(names, values, strict=True)))
            combinations.setdefault(frozenset(combination.items()), combination)
        wanted = {name: value for name, value in self.chosen(ahead).items() if name in names}
        return sorted(combinations.values(), key=lambda combination: not wanted.items() <= combination.items())

    def suggest(self, trial: BaseTrial) -> int:
        """Let the trial suggest its branch and all settings that change its training; return the branch."""
        branch = self._branch(trial)
        trained = [setting for setting in self.settings_of(branch) if not setting.is_scoring]
        self._counting(branch, trained, lambda setting: setting.suggest(trial))
        return branch

    def close(self, trial: BaseTrial) -> Tree:
        """Return the tree with the trial's values in place of ranges, and with the trial's branch."""
        branch = self._branch(trial)
        values = self._counting(branch, self.settings_of(branch), lambda setting: setting.suggest(trial))
        if isinstance(trial, FixedTrial):  # a trial of an earlier version has settings without effect, too
            idle = (setting for setting in self.read_by(branch) if setting.path not in values)
            values |= {setting.path: setting.suggest(trial) for setting in idle if setting.name in trial._params}
        return self.closed(branch, values)

    def closed(self, branch: int, values: Mapping[Path, Any]) -> Tree:
        """Return the tree of a branch, with these values for its settings; settings without a value are at rest."""
        tree = copy.deepcopy(self.tree)
        for setting in self.read_by(branch):
            put(tree, setting.path, values.get(setting.path, setting.at_rest))
        close_branch(tree, branch)
        return tree

    def _counting(
        self, branch: int, settings: Sequence[OpenSetting], value_of: Callable[[OpenSetting], Any]
    ) -> dict[Path, Any]:
        """Return the values of the settings that have an effect beside the values before them.

        `value_of` is called for these settings alone, in their order.
        """
        names = {str(setting.path[-1]) for setting in settings}
        depending = {setting.path for setting in settings if not names.isdisjoint(setting.facts.beside)}
        if not depending:
            return {setting.path: value_of(setting) for setting in settings}
        tree, values = copy.deepcopy(self.tree), {}
        for setting in settings:
            if setting.path not in depending or self.may_count(tree, setting.path, branch):
                values[setting.path] = value_of(setting)
                put(tree, setting.path, values[setting.path])
        return values

    def _branch(self, trial: BaseTrial) -> int:
        if len(self.families) == 1:
            return 0
        return self.families.index(trial.suggest_categorical("family", self.families))


def read_space(tree: Tree, *, facts_of: Callable[[Path], Facts]) -> Space:
    """Read and check the ranges of a tree; `facts_of` returns what the schema knows of a setting.

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
    settings = [open_setting(path, names[path], content, facts_of(path)) for path, content in ranges]
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


def _deciding_first(settings: Sequence[OpenSetting]) -> list[OpenSetting]:
    """Return settings in their order, but none before those whose values decide whether it has an effect."""
    ordered: list[OpenSetting] = []

    def add(setting: OpenSetting, waiting: frozenset[Path]) -> None:
        for other in settings:
            if other.path[-1] in setting.facts.beside and other.path not in waiting:
                add(other, waiting | {other.path})
        if setting not in ordered:
            ordered.append(setting)

    for setting in settings:
        add(setting, frozenset({setting.path}))
    return ordered


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
