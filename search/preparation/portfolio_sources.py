"""Finds the entries of `search.first` that come from finished studies and from recipes, when a study is created.

A study gives its best complete trials within its limits, a recipe itself. An entry has those settings that are open
here and whose values lie in their ranges; the sampler suggests the others. What is found is stored with the study, so
that the study stays the same when the others move on.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from features.did_you_mean import did_you_mean
from search.errors import StudyError, StudyFileError
from search.storage.stored_study import open_study, with_stored_choices
from search.storage.study_lookup import held_in
from search.study import open_setting
from search.study import space as spaces
from search.study.branches import families_of
from search.study.portfolio import broken_rule, names_sources
from search.study.recipe import Recipe
from search.study.search_settings import keeps_to_limits
from search.study.space import Space, Tree
from search.study.study import Study
from search.study.study_file import load_study, shipped_studies
from search.study.trial_recipe import recipe_of_trial

#: Equal to no choice, and no number.
_MISSING = object()


def with_choices(study: Study, url: str) -> Study:
    """The study, with what the stored study of its name has chosen, and else with the entries of its sources.

    Raises StudyFileError if a source is missing or does not fit the study, StorageError if the storage cannot be read.
    """
    study = with_stored_choices(study, url)
    in_file = study.search.first or []
    if not any(map(names_sources, in_file)):
        return study
    first: list[dict[str, Any]] = []
    for place, entry in enumerate(in_file):
        if not names_sources(entry):
            first.append(entry)
            continue
        for position, source in enumerate(entry["from"]):
            try:
                first += _entries_of(source, url, study.space, top=entry["top"])
            except (StudyFileError, StudyError) as error:
                raise study.error(("search", "first", place, "from", position), f"cannot be used: {error}") from error
    return replace(study, search=study.search.model_copy(update={"first": first}), first_in_file=in_file)


def _entries_of(source: str, url: str, space: Space, *, top: int) -> list[dict[str, Any]]:
    name = source
    if Path(source).is_file():
        named = load_study(source)
        if not named.space.distributions():
            recipe = named.first_recipe()
            if recipe.model.family not in families_of(space.tree):
                raise _wrong_families(source, [recipe.model.family], space)
            return _entries(source, [recipe], space, top=1)
        name = named.name
    _require_stored(name, source, url)
    with open_study(url, name) as (storage, stored):
        if len(stored.objectives) > 1:  # as with `offkey export`
            raise StudyError(
                f"{name} has several objectives ({', '.join(stored.objectives)}), and so no best trials. Export the "
                f"trade-offs that you want (`offkey export {name} --trial N -o N.yaml`) and name these recipes"
            )
        trials = optuna.load_study(study_name=name, storage=storage).get_trials(
            deepcopy=False, states=(TrialState.COMPLETE,)
        )
    best = sorted(filter(keeps_to_limits, trials), key=lambda trial: (-(trial.value or 0.0), trial.number))
    if not best:
        within = " within its limits" if trials else ""
        raise StudyError(f"{name} has no complete trial{within} yet: search it first, or leave it out")
    named = stored.study()
    recipes = (recipe_of_trial(named, trial, **_closed(trial)) for trial in best)
    fitting = (recipe for recipe in recipes if recipe.model.family in families_of(space.tree))
    first = next(fitting, None)
    if first is None:
        raise _wrong_families(name, named.space.families, space)
    return _entries(name, itertools.chain([first], fitting), space, top=top)


def _closed(trial: FrozenTrial) -> dict[str, Any]:
    """What a trial's recipe needs besides its parameters; otherwise torch would be loaded to find it here."""
    return {"threads": 1, "precision": trial.user_attrs.get("precision", "float32")}


def _entries(source: str, recipes: Iterable[Recipe], space: Space, *, top: int) -> list[dict[str, Any]]:
    """The values of the space's parameters in the recipes, best first: as many different ones as are wanted."""
    found: list[dict[str, Any]] = []
    for recipe in recipes:
        values = _values_of(recipe, space)
        if values and values not in found:
            found.append(values)
        if len(found) == top:
            break
    if not found:
        raise StudyError(
            f"{source} has no value for an open setting of this study ({', '.join(space.distributions())}) that lies "
            "in its range: name a study or recipe of a like space"
        )
    return found


def _require_stored(name: str, source: str, url: str) -> None:
    held, where = held_in(url)
    if name in held:
        return
    if name != source or name in shipped_studies():
        what = f"{source} is the file of the study {name}" if name != source else f"{name} is a study file that ships"
        raise StudyError(f"{what}, and {where}: search it first, or name a recipe")
    of_storage = "a study that it holds, or " if held else ""
    hint = did_you_mean(source, held) or f": name {of_storage}a recipe that `offkey export` wrote"
    raise StudyError(f"{source}: no such file, and {where}{hint}")


def _values_of(recipe: Recipe, space: Space) -> dict[str, Any]:
    """The values of the space's parameters in a recipe; empty if none lies in its range."""
    # Of a recipe that scores each machine type in its own way, without its settings of scoring: none is that of all.
    tree = recipe.model_dump(mode="json", by_alias=True) if recipe.machine_types is None else recipe.tree()
    branch = _branch_like(tree, space)
    values = {}
    for setting in space.settings_of(branch):
        value = _value_at(tree, spaces.in_branch(setting.path))
        if not broken_rule(setting.distribution, value):
            values[setting.name] = value
    if not values:
        return {}
    return space.chosen({"family": space.families[branch], **values} if len(space.families) > 1 else values)


def _branch_like(recipe: Tree, space: Space) -> int:
    """Of the branches with the recipe's family, the first whose closed settings agree with it in most places."""

    def agreeing(branch: int) -> int:
        closed = space.closed(branch, {setting.path: _MISSING for setting in space.read_by(branch)})
        blocks = [(closed.get(block) or {}, recipe[block]) for block in ("features", "model")]
        return sum(there.get(key, _MISSING) == value for own, there in blocks for key, value in own.items())

    families = families_of(space.tree)
    of_family = [branch for branch, family in enumerate(families) if family == recipe["model"]["family"]]
    return max(of_family, key=agreeing)


def _value_at(tree: Any, path: open_setting.Path) -> Any:
    """The value at a path; _MISSING if the recipe has no such setting."""
    for key in path:
        if not isinstance(tree, dict) or key not in tree:
            return _MISSING
        tree = tree[key]
    return tree


def _wrong_families(source: str, families: Iterable[str], space: Space) -> StudyError:
    return StudyError(
        f"{source} is of the family {', '.join(families)}, and this study of {', '.join(space.families)}: name a "
        "study or recipe of one of these families, or add the family to `model`"
    )
