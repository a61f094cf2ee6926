"""A checked study: a search space of recipes, a budget and a baseline."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import BaseTrial

from search.errors import StudyFileError
from search.study import corners
from search.study.document import Document
from search.study.open_setting import Path
from search.study.portfolio import Values, grid_places, values_by_number
from search.study.recipe import Objective, Recipe, TrainOn, ValidationSettings
from search.study.search_settings import SearchSettings
from search.study.space import Space, Tree


@dataclass(frozen=True)
class Study:
    """A checked study: a search space of recipes, a budget and a baseline."""

    space: Space
    search: SearchSettings
    baseline: Mapping[str, Any]  # parameter name → value of Optuna's kind
    #: `search.first` as the file has it, if the entries here were found in other studies and recipes.
    first_in_file: list[dict[str, Any]] | None = None
    document: Document | None = field(default=None, compare=False, repr=False)  # has the places of the keys

    @property
    def name(self) -> str:
        return str(self.space.tree["study"])

    @property
    def tree(self) -> Tree:
        """The study as it stands in a study file."""
        return self.space.tree | {"baseline": dict(self.baseline), "search": self.search.model_dump(exclude_none=True)}

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The objectives, the most important first."""
        return self.validation.objectives

    @property
    def validation(self) -> ValidationSettings:
        """The validation settings, which are the same in all trials."""
        return ValidationSettings.model_validate(self.space.tree.get("validation") or {})

    @property
    def max_steps(self) -> int:
        """The most steps of a trial: the pruner's largest resource."""
        return self.validation.folds or self.max_epochs

    @property
    def max_epochs(self) -> int:
        """The most epochs of a trial's model."""
        opened = [s.extremes for s in self.space.settings if s.path[-2:] == ("training", "epochs")]
        return max(int(max(itertools.chain([], *opened), default=0)), *(recipe.epochs for recipe in self.recipes()))

    @property
    def tried_first(self) -> dict[int, Values]:
        """The values of the trials that are tried first, by number: the baseline's, then those of `search.first`."""
        return values_by_number(self.baseline, self.search.first)

    def error(self, path: Path, message: str) -> StudyFileError:
        """Return an error of the study's file with its place."""
        return (self.document or Document(tree={}, origin=f"study {self.name}")).error(path, message)

    def grid(self) -> list[dict[str, Any]]:
        """Return every combination of the open choices, by parameter name, in the order of the trials."""
        combinations = self.space.combinations(ahead=self.baseline)
        first = [
            dict(one) for one in grid_places(self.space, combinations, self.tried_first.values()) if one is not None
        ]
        return first + [combination for combination in combinations if combination not in first]

    def close(self, trial: BaseTrial) -> Recipe:
        """Return the recipe with the values that the trial suggests."""
        return Recipe.model_validate(self.space.close(trial))

    def first_recipe(self) -> Recipe:
        """Return the first family's recipe: each range at its low end or first choice, or the next legal one."""
        return corners.first_recipe(self.space, 0)

    def recipes(self) -> list[Recipe]:
        """Return the recipe of each family, like `first_recipe`."""
        return [corners.first_recipe(self.space, branch) for branch in range(len(self.space.families))]


def trained_on(tree: Mapping[str, Any]) -> TrainOn:
    """Return `corpus.train_on` of a study's tree in which it has one value."""
    value: TrainOn = (tree.get("corpus") or {}).get("train_on", "development")
    return value
