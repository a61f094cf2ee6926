"""What a trial does: close the recipe, train, validate, report, prune.

torch is imported only when a training starts.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import BinaryIO

import numpy as np
import optuna
from optuna.trial import BaseTrial

from features.clips.corpus import Corpus
from features.errors import UnservedError
from models.scoring.combination import Scales
from models.scoring.scores import Scores
from search.errors import TrialFailure
from search.study.machine_types import MACHINE_TYPES
from search.study.precision import precision_of
from search.study.recipe import Recipe
from search.study.search_settings import ConstraintSettings
from search.study.study import Study
from search.study.trial_recipe import trial_recipe
from search.study.variants import variants_of
from search.training.costs import Limits
from search.training.cross_validation import start_training
from search.training.machine_type_choice import ChoiceForEachType
from search.training.protocols import Evidence, ModelTraining, Train, TrialTraining
from search.training.variant_choice import NoEvidence, VariantChoice
from search.validation.views import ValidationData

_log = logging.getLogger(__name__)


def train_for_real(recipe: Recipe, corpus: Corpus, device: str) -> ModelTraining:
    """Start the training of a recipe on a device, with torch."""
    import torch

    from search.training.loop import Training

    return Training(recipe, corpus, torch.device(device))


def objective(
    trial: BaseTrial,
    study: Study,
    validation_data: ValidationData,
    *,
    device: str = "cpu",
    train: Train = train_for_real,
    checkpoint: BinaryIO | None = None,
    before_batch: Callable[[], None] = lambda: None,
    after_epoch: Callable[[TrialTraining], None] = lambda training: None,
    on_scores: Callable[[Scores], None] = lambda scores: None,
    on_scales: Callable[[Scales], None] | None = None,
    evidence: Evidence | None = None,
) -> float | tuple[float, ...]:
    """Run a trial and return its value after the last epoch: one number, or one for each of several objectives.

    Of a metric, a higher value is better; of a cost, a lower one.

    Settings that change nothing of the training are closed after it, by `evidence` (search.training.choice).

    The training continues from `checkpoint`. `after_epoch` is called after each epoch, before the epoch's value is
    reported: it may save a checkpoint. `on_scores` is called at each step with the scores of the validation clips.
    `on_scales` is called after the last epoch with the scale that these scores would have in an ensemble, if they have
    one. Raises TrialPruned, or TrialFailure if the trial itself is at fault.
    """
    attributes = trial.user_attrs
    close = partial(
        trial_recipe,
        study,
        threads=attributes.get("threads"),
        precision=attributes.get("precision"),
        device=device,
        repeat=attributes.get("repeat", 0),
    )
    variants = variants_of(study, trial, close)
    recipe = variants[0].recipe
    first, *others = study.objectives
    # Wilcoxon's test takes steps as independent measurements: a mean over folds would count a fold repeatedly.
    fold_alone = study.search.pruner == "wilcoxon"
    for_each = study.search.scoring_for is not None and len(variants) > 1 and len(validation_data.machines) > 1
    choose = ChoiceForEachType if for_each else VariantChoice
    choice = choose(variants, validation_data, first, evidence or NoEvidence(), reports_folds_alone=fold_alone)
    limits = Limits(study.search.constraints or ConstraintSettings(), study.objectives)
    with _impossible_settings():
        training = start_training(choice.recipes, validation_data, device, train)
    if "threads" not in attributes:
        if for_each:
            trial.set_user_attr(MACHINE_TYPES, validation_data.machines)
        trial.set_user_attr("precision", precision_of(recipe))
        trial.set_user_attr("threads", recipe.training.threads)
    limits.before_training(trial, training)
    is_baseline = trial.number == 0 and bool(study.baseline)  # never pruned: others are compared with its last value

    def validated() -> tuple[Scores, float]:
        with _impossible_settings():
            scores = choice.scores(training)
        on_scores(scores)
        return scores, validation_data.metric(first, scores)

    def is_judged() -> bool:
        step, is_last = training.step, training.epoch == epochs
        return step is not None and choice.is_judged(step, is_last=is_last)

    epochs = recipe.epochs * len(validation_data.views)
    scores, value = np.empty(0), math.nan
    if checkpoint is not None:
        training.resume(checkpoint)
        if is_judged():
            scores, value = validated()
            limits.after_step(trial, training)
    while training.epoch < epochs:
        # Asked before an epoch, not after it: a trial that continues from a checkpoint is asked, too.
        if is_judged() and not is_baseline and trial.should_prune():
            raise optuna.TrialPruned
        with _impossible_settings():
            training.run_epoch(before_batch)
        if not is_judged():
            after_epoch(training)
        else:
            assert training.step is not None
            scores, value = validated()
            after_epoch(training)
            _log.debug("trial %d: %s %.4f at step %d", trial.number, first, value, training.step)
            trial.report(validation_data.last_models_metric(first, scores) if fold_alone else value, training.step)
            limits.after_step(trial, training)
    limits.after_training(trial, validation_data, scores)
    if on_scales is not None and (scales := training.scales_of(choice.taken)) is not None:
        on_scales(scales)
    if not others:
        return value
    costs = limits.costs(trial)
    return value, *(costs[other] if other in costs else validation_data.metric(other, scores) for other in others)


@contextmanager
def _impossible_settings() -> Iterator[None]:
    """Raise TrialFailure for settings that the recordings cannot serve, and for scores that are not finite."""
    try:
        yield
    except FloatingPointError as error:
        raise TrialFailure(str(error)) from error
    except UnservedError as error:
        raise TrialFailure(f"impossible setting: {error}") from error
