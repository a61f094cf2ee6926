"""A checked study: a search space over recipes, a budget, and the configuration that it is compared with."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import BaseTrial

from search.study import corners
from search.study.recipe import Objective, Recipe, SearchSettings, ValidationSettings
from search.study.space import Space, Tree


@dataclass(frozen=True)
class Study:
    """A checked study: a search space over recipes, a budget, and the configuration it is compared with."""

    space: Space
    search: SearchSettings
    baseline: Mapping[str, Any]  # parameter name → value of Optuna's kind

    @property
    def name(self) -> str:
        return str(self.space.tree["study"])

    @property
    def tree(self) -> Tree:
        """As it would stand in a file."""
        return self.space.tree | {"baseline": dict(self.baseline), "search": self.search.model_dump(exclude_none=True)}

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What is searched for, the most important first."""
        return self.validation.objectives

    @property
    def validation(self) -> ValidationSettings:
        """What steers the search: the same in all of its trials."""
        return ValidationSettings.model_validate(self.space.tree.get("validation") or {})

    @property
    def max_steps(self) -> int:
        """The most steps at which a trial is compared: the pruner's largest resource."""
        return self.validation.folds or self.max_epochs

    @property
    def max_epochs(self) -> int:
        """The most epochs that a model of a trial can have."""
        opened = [s.extremes for s in self.space.settings if s.path[-2:] == ("training", "epochs")]
        return max(int(max(itertools.chain([], *opened), default=0)), *(recipe.epochs for recipe in self.recipes()))

    def grid(self) -> list[dict[str, Any]]:
        """Every combination of the open choices, by parameter name; the baseline's first."""
        names = [setting.name for setting in self.space.settings]
        choices = itertools.product(*(setting.extremes for setting in self.space.settings))
        combinations = [dict(zip(names, values, strict=True)) for values in choices]
        return sorted(combinations, key=lambda combination: not self.baseline.items() <= combination.items())

    def close(self, trial: BaseTrial) -> Recipe:
        """The trial's recipe: each open setting closed by the trial's suggestion."""
        return Recipe.model_validate(self.space.close(trial))

    def first_recipe(self) -> Recipe:
        """The first family's recipe, each range at its low end or first choice, or the next that its block allows."""
        return corners.first_recipe(self.space, 0)

    def recipes(self) -> list[Recipe]:
        """Each family's recipe, as `first_recipe` for the first one."""
        return [corners.first_recipe(self.space, branch) for branch in range(len(self.space.families))]
