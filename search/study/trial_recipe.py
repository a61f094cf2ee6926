"""The recipe that a trial trains: its settings closed, its seed, threads and precision set."""

from __future__ import annotations

from typing import Any

from optuna.trial import BaseTrial, FixedTrial, FrozenTrial
from pydantic import ValidationError

from models.settings import ClosedPrecision
from search.errors import TrialFailure
from search.study.machine_types import MACHINE_TYPES, of_machine_type, with_machine_types
from search.study.precision import with_precision
from search.study.recipe import Recipe
from search.study.study import Study


def trial_recipe(
    study: Study,
    trial: BaseTrial,
    *,
    threads: int | None = None,
    precision: str | None = None,
    device: str = "cpu",
    repeat: int = 0,
) -> Recipe:
    """Return the recipe that a trial trains, with its seed, threads and precision.

    `threads` and `precision` (search.study.precision) are those with which the trial started; a trial that starts takes
    the threads of this process and what `device` computes natively. `repeat` is the number of earlier trials with the
    same settings: a repeat has another seed, even if the study sets one. Raises TrialFailure for an impossible recipe.
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
    recipe = recipe.model_copy(update={"training": settings, "model": recipe.model.repeated(repeat)})
    return with_precision(recipe, precision, native=lambda: _native_precision(device))


def recipe_of_trial(study: Study, trial: FrozenTrial, **closed: Any) -> Recipe:
    """Return the recipe of a trial that has all its parameters; `closed` as for `trial_recipe`."""
    machines, names = trial.user_attrs.get(MACHINE_TYPES, ()), study.space.distributions()
    if not machines:
        return trial_recipe(study, FixedTrial(trial.params, number=trial.number), **closed)
    parameters = {machine: of_machine_type(trial.params, machine, names) for machine in machines}
    return with_machine_types(
        {
            machine: trial_recipe(study, FixedTrial(own, number=trial.number), **closed)
            for machine, own in parameters.items()
        }
    )


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _native_precision(device: str) -> ClosedPrecision:
    import torch

    from models.precision import native_precision

    return native_precision(torch.device(device))
