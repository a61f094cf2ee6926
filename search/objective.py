"""What a trial does: close the recipe, train, validate, report, prune."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import optuna
import torch
from optuna.trial import BaseTrial
from pydantic import ValidationError

from features.corpus import Corpus
from features.errors import ClipTooShortError
from search.evaluation import Scores, Truth, mean_auc
from search.recipe import Recipe
from search.study_file import Study
from search.training import Training, TrialFailure, no_interruption


def objective(
    trial: BaseTrial,
    study: Study,
    corpus: Corpus,
    *,
    device: torch.device | None = None,
    checkpoint: Path | None = None,
    before_batch: Callable[[], None] = no_interruption,
    on_scores: Callable[[Scores], None] = lambda scores: None,
) -> float:
    """The validation AUC after the trial's last epoch, higher is better.

    `corpus` is a blinded one (see search.split): of the labelled test clips, those that steer the search alone.
    Goes on from `checkpoint` if there is one, and leaves one after each epoch but the last; `on_scores` gets the
    validation clips' scores after each epoch.
    Raises TrialPruned, or TrialFailure for a failure that is the trial's own.
    """
    recipe = trial_recipe(study, trial, threads=trial.user_attrs.get("threads"))
    try:
        training = Training(recipe, corpus, device or torch.device("cpu"))
    except ClipTooShortError as error:
        raise TrialFailure(f"impossible setting: {error}") from error
    trial.set_user_attr("threads", recipe.training.threads)
    if checkpoint is not None:
        training.resume(checkpoint)
    truth = Truth.of(training.validation_clips)
    is_baseline = trial.number == 0 and bool(study.baseline)  # never pruned: the others are compared with its whole
    while True:
        training.run_epoch(before_batch)
        scores = training.validation_scores()
        value = mean_auc(scores, truth)
        trial.report(value, training.epoch)
        on_scores(scores)
        if training.epoch == recipe.training.epochs:
            return value
        if trial.should_prune() and not is_baseline:
            raise optuna.TrialPruned
        if checkpoint is not None:
            training.save(checkpoint)


def trial_recipe(study: Study, trial: BaseTrial, *, threads: int | None = None) -> Recipe:
    """The recipe that a trial trains, seed and threads included; `threads` are those it was begun with.

    Raises TrialFailure for an impossible one.
    """
    try:
        recipe = study.close(trial)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise TrialFailure(f"impossible setting: {place}: {problem['msg'].removeprefix('Value error, ')}") from error
    closed = recipe.training
    seed = closed.seed if closed.seed is not None else study.search.seed * 1_000_003 + trial.number
    settings = closed.model_copy(update={"seed": seed, "threads": closed.threads or threads or torch.get_num_threads()})
    return recipe.model_copy(update={"training": settings})
