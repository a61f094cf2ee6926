"""Trains detectors on recordings without the checks of a preparation."""

from __future__ import annotations

from collections.abc import Callable

import torch

from features.clips.corpus import Corpus
from search.detector.detector import Detector
from search.detector.final_training import train_detector
from search.preparation.prepared import PreparedRecipe
from search.study.recipe import Recipe
from search.validation.views import validation_data_of


def detector_of(
    recipe: Recipe,
    corpus: Corpus,
    device: torch.device,
    *,
    on_epoch: Callable[[int, int], None] = lambda epoch, epochs: None,
) -> Detector:
    """Trains a recipe's detector on a corpus."""
    validation_data = validation_data_of(corpus, recipe.validation, recipe.corpus.train_on)
    return train_detector(PreparedRecipe(corpus, recipe.validation, validation_data, recipe), device, on_epoch=on_epoch)
