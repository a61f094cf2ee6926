"""Cross-validation: trains one model after the other, each on its own view of the corpus, as one training.

epoch : counts over all models, from 0; with E epochs for each model, fold f (from 0) ends after (f + 1) · E.
step  : how many folds have ended; pruners compare trials there.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from typing import BinaryIO

import numpy as np

from features.clips.corpus import Corpus
from features.errors import UnservedError
from models.scoring.combination import Scales
from models.scoring.scores import Scores
from search.study.recipe import Recipe
from search.training.protocols import Train, TrialTraining, VariantScores
from search.validation.views import ValidationData


class CrossValidation:
    """The models of a recipe, one for each view of the corpus."""

    def __init__(self, recipes: Sequence[Recipe], views: Sequence[Corpus], device: str, train: Train) -> None:
        """Start with the first view. `recipes` differ in settings of scoring alone.

        Raises what `train` raises if the recordings cannot serve the first recipe.
        """
        self._recipes, self._views, self._device, self._train = recipes, views, device, train
        self._recipe = recipes[0]
        self._scores: list[list[VariantScores]] = []  # of the folds that have ended, by recipe
        self._begin(0)

    @property
    def epoch(self) -> int:
        return self._fold * self._recipe.epochs + self._model.epoch

    @property
    def steps(self) -> int:
        return len(self._scores)

    @property
    def step(self) -> int | None:
        return self.steps if self._model.epoch == self._recipe.epochs else None

    @property
    def parameters(self) -> int:
        return self._model.parameters

    def run_epoch(self, before_batch: Callable[[], None]) -> None:
        """Train the current model for an epoch, or start the next one. Raises TrialFailure as its training does."""
        if self._model.epoch == self._recipe.epochs:
            self._end()
            self._begin(self._fold + 1)
        self._model.run_epoch(before_batch)
        if self._model.epoch == self._recipe.epochs:
            several = len(self._recipes) > 1
            self._scores.append(
                self._model.scores_of_variants(self._recipes) if several else [self._model.validation_scores()]
            )

    def validation_scores(self) -> Scores:
        """Return the scores of the validation clips of all folds that have ended, one fold after the other."""
        scores = self._of_all_folds(0)
        if isinstance(scores, Exception):
            raise scores
        return scores

    def scores_of_variants(self, recipes: Sequence[Recipe]) -> list[VariantScores]:
        """Return the same by each recipe, or the reason why it gives no detector in one of the folds."""
        return [self._of_all_folds(variant) for variant in range(len(recipes))]

    def _of_all_folds(self, variant: int) -> VariantScores:
        parts: list[Scores] = []
        for fold in self._scores:
            scores = fold[variant]
            if isinstance(scores, Exception):
                return scores
            parts.append(scores)
        return np.concatenate(parts)

    def scales_of(self, recipe: Recipe) -> Scales | None:
        """Return None: each fold has a model of its own, and the earlier ones are gone."""
        return None

    def latency_ms(self) -> float:
        return self._model.latency_ms()

    def save(self, file: BinaryIO) -> None:
        """Write a checkpoint of the current fold, and the scores of the folds before it."""
        scores = [[str(s) if isinstance(s, Exception) else s.tolist() for s in fold] for fold in self._scores]
        state = {"fold": self._fold, "scores": scores}
        head = json.dumps(state).encode()
        file.write(len(head).to_bytes(8) + head)
        self._model.save(file)

    def resume(self, file: BinaryIO) -> None:
        """Continue from a checkpoint that `save` wrote."""
        state = json.loads(file.read(int.from_bytes(file.read(8))))
        self._scores = [[UnservedError(s) if isinstance(s, str) else np.array(s) for s in f] for f in state["scores"]]
        if state["fold"] != self._fold:
            self._end()
            self._begin(state["fold"])
        self._model.resume(io.BytesIO(file.read()))

    def _begin(self, fold: int) -> None:
        self._fold, self._model = fold, self._train(self._recipe, self._views[fold], self._device)

    def _end(self) -> None:
        del self._model  # a device may have memory for one model, but not for two


def start_training(
    recipes: Sequence[Recipe], validation_data: ValidationData, device: str, train: Train
) -> TrialTraining:
    """Start the training of a trial: one model, or one for each fold. `recipes` differ in settings of scoring alone."""
    if len(validation_data.views) > 1:
        return CrossValidation(recipes, validation_data.views, device, train)
    return train(recipes[0], validation_data.views[0], device)
