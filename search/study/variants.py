"""The variants of a trial: the detectors that can be made of its one training.

Some settings change nothing of a training: pooling, densities, neighbours, calibration (`SCORING_ONLY` in the classes
of settings). They are closed inside a trial: the trial trains once, and every combination of their values is a variant.
A few values stand for a range. Of combinations that differ in settings without effect alone, the first is a variant.
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
from search.study.schema.schema_lookup import default_of
from search.study.study import Study


@dataclass(frozen=True)
class Variant:
    """One detector of a training.

    values  : parameter name → value, of the settings that the trial closes after its training
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
    settings = [setting for setting in study.space.settings_of(branch) if setting.is_scoring]
    fixed = study.tried_first.get(trial.number, {})
    values = [[fixed[s.name]] if s.name in fixed else _default_first(study, s) for s in settings]
    found: dict[str, Variant] = {}
    failure = None
    for combination in itertools.product(*values):
        closed = {setting.name: value for setting, value in zip(settings, combination, strict=True)}
        alone = FixedTrial({**trial.params, **closed}, number=trial.number)
        try:
            recipe = close(alone)
        except TrialFailure as error:  # values that exclude each other
            failure = failure or error
            continue
        changes = sum(value != choices[0] for value, choices in zip(combination, values, strict=True))
        found.setdefault(_effective(recipe), Variant(closed, recipe, changes))
    if not found:
        assert failure is not None
        raise failure
    return tuple(found.values())


def _default_first(study: Study, setting: OpenSetting) -> list[Any]:
    default = default_of(study.space.tree, setting.path)
    return sorted(setting.scoring_values, key=lambda value: value != default)


def _effective(recipe: Recipe) -> str:
    """Return the settings of scoring that have an effect, as a key."""
    parts: list[Any] = [recipe.model.model_dump(exclude={"members", *recipe.model.idle}), recipe.scoring.calibration]
    for member in recipe.members:
        idle = member.scoring.idle | (member.scoring.OF_WINDOWS if member.model.backend is not None else frozenset())
        parts += [
            member.model.model_dump(exclude=set(member.model.idle)),
            member.scoring.model_dump(exclude=set(idle)),
            getattr(member, "weight", None) if getattr(recipe.model, "combine", None) == "weights" else None,
        ]
    return repr(parts)
