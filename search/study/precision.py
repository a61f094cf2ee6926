"""Closes `training.precision: auto`, in a recipe and in the members of an ensemble. Without torch.

A trial remembers the precision of its training in a word (`precision_of`). The word closes the trial's recipe again,
on any host: for a worker that continues the trial, and for `offkey export`.
"""

from __future__ import annotations

from collections.abc import Callable

from models.member import EnsembleSettings
from models.settings import ClosedPrecision, TrainingSettings
from search.study.recipe import Recipe


def precision_of(recipe: Recipe) -> str:
    """Return the precision in which a closed recipe is trained, for example `bfloat16`.

    Where the members of an ensemble differ it has a word for each one that is trained: `float32+bfloat16`. It is
    `float32` for a recipe that trains no network.
    """
    words = [member.training.precision for member in recipe.members if member.model.is_trained]
    return words[0] if len(set(words)) == 1 else "+".join(words) or "float32"


def with_precision(recipe: Recipe, precision: str | None, native: Callable[[], ClosedPrecision]) -> Recipe:
    """Return the recipe with every `auto` closed.

    `precision` is what `precision_of` returned when this recipe was closed before, and None if it never was: then
    `native` says which precision the device computes. It is not called for a recipe that leaves nothing open.
    """
    if all(member.training.precision != "auto" for member in recipe.members if member.model.is_trained):
        words = ["float32"]  # for settings that train nothing
    else:
        words = (precision or native()).split("+")
    own, model = words[0], recipe.model
    if isinstance(model, EnsembleSettings):
        members = model.ensemble
        trained = [name for name, member in members.items() if member.model.is_trained]
        of_members = dict(zip(trained, words if len(words) > 1 else words * len(trained), strict=True))
        # The ensemble's own setting trains nothing. Members that are not trained inherit it in the recipe's file.
        own = next((of_members[name] for name in trained if members[name].training.precision == "auto"), own)
        model = model.with_ensemble(
            {
                name: member.model_copy(update={"training": _closed(member.training, of_members.get(name, own))})
                for name, member in members.items()
            }
        )
    return recipe.model_copy(update={"training": _closed(recipe.training, own), "model": model})


def _closed(training: TrainingSettings, precision: str) -> TrainingSettings:
    return training.model_copy(update={"precision": precision}) if training.precision == "auto" else training
