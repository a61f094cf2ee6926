"""The variants of a trial: the detectors that can be made of its one training.

Some settings change nothing of a training: pooling, densities, neighbours, calibration (`SCORING_ONLY` in the classes
of settings). They are closed inside a trial: the trial trains once, and every combination of their values is a variant.
A few values stand for a range. A variant names the values that have an effect, and combinations that differ in others
alone are one variant.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import BaseTrial, FixedTrial

from search.errors import TrialFailure
from search.study.open_setting import OpenSetting
from search.study.recipe import Recipe
from search.study.study import Study


@dataclass(frozen=True)
class Variant:
    """One detector of a training.

    values  : parameter name → value, of the settings that the trial closes after its training and that have an effect
    changes : how many of them differ from their defaults
    """

    values: Mapping[str, Any]
    recipe: Recipe
    changes: int = 0


def variants_of(study: Study, trial: BaseTrial, close: Callable[[BaseTrial], Recipe]) -> tuple[Variant, ...]:
    """Return the variants of a trial, the one by defaults first; `close` returns the recipe of a trial.

    A trial whose parameters are all fixed in advance has one. Raises TrialFailure if no variant is a possible recipe.
    """
    if isinstance(trial, FixedTrial):
        return (Variant({}, close(trial)),)
    branch = study.space.suggest(trial)
    counting = study.space.settings_of(branch)
    settings = [setting for setting in study.space.settings if setting.is_scoring and setting in counting]
    fixed = study.tried_first.get(trial.number, {})
    values = [[fixed[s.name]] if s.name in fixed else _default_first(s) for s in settings]
    found: list[Variant] = []
    seen: list[dict[str, Any]] = []
    failure = None
    for combination in itertools.product(*values):
        closed = {setting.name: value for setting, value in zip(settings, combination, strict=True)}
        chosen = study.space.chosen({**trial.params, **closed})
        if chosen in seen:
            continue
        seen.append(chosen)
        taken = {name: value for name, value in closed.items() if name in chosen}
        try:
            recipe = close(FixedTrial({**trial.params, **taken}, number=trial.number))
        except TrialFailure as error:  # values that exclude each other
            failure = failure or error
            continue
        changes = sum(value != choices[0] for value, choices in zip(combination, values, strict=True))
        found.append(Variant(taken, recipe, changes))
    if not found:
        assert failure is not None
        raise failure
    return tuple(found)


def _default_first(setting: OpenSetting) -> list[Any]:
    return sorted(setting.scoring_values, key=lambda value: value != setting.facts.default)
