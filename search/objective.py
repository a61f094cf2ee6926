"""What a trial does: close the recipe, train, validate, report, prune.

Nothing here imports torch before a training is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, BinaryIO, Protocol

import optuna
from optuna.trial import BaseTrial
from pydantic import ValidationError

from features.clip import Clip
from features.corpus import Corpus
from features.errors import UnservedError
from search.checkpoints import Resumable
from search.errors import TrialFailure
from search.evaluation import Scores, Truth, mean_auc
from search.recipe import Recipe
from search.study_file import Study

if TYPE_CHECKING:
    from search.exhibits import Exhibit


class Trained(Resumable, Protocol):
    """A recipe in training: `search.training.Training`, or a stand-in that needs no torch."""

    @property
    def validation_clips(self) -> Sequence[Clip]: ...

    def run_epoch(self, before_batch: Callable[[], None]) -> None: ...

    def validation_scores(self) -> Scores: ...

    def exhibits(self, scores: Scores) -> Iterable[Exhibit]: ...


Train = Callable[[Recipe, Corpus, str], Trained]


def train_for_real(recipe: Recipe, corpus: Corpus, device: str) -> Trained:
    """The training of a recipe on a device."""
    import torch

    from search.training import Training

    return Training(recipe, corpus, torch.device(device))


def objective(
    trial: BaseTrial,
    study: Study,
    corpus: Corpus,
    *,
    device: str = "cpu",
    train: Train = train_for_real,
    checkpoint: BinaryIO | None = None,
    before_batch: Callable[[], None] = lambda: None,
    after_epoch: Callable[[Trained], None] = lambda training: None,
    on_scores: Callable[[Scores], None] = lambda scores: None,
) -> float:
    """The validation AUC after the trial's last epoch, higher is better.

    `corpus` is a blinded one (see search.split): of the labelled test clips, those that steer the search alone.
    Goes on from `checkpoint`; `after_epoch` may leave one after each epoch, before its value is reported; `on_scores`
    gets the validation clips' scores after each epoch.
    Raises TrialPruned, or TrialFailure for a failure that is the trial's own.
    """
    attributes = trial.user_attrs
    recipe = trial_recipe(study, trial, threads=attributes.get("threads"), repeat=attributes.get("repeat", 0))
    try:
        training = train(recipe, corpus, device)
    except UnservedError as error:
        raise TrialFailure(f"impossible setting: {error}") from error
    if "threads" not in attributes:
        trial.set_user_attr("threads", recipe.training.threads)
    truth = Truth.of(training.validation_clips)
    is_baseline = trial.number == 0 and bool(study.baseline)  # never pruned: the others are compared with its whole
    value = math.nan
    if checkpoint is not None:
        training.resume(checkpoint)
        value = _validate(training, truth, on_scores)
    while training.epoch < recipe.epochs:
        # Asked before an epoch, not after one: a trial that goes on at a checkpoint is asked too.
        if training.epoch > 0 and not is_baseline and trial.should_prune():
            raise optuna.TrialPruned
        training.run_epoch(before_batch)
        value = _validate(training, truth, on_scores)
        after_epoch(training)
        trial.report(value, training.epoch)
    return value


def _validate(training: Trained, truth: Truth, on_scores: Callable[[Scores], None]) -> float:
    try:
        scores = training.validation_scores()
    except UnservedError as error:
        raise TrialFailure(f"impossible setting: {error}") from error
    on_scores(scores)
    return mean_auc(scores, truth)


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
