"""Exports a trial as its recipe: a study file without ranges."""

from __future__ import annotations

import optuna
from optuna.trial import FrozenTrial

from search.errors import MisuseError, StudyError
from search.results.status import read_status
from search.storage.stored_study import StoredStudy
from search.storage.study_storage import StudyStorage
from search.study.recipe import Origin, Recipe
from search.study.trial_recipe import recipe_of_trial


def export_recipe(storage: StudyStorage, stored: StoredStudy, *, number: int | None = None) -> Recipe:
    """Return the recipe of the best complete trial, or of trial `number`, with the trial's seed, threads and precision.

    Raises StudyError if there is no such trial, or none is complete yet, MisuseError if several objectives leave the
    choice open.
    """
    study = optuna.load_study(study_name=stored.name, storage=storage)
    if number is not None:
        return recipe_of(stored, _trial(study, number))
    if len(stored.objectives) > 1:
        raise MisuseError(
            f"The study {stored.name!r} has several objectives ({', '.join(stored.objectives)}), and so no single "
            "best trial: `offkey status` lists the best trade-offs; choose one with --trial N"
        )
    status = read_status(storage, stored, study)
    if status.best is None:
        if not status.beyond_limits:
            raise StudyError(f"The study {stored.name!r} has no complete trial yet: nothing to export")
        raise StudyError(
            f"None of the {status.beyond_limits} complete trials of {stored.name!r} keeps to search.constraints: "
            "search on, or export one of them with --trial N"
        )
    return recipe_of(stored, status.best)


def recipe_of(stored: StoredStudy, trial: FrozenTrial) -> Recipe:
    """Return the recipe of a trial that has all its parameters."""
    recipe = recipe_of_trial(
        stored.study(),
        trial,
        threads=trial.user_attrs.get("threads"),
        precision=trial.user_attrs.get("precision", "float32"),  # an earlier version entered none, and had no other
        repeat=trial.user_attrs.get("repeat", 0),
    )
    return recipe.model_copy(
        update={
            "study": f"{stored.name}-trial-{trial.number}",
            "from_": Origin(study=stored.name, trial=trial.number),
        }
    )


def _trial(study: optuna.Study, number: int) -> FrozenTrial:
    trials = {trial.number: trial for trial in study.get_trials(deepcopy=False)}
    if number not in trials:
        have = f"trials 0 to {max(trials)}" if trials else "no trial yet"
        raise StudyError(f"The study {study.study_name!r} has no trial {number}; it has {have}")
    if "threads" not in trials[number].user_attrs:
        raise StudyError(f"Trial {number} of {study.study_name!r} has not started to train: it has no recipe yet")
    return trials[number]
