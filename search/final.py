"""The final detector: the recipe's trial once more, and then, for the first time, the held-out test clips."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from features.cleaning import Outlier
from features.corpus import Corpus
from models.labels import Labels
from models.scorer import Scorer
from models.threshold import threshold_of
from search.evaluation import Figures, Truth, evaluate
from search.recipe import Recipe
from search.split import blind, held_out_clips, undefined_ids
from search.training import Training


@dataclass(frozen=True)
class Detector:
    """A trained model, its thresholds, and what was measured of it."""

    recipe: Recipe
    scorer: Scorer
    labels: Labels  # of the clips that it was trained on
    thresholds: Mapping[str, float]  # by machine/ID; a clip that scores higher is called an anomaly
    threshold_clips: Mapping[str, int]  # withheld normal clips behind each
    validation: Figures
    test: Figures | None  # None where no ID has both labels among the held-out clips
    fingerprint: str  # of the corpus
    dropped: tuple[Outlier, ...]  # training clips that cleaning left out


def train_detector(
    recipe: Recipe,
    corpus: Corpus,
    device: torch.device,
    *,
    on_epoch: Callable[[int], None] = lambda epoch: None,
) -> Detector:
    """Trains as the recipe's trial was trained, and measures on the test clips that no search has seen."""
    training = Training(_closed(recipe), blind(corpus, recipe.validation), device)
    while training.epoch < recipe.epochs:
        training.run_epoch()
        on_epoch(training.epoch)
    withheld = training.clips.withheld
    scores = training.scores_of(withheld) if withheld else None
    thresholds, counts = {}, {}
    for name in sorted({clip.id_name for clip in withheld}):
        members = [index for index, clip in enumerate(withheld) if clip.id_name == name]
        assert scores is not None
        thresholds[name] = threshold_of(scores[members], recipe.scoring)
        counts[name] = len(members)
    held_out = held_out_clips(corpus, recipe.validation)
    has_both_labels = len(undefined_ids(held_out)) < len({clip.id_name for clip in held_out})
    return Detector(
        recipe=training.recipe,
        scorer=training.scorer,
        labels=training.labels,
        thresholds=thresholds,
        threshold_clips=counts,
        validation=evaluate(training.validation_scores(), Truth.of(training.validation_clips)),
        test=evaluate(training.scores_of(held_out), Truth.of(held_out)) if has_both_labels else None,
        fingerprint=corpus.fingerprint,
        dropped=training.dropped,
    )


def _closed(recipe: Recipe) -> Recipe:
    """With a seed and threads, for a recipe written by hand."""
    seed = 0 if recipe.training.seed is None else recipe.training.seed
    threads = recipe.training.threads or torch.get_num_threads()
    return recipe.model_copy(update={"training": recipe.training.model_copy(update={"seed": seed, "threads": threads})})
