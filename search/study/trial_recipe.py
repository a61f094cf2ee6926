"""The recipe that a trial trains: its settings closed, its seed and threads set."""

from __future__ import annotations

from optuna.trial import BaseTrial
from pydantic import ValidationError

from search.errors import TrialFailure
from search.study.recipe import Recipe
from search.study.study import Study


def trial_recipe(study: Study, trial: BaseTrial, *, threads: int | None = None, repeat: int = 0) -> Recipe:
    """Return the recipe that a trial trains, with its seed and threads.

    `threads` is the number with which the trial started. `repeat` is the number of earlier trials with the same
    settings: a repeat has another seed, even if the study sets one. Raises TrialFailure for an impossible recipe.
    """
    try:
        recipe = study.close(trial)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise TrialFailure(f"impossible setting: {place}: {problem['msg'].removeprefix('Value error, ')}") from error
    closed = recipe.training
    seed = closed.seed + repeat if closed.seed is not None else study.search.seed * 1_000_003 + trial.number
    settings = closed.model_copy(update={"seed": seed, "threads": closed.threads or threads or _threads()})
    return recipe.model_copy(update={"training": settings, "model": recipe.model.repeated(repeat)})


def _threads() -> int:
    import torch

    return torch.get_num_threads()
