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
from optuna.trial import TrialState

from search.errors import StudyError, StudyFileError
from search.storage.stored_study import open_study, with_stored_choices
from search.storage.study_lookup import require_stored
from search.study import open_setting
from search.study import space as spaces
from search.study.portfolio import broken_rule, names_sources
from search.study.recipe import Recipe
from search.study.search_settings import keeps_to_limits
from search.study.space import Space
from search.study.study import Study
from search.study.study_file import load_study
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
            return [_of_one(source, named.first_recipe(), space)]
        name = named.name
    require_stored(name, url)
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
    # With any number of threads: otherwise torch would be loaded to count them.
    recipes = (recipe_of_trial(named, trial, threads=1) for trial in best)
    fitting = list(itertools.islice((recipe for recipe in recipes if recipe.model.family in space.families), top))
    if not fitting:
        raise _wrong_families(name, named.space.families, space)
    return [_of_one(name, recipe, space) for recipe in fitting]


def _of_one(source: str, recipe: Recipe, space: Space) -> dict[str, Any]:
    """The values of the space's parameters in a recipe."""
    family = recipe.model.family
    if family not in space.families:
        raise _wrong_families(source, [family], space)
    branch = space.families.index(family)
    # Of a recipe that scores each machine type in its own way, without its settings of scoring: none is that of all.
    tree = recipe.model_dump(mode="json", by_alias=True) if recipe.machine_types is None else recipe.tree()
    values = {}
    for setting in space.settings_of(branch):
        value = _value_at(tree, spaces.in_branch(setting.path))
        if not broken_rule(setting.distribution, value):
            values[setting.name] = value
    if not values:
        raise StudyError(
            f"{source} has no value for an open setting of this study ({', '.join(space.distributions())}) that lies "
            "in its range: name a study or recipe of a like space"
        )
    return {"family": family, **values} if len(space.families) > 1 else values


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
