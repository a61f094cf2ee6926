"""The trials that a study tries first: its baseline, then the entries of `search.first`, cheapest first.

An entry gives values to open settings, by the names of their parameters; the sampler suggests the others. A value that
has no effect beside the others is for nothing: entries that differ in such values alone are one. In a study
file an entry may also name finished studies and recipes: {from: [STUDY or recipe.yaml, …], top: 5}. Preparation
replaces it by the entries that it finds there, so that a stored study has values only.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import ValidationError

from features.did_you_mean import did_you_mean
from models.families import FAMILIES
from search.study import space as spaces
from search.study.branches import close_branch
from search.study.corners import first_recipe
from search.study.document import Document
from search.study.open_setting import Path
from search.study.space import Space

#: Values of open settings, by the names of their parameters.
Values = Mapping[str, Any]

#: How many of a finished study's best trials become entries, if the study file does not say.
DEFAULT_TOP = 5


def names_sources(entry: Mapping[str, Any]) -> bool:
    """Whether an entry names studies and recipes instead of values."""
    return "from" in entry


def values_by_number(baseline: Values, first: Sequence[Values] | None) -> dict[int, Values]:
    """Return the values of the trials that are tried first, by the number of the trial."""
    return dict(enumerate([*([baseline] if baseline else []), *(first or ())]))


def place_in_first(number: int, baseline: Values, first: Sequence[Values] | None) -> int | None:
    """Return which entry of `search.first` a trial takes, counted from 1; None if it takes none."""
    place = number + (0 if baseline else 1)
    return place if 1 <= place <= len(first or ()) else None


def broken_rule(distribution: BaseDistribution, value: Any) -> str:
    """Return the rule that a value of a parameter breaks; empty if it is one of the parameter's values."""
    if isinstance(distribution, CategoricalDistribution):
        choices = ", ".join(map(str, distribution.choices))
        return "" if value in distribution.choices else f"must be one of {choices}"
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    low, high, step = distribution.low, distribution.high, distribution.step
    kinds = (int,) if isinstance(distribution, IntDistribution) else (int, float)
    inside = type(value) in kinds and low <= value <= high
    steps = (value - low) / step if inside and step else 0
    if inside and math.isclose(steps, round(steps), abs_tol=1e-8):
        return ""
    return f"must lie in its range, {low} to {high}" + ("" if step is None else f" in steps of {step}")


def checked_values(document: Document, space: Space, path: Path, values: Any) -> dict[str, Any]:
    """Return values of parameters. Raises StudyFileError for an unknown parameter, or a value outside of its range."""
    if not isinstance(values, dict):
        raise document.error(path, f"must name parameters and values, but got {values!r}")
    distributions = space.distributions()
    for name, value in values.items():
        if name not in distributions:
            hint = did_you_mean(name, distributions) or f"; open here: {', '.join(distributions) or 'nothing'}"
            raise document.error((*path, name), f"is not an open setting{hint}")
        if rule := broken_rule(distributions[name], value):
            hint = did_you_mean(str(value), space.families) if name == "family" and value not in FAMILIES else ""
            remedy = hint or ("; add the family to `model`, or leave this out" if name == "family" else "")
            raise document.error((*path, name), f"{rule}, but got {value!r}{remedy}")
    return dict(values)


def checked_first(document: Document, space: Space, entries: Any) -> list[dict[str, Any]] | None:
    """Return the entries of `search.first`, each checked. A single entry may stand without a list.

    Raises StudyFileError for the first entry that is wrong.
    """
    if entries is None:
        return None
    entries = [entries] if isinstance(entries, dict) else entries
    if not isinstance(entries, list):
        raise document.error(("search", "first"), f"must be a list of entries, but got {entries!r}")
    return [_checked_entry(document, space, ("search", "first", place), entry) for place, entry in enumerate(entries)]


def _checked_entry(document: Document, space: Space, path: Path, entry: Any) -> dict[str, Any]:
    if isinstance(entry, dict) and names_sources(entry):
        return _checked_sources(document, path, entry)
    if isinstance(entry, dict) and "top" in entry and "top" not in space.distributions():
        raise document.error((*path, "top"), "stands beside `from`: {from: [STUDY or recipe.yaml, …], top: 5}")
    values = checked_values(document, space, path, entry)
    if not values:
        return values  # `--set` may close all settings of an entry
    if len(space.families) > 1 and "family" not in values:
        raise document.error(path, f"must name a family, one of {', '.join(space.families)}")
    branch = _branch_of(space, values)
    for setting in space.settings:
        if setting.name in values and setting.branch not in (None, branch):
            assert setting.branch is not None
            other, family = space.families[setting.branch], values["family"]
            raise document.error(
                (*path, setting.name), f"is a setting of the family {other}, but the entry's family is {family}"
            )
        if setting.name in values and setting not in space.read_by(branch):
            raise document.error(
                (*path, setting.name), f"has no effect in {space.families[branch]}, which has features of its own"
            )
    try:
        first_recipe(closed(space, values), 0)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise document.error(path, f"is impossible: {place} {problem['msg'].removeprefix('Value error, ')}") from error
    return values


def _checked_sources(document: Document, path: Path, entry: dict[str, Any]) -> dict[str, Any]:
    known = ("from", "top")
    for key in entry:
        if key not in known:
            hint = did_you_mean(key, known) or f"; known here: {', '.join(known)}"
            raise document.error((*path, key), f"cannot stand beside `from`{hint}")
    sources, top = entry["from"], entry.get("top", DEFAULT_TOP)
    if not isinstance(sources, list) or not sources or not all(isinstance(source, str) for source in sources):
        rule = "must be a list of studies in the storage and of recipe files"
        raise document.error((*path, "from"), f"{rule}, but got {sources!r}")
    if type(top) is not int or top < 1:
        raise document.error((*path, "top"), f"must be a number of trials, at least 1, but got {top!r}")
    return {"from": sources, "top": top}


def closed(space: Space, values: Values) -> Space:
    """Return the space of one family that is left when these settings have their values."""
    branch, tree, left = _branch_of(space, values), copy.deepcopy(space.tree), []
    for setting in space.read_by(branch):
        if setting.name in values:
            spaces.put(tree, setting.path, values[setting.name])
        else:
            left.append(setting if setting.branch is None else replace(setting, path=spaces.in_branch(setting.path)))
    close_branch(tree, branch)
    return replace(space, tree=tree, families=(space.families[branch],), settings=tuple(left))


def cheapest_first(space: Space, entries: Iterable[Values], *, baseline: Values, is_grid: bool) -> list[dict[str, Any]]:
    """Return the entries in the order in which they are tried, each once, without the baseline.

    Families that train nothing come first, then fewer epochs come before more; an entry that leaves its epochs open
    counts with the most of their range. Equal ones keep their order. In a grid, an entry is dropped if each
    combination that it allows comes earlier.
    """
    kept: list[dict[str, Any]] = []
    seen = [space.chosen(baseline)]
    for values in entries:
        if values and (chosen := space.chosen(values)) not in seen:
            seen.append(chosen)
            kept.append(dict(values))
    kept.sort(key=lambda values: _cost(space, values))
    if is_grid:
        places = grid_places(space, space.combinations(ahead=baseline), values_by_number(baseline, kept).values())
        places = places[len(places) - len(kept) :]
        kept = [values for values, place in zip(kept, places, strict=True) if place is not None]
    return kept


def grid_places(space: Space, combinations: Sequence[Values], entries: Iterable[Values]) -> list[Values | None]:
    """Return for each entry the first combination that has its values, and that no earlier entry has; None for none."""
    names = {name for combination in combinations for name in combination}
    taken: list[Values | None] = []
    for values in entries:
        wanted = {name: value for name, value in space.chosen(values).items() if name in names}
        fitting = (one for one in combinations if one not in taken and wanted.items() <= one.items())
        taken.append(next(fitting, None))
    return taken


def named_for_nothing(space: Space, baseline: Values, first: Sequence[Values] | None) -> list[str]:
    """Return a sentence for each of these trials that names settings without effect on its detector."""
    found = []
    for place, values in [("baseline", baseline), *(("search.first", entry) for entry in first or ())]:
        if len(space.families) > 1 and "family" not in values:
            continue  # the sampler chooses the family, and so what has an effect
        chosen = space.chosen(values)
        idle = [name for name in values if name not in chosen]
        if idle:
            have, them = ("has", "it") if len(idle) == 1 else ("have", "them")
            beside = in_words(chosen) or "the other settings"
            found.append(f"{place}: beside {beside}, {', '.join(idle)} {have} no effect: leave {them} out")
    return found


def in_words(values: Values) -> str:
    """Return the names and values of an entry."""
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _branch_of(space: Space, values: Values) -> int:
    return space.families.index(values["family"]) if "family" in values else 0


def _cost(space: Space, values: Values) -> tuple[bool, int]:
    left = closed(space, values).settings
    epochs = {s.name: max(s.extremes) for s in left if s.path[-2:] == ("training", "epochs")}
    recipe = first_recipe(closed(space, {**values, **epochs}), 0)
    is_trained = any(member.model.is_trained for member in recipe.members)
    return is_trained, recipe.epochs
