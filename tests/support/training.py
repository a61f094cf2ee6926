"""Trains recipes to their end, and shows what their models see."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from features.clips.clip import Clip
from features.clips.corpus import Corpus
from features.windows.excerpts import Excerpts
from models.anomaly_model import AnomalyModel
from search.study.recipe import Recipe
from search.training.loop import Training


def trained(recipe: Recipe, corpus: Corpus) -> Training:
    """A training on the CPU after all epochs of its recipe."""
    training = Training(recipe, corpus, torch.device("cpu"))
    while training.epoch < recipe.epochs:
        training.run_epoch()
    return training


def models_of(training: Training) -> list[AnomalyModel]:
    """All networks of a training: for each member, and for each machine ID."""
    return [single.model for single in training.scorer.singles()]


def excerpts_of(training: Training, clips: Sequence[Clip]) -> Excerpts:
    """What the first model sees of these clips."""
    single = next(training.scorer.singles())
    return training.recordings_of(clips).excerpts(single.member.features, single.member.model, single.labels)
