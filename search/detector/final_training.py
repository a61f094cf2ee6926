"""The final detector: the recipe's trial is repeated, and its model is measured on the held-out test clips.

A trial with folds or proxies holds out training clips as validation clips. It is repeated only for its metric: the
detector is then trained anew on all training clips.
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
from search.detector.best_member import BestMember, measured_on_test, name_of_best_member
from search.detector.detector import Detector
from search.detector.optimism import SeedSpread, Spread, optimism_of
from search.detector.thresholds import ThresholdScores
from search.errors import StudyError
from search.evaluation.evaluate import evaluate
from search.evaluation.metrics import Metric, mean_auc, metric_of
from search.evaluation.truth import Truth
from search.preparation.prepared import PreparedRecipe
from search.storage.counted_evaluations import NO_STORAGE
from search.study.ensembles import seed_groups
from search.study.objectives import METRICS
from search.study.recipe import Recipe
from search.training.cross_validation import start_training
from search.training.loop import Training, no_interruption
from search.training.protocols import ModelTraining
from search.validation.split import blind, has_defined_id, held_out_clips
from search.validation.views import ValidationData


def train_detector(
    prepared: PreparedRecipe,
    device: torch.device,
    *,
    on_epoch: Callable[[int, int], None] = lambda epoch, epochs: None,
) -> Detector:
    """Trains the detector as the recipe's trial was trained, and measures it on the test clips that no search has used.

    `on_epoch` is called with the number of finished epochs and the number of all.
    """
    recipe, corpus, validation_data = _with_seed_and_threads(prepared.recipe), prepared.corpus, prepared.validation_data
    trains_anew = recipe.validation.holds_out_training_clips  # the trial's model has not seen all training clips
    epochs = recipe.epochs * (len(validation_data.views) + trains_anew)
    training, validation = _repeat_trial(
        recipe, validation_data, device, on_epoch=lambda epoch: on_epoch(epoch, epochs)
    )
    if trains_anew:
        del training  # no two models at a time: a device may have no room for both
        training = Training(recipe, blind(corpus, recipe.validation), device)
        while training.epoch < recipe.epochs:
            training.run_epoch()
            on_epoch(epochs - recipe.epochs + training.epoch, epochs)
    held_out = held_out_clips(corpus, recipe.validation)
    test = _Scored.by(training, held_out) if has_defined_id(held_out) else None
    comparable = None if recipe.validation.uses_proxies else test
    objective = recipe.validation.objectives[0]
    return Detector(
        recipe=training.recipe,
        scorer=training.scorer,
        labels=training.labels,
        scores=_threshold_scores(training, test),
        validation=evaluate(validation.scores, validation.truth),
        value=validation_data.metric(objective, validation.scores),
        test=None if test is None else evaluate(test.scores, test.truth),
        test_value=None if comparable is None else _metric_if_defined(METRICS[objective], comparable),
        optimism=None
        if comparable is None
        else optimism_of(validation.scores, validation.truth, comparable.scores, comparable.truth),
        seeds={
            name: SeedSpread(
                seeds=tuple(members.values()),
                validation=Spread(validation.aucs_of(members)),
                test=None if test is None else Spread(test.aucs_of(members)),
                seed_matters=any(part is not None and part.differ(members) for part in (validation, test)),
            )
            for name, members in seed_groups(recipe).items()
        },
        best_member=_best_member(recipe, validation, test),
        test_evaluations=NO_STORAGE,
        fingerprint=corpus.fingerprint,
        dropped=training.dropped,
    )


@dataclass(frozen=True)
class _Scored:
    """Labelled clips and their scores."""

    scores: Scores  # by the detector
    truth: Truth
    of_members: Mapping[str, Scores]  # by each member alone, of those that are measured alone

    @classmethod
    def by(cls, training: Training, clips: Sequence[Clip]) -> _Scored:
        return cls(training.scores_of(clips), Truth.of(clips), _member_scores(training, clips))

    def aucs_of(self, members: Iterable[str]) -> tuple[float, ...]:
        return tuple(mean_auc(self.of_members[name], self.truth) for name in members)

    def differ(self, members: Iterable[str]) -> bool:
        """Whether these members score any clip differently."""
        first, *others = (self.of_members[name] for name in members)
        return not all(np.array_equal(first, other) for other in others)


def _repeat_trial(
    recipe: Recipe, validation_data: ValidationData, device: torch.device, *, on_epoch: Callable[[int], None]
) -> tuple[Training, _Scored]:
    """Repeats the recipe's trial: the model of its last view, and the scores of the validation clips."""
    model: list[Training] = []

    def train(recipe: Recipe, view: Corpus, device: str) -> ModelTraining:
        model.clear()  # no two at a time: a device may have no room for both
        model.append(Training(recipe, view, torch.device(device)))
        return model[0]

    trial = start_training([recipe], validation_data, str(device), train)
    by_member: dict[str, list[Scores]] = defaultdict(list)  # the clips of one view after those of the other
    while trial.epoch < recipe.epochs * len(validation_data.views):
        trial.run_epoch(no_interruption)
        on_epoch(trial.epoch)
        if trial.epoch % recipe.epochs == 0:  # the training of a view's model has finished
            for name, scores in _member_scores(model[0], model[0].validation_clips).items():
                by_member[name].append(scores)
    of_members = {name: np.concatenate(scores) for name, scores in by_member.items()}
    return model[0], _Scored(trial.validation_scores(), validation_data.truth, of_members)


def _member_scores(training: Training, clips: Sequence[Clip]) -> dict[str, Scores]:
    """The scores by each member of an ensemble alone that is measured alone: see seeds and the best member.

    Each member's scores are on its own scale. The ensemble rescales them, which keeps the order of an ID's clips.
    """
    recipe = training.recipe
    measured = {name for members in seed_groups(recipe).values() for name in members} | {name_of_best_member(recipe)}
    if measured == {None}:
        return {}
    training.scores_of(clips[:1])  # fits densities and calibrations, if that has not been done yet
    scorer, recordings = training.scorer, training.recordings_of(clips)
    ensemble = scorer.scorer if isinstance(scorer, Calibrated) else scorer
    assert isinstance(ensemble, Fusion)
    by_member = {}
    for name, member in zip(recipe.ensemble, ensemble.members, strict=True):
        assert isinstance(member, Calibrated)
        if name in measured:
            by_member[name] = member.scorer.scores_of(recordings)
    return by_member


def _best_member(recipe: Recipe, validation: _Scored, test: _Scored | None) -> BestMember | None:
    name = name_of_best_member(recipe)
    if name is None:
        return None
    on_test = None if test is None else measured_on_test(test.of_members[name], test.scores, test.truth)
    (on_validation,) = validation.aucs_of([name])
    return BestMember(name, on_validation, on_test)


def _metric_if_defined(metric: Metric, clips: _Scored) -> float | None:
    """The metric of some clips; None if they do not define it, for example for want of normal clips."""
    try:
        return metric_of(metric, clips.scores, clips.truth)
    except StudyError:
        return None


def _threshold_scores(training: Training, test: _Scored | None) -> ThresholdScores:
    """The scores that set the thresholds, and those that they are counted on."""
    withheld = training.clips.withheld
    scores = training.scores_of(withheld) if withheld else np.empty(0)
    return ThresholdScores.of(
        (scores, [clip.id_name for clip in withheld]), None if test is None else (test.scores, test.truth)
    )


def _with_seed_and_threads(recipe: Recipe) -> Recipe:
    """The recipe with a seed and a number of threads, which one written by hand may lack."""
    seed = 0 if recipe.training.seed is None else recipe.training.seed
    threads = recipe.training.threads or torch.get_num_threads()
    return recipe.model_copy(update={"training": recipe.training.model_copy(update={"seed": seed, "threads": threads})})
