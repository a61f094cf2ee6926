"""Trains recipes to their end."""

from __future__ import annotations

import torch

from features.clips.corpus import Corpus
from search.study.recipe import Recipe
from search.training.loop import Training


def trained(recipe: Recipe, corpus: Corpus) -> Training:
    """A training on the CPU after all epochs of its recipe."""
    training = Training(recipe, corpus, torch.device("cpu"))
    while training.epoch < recipe.epochs:
        training.run_epoch()
    return training
