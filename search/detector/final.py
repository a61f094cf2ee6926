"""The final detector: the recipe's trial once more, and then, for the first time, the held-out test clips.

Where a trial keeps training clips aside to be judged by them (folds, proxies), the trial is repeated for its figure,
and the detector is trained anew on all of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from features.clips.clip import Clip
from features.clips.corpus import Corpus
from models.scoring.fusion import Fusion
from models.scoring.scorer import Calibrated
from models.scoring.scores import Scores
from models.scoring.threshold import threshold_of
from search.detector.detector import Detector
from search.detector.optimism import SeedSpread, Spread, optimism_of
from search.errors import StudyError
from search.evaluation.evaluate import evaluate
from search.evaluation.metrics import Metric, mean_auc, metric_of
from search.evaluation.truth import Truth
from search.preparation.prepared import PreparedRecipe
from search.storage.test_evaluations import NO_STORAGE
from search.study.ensembles import seed_groups
from search.study.objectives import METRICS
from search.study.recipe import Recipe
from search.training.cross_validation import start_training
from search.training.loop import Training, no_interruption
from search.training.protocols import ModelTraining
from search.validation.split import blind, held_out_clips, undefined_ids
from search.validation.views import ValidationData


def train_detector(
    prepared: PreparedRecipe,
    device: torch.device,
    *,
    on_epoch: Callable[[int, int], None] = lambda epoch, epochs: None,
) -> Detector:
    """Trains as the recipe's trial was trained, and measures on the test clips that no search has seen.

    `on_epoch` is told how many epochs are done, and of how many.
    """
    recipe, corpus, validation_data = _closed(prepared.recipe), prepared.corpus, prepared.validation_data
    is_another = recipe.validation.holds_out_training_clips  # than the trial's model
    epochs = recipe.epochs * (len(validation_data.views) + is_another)
    training, validation = _repeated(recipe, validation_data, device, on_epoch=lambda epoch: on_epoch(epoch, epochs))
    if is_another:
        del training  # no two models at a time: a device may have no room for both
        training = Training(recipe, blind(corpus, recipe.validation), device)
        while training.epoch < recipe.epochs:
            training.run_epoch()
            on_epoch(epochs - recipe.epochs + training.epoch, epochs)
    thresholds, counts = _thresholds(training)
    held_out = held_out_clips(corpus, recipe.validation)
    has_both_labels = len(undefined_ids(held_out)) < len({clip.id_name for clip in held_out})
    test = _Scored.by(training, held_out) if has_both_labels else None
    comparable = None if recipe.validation.uses_proxies else test
    objective = recipe.validation.objectives[0]
    return Detector(
        recipe=training.recipe,
        scorer=training.scorer,
        labels=training.labels,
        thresholds=thresholds,
        threshold_clips=counts,
        validation=evaluate(validation.scores, validation.truth),
        value=validation_data.metric(objective, validation.scores),
        test=None if test is None else evaluate(test.scores, test.truth),
        test_value=None if comparable is None else _if_told(METRICS[objective], comparable),
        optimism=None
        if comparable is None
        else optimism_of(validation.scores, validation.truth, comparable.scores, comparable.truth),
        seeds={
            name: SeedSpread(
                seeds=tuple(members.values()),
                validation=Spread(validation.aucs_of(members)),
                test=None if test is None else Spread(test.aucs_of(members)),
            )
            for name, members in seed_groups(recipe).items()
        },
        test_evaluations=NO_STORAGE,
        fingerprint=corpus.fingerprint,
        dropped=training.dropped,
    )


@dataclass(frozen=True)
class _Scored:
    """Labelled clips and their scores: the detector's, and those that members which differ in their seed give alone."""

    scores: Scores
    truth: Truth
    of_members: Mapping[str, Scores]

    @classmethod
    def by(cls, training: Training, clips: Sequence[Clip]) -> _Scored:
        return cls(training.scores_of(clips), Truth.of(clips), _alone(training, clips))

    def aucs_of(self, members: Iterable[str]) -> tuple[float, ...]:
        return tuple(mean_auc(self.of_members[name], self.truth) for name in members)


def _repeated(
    recipe: Recipe, validation_data: ValidationData, device: torch.device, *, on_epoch: Callable[[int], None]
) -> tuple[Training, _Scored]:
    """The recipe's trial once more: the model of its last view, and how the clips that steer were scored."""
    model: list[Training] = []

    def train(recipe: Recipe, view: Corpus, device: str) -> ModelTraining:
        model.clear()  # no two at a time
        model.append(Training(recipe, view, torch.device(device)))
        return model[0]

    trial = start_training(recipe, validation_data, str(device), train)
    alone: dict[str, list[Scores]] = defaultdict(list)  # a view's clips after the other's
    while trial.epoch < recipe.epochs * len(validation_data.views):
        trial.run_epoch(no_interruption)
        on_epoch(trial.epoch)
        if trial.epoch % recipe.epochs == 0:  # the model of a view has learnt all that it will
            for name, scores in _alone(model[0], model[0].validation_clips).items():
                alone[name].append(scores)
    of_members = {name: np.concatenate(scores) for name, scores in alone.items()}
    return model[0], _Scored(trial.validation_scores(), validation_data.truth, of_members)


def _alone(training: Training, clips: Sequence[Clip]) -> dict[str, Scores]:
    """What members that differ in their seed alone would give without the others; empty if there are none.

    On the scale of each; the ensemble's, on which it brings them, orders the clips of a machine ID alike.
    """
    recipe = training.recipe
    if not seed_groups(recipe):
        return {}
    training.scores_of(clips[:1])  # learns densities and calibrations, where that is still to be done
    scorer, recordings = training.scorer, training.recordings_of(clips)
    ensemble = scorer.scorer if isinstance(scorer, Calibrated) else scorer
    assert isinstance(ensemble, Fusion)
    found = {}
    for name, member in zip(recipe.ensemble, ensemble.members, strict=True):
        assert isinstance(member, Calibrated)
        found[name] = member.scorer.scores_of(recordings)
    return found


def _if_told(metric: Metric, clips: _Scored) -> float | None:
    """A metric of some clips, if they tell it."""
    try:
        return metric_of(metric, clips.scores, clips.truth)
    except StudyError:
        return None


def _thresholds(training: Training) -> tuple[dict[str, float], dict[str, int]]:
    """The threshold of each machine ID, and how many withheld clips it rests on."""
    withheld = training.clips.withheld
    scores = training.scores_of(withheld) if withheld else np.empty(0)
    thresholds, counts = {}, {}
    for name in sorted({clip.id_name for clip in withheld}):
        members = [index for index, clip in enumerate(withheld) if clip.id_name == name]
        thresholds[name] = threshold_of(scores[members], training.recipe.scoring)
        counts[name] = len(members)
    return thresholds, counts


def _closed(recipe: Recipe) -> Recipe:
    """With a seed and threads, for a recipe written by hand."""
    seed = 0 if recipe.training.seed is None else recipe.training.seed
    threads = recipe.training.threads or torch.get_num_threads()
    return recipe.model_copy(update={"training": recipe.training.model_copy(update={"seed": seed, "threads": threads})})
