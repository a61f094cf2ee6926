"""What a trial does: close the recipe, train, validate, report, prune.

Nothing here imports torch before a training is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, Protocol

import numpy as np
import optuna
from optuna.trial import BaseTrial
from pydantic import ValidationError

from features.corpus import Corpus
from features.errors import UnservedError
from search.checkpoints import Resumable
from search.costs import Limits
from search.cross_validation import CrossValidation
from search.errors import TrialFailure
from search.evaluation import Scores
from search.recipe import ConstraintSettings, Recipe
from search.steering import Steering
from search.study_file import Study

if TYPE_CHECKING:
    from search.exhibits import Exhibit


class Trained(Resumable, Protocol):
    """A recipe in training: `search.training.Training`, a stand-in that needs no torch, or several of these."""

    @property
    def step(self) -> int | None:
        """The step that was just reached; None in between."""

    @property
    def parameters(self) -> int: ...

    def run_epoch(self, before_batch: Callable[[], None]) -> None: ...

    def validation_scores(self) -> Scores:
        """At a step: of all clips that have been scored so far, in the order of the truth's."""

    def latency_ms(self) -> float: ...


class TrainedModel(Trained, Protocol):
    """One model: not several folds' together."""

    def exhibits(self, scores: Scores) -> Iterable[Exhibit]: ...


Train = Callable[[Recipe, Corpus, str], TrainedModel]


def train_for_real(recipe: Recipe, corpus: Corpus, device: str) -> TrainedModel:
    """The training of a recipe on a device."""
    import torch

    from search.training import Training

    return Training(recipe, corpus, torch.device(device))


def objective(
    trial: BaseTrial,
    study: Study,
    steering: Steering,
    *,
    device: str = "cpu",
    train: Train = train_for_real,
    checkpoint: BinaryIO | None = None,
    before_batch: Callable[[], None] = lambda: None,
    after_epoch: Callable[[Trained], None] = lambda training: None,
    on_scores: Callable[[Scores], None] = lambda scores: None,
) -> float | tuple[float, ...]:
    """What the trial is worth after its last epoch: of a figure, higher is better, of a cost, lower.

    One number, or with several objectives as many.

    Goes on from `checkpoint`; `after_epoch` may leave one after each epoch, before its value is reported; `on_scores`
    gets the scores of the clips that steer at each step.
    Raises TrialPruned, or TrialFailure for a failure that is the trial's own.
    """
    attributes = trial.user_attrs
    recipe = trial_recipe(study, trial, threads=attributes.get("threads"), repeat=attributes.get("repeat", 0))
    first, *others = study.objectives
    limits = Limits(study.search.constraints or ConstraintSettings(), study.objectives)
    with _impossible_settings():
        training = begun(recipe, steering, device, train)
    if "threads" not in attributes:
        trial.set_user_attr("threads", recipe.training.threads)
    limits.before_training(trial, training)
    is_baseline = trial.number == 0 and bool(study.baseline)  # never pruned: the others are compared with its whole

    def validated() -> tuple[Scores, float]:
        with _impossible_settings():
            scores = training.validation_scores()
        on_scores(scores)
        return scores, steering.figure(first, scores)

    scores, value = np.empty(0), math.nan
    if checkpoint is not None:
        training.resume(checkpoint)
        if training.step is not None:
            scores, value = validated()
            limits.after_step(trial, training)
    while training.epoch < recipe.epochs * len(steering.views):
        # Asked before an epoch, not after one: a trial that goes on at a checkpoint is asked too.
        if training.step is not None and not is_baseline and trial.should_prune():
            raise optuna.TrialPruned
        with _impossible_settings():
            training.run_epoch(before_batch)
        if training.step is None:
            after_epoch(training)
        else:
            scores, value = validated()
            after_epoch(training)
            # Wilcoxon's test takes steps for measurements of their own: means of the same folds would count twice.
            by_itself = study.search.pruner == "wilcoxon"
            trial.report(steering.last_models_figure(first, scores) if by_itself else value, training.step)
            limits.after_step(trial, training)
    limits.after_training(trial, steering, scores)
    if not others:
        return value
    costs = limits.costs(trial)
    return value, *(costs[other] if other in costs else steering.figure(other, scores) for other in others)


def begun(recipe: Recipe, steering: Steering, device: str, train: Train) -> Trained:
    """The training of a trial: one model, or one for each fold."""
    if len(steering.views) > 1:
        return CrossValidation(recipe, steering.views, device, train)
    return train(recipe, steering.views[0], device)


@contextmanager
def _impossible_settings() -> Iterator[None]:
    """Settings that the recordings do not serve are that trial's own failure."""
    try:
        yield
    except UnservedError as error:
        raise TrialFailure(f"impossible setting: {error}") from error


def trial_recipe(study: Study, trial: BaseTrial, *, threads: int | None = None, repeat: int = 0) -> Recipe:
    """The recipe that a trial trains, seed and threads included.

    `threads` are those it was begun with; `repeat` tells how many trials had its settings before: a repeat has another
    seed, also where the study gives one. Raises TrialFailure for an impossible recipe.
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
