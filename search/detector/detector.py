"""The final detector: a trained model, its thresholds, and what was measured of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from features.cleaning import Outlier
from models.labels import Labels
from models.scoring.scorer import Scorer
from search.detector.optimism import Optimism, SeedSpread
from search.evaluation.evaluate import Metrics
from search.storage.test_evaluations import TestEvaluations
from search.study.recipe import Recipe


@dataclass(frozen=True)
class Detector:
    """A trained model, its thresholds, and what was measured of it."""

    recipe: Recipe
    scorer: Scorer
    labels: Labels  # of the clips that it was trained on
    thresholds: Mapping[str, float]  # by machine/ID; a clip that scores higher is called an anomaly
    threshold_clips: Mapping[str, int]  # withheld normal clips behind each
    validation: Metrics
    value: float  # of the recipe's first objective, as its trial had it
    test: Metrics | None  # None where no ID has both labels among the held-out clips
    test_value: float | None  # of that objective; None where the held-out clips do not tell it, or it is of made faults
    optimism: Optimism | None  # None without a test figure, and where the validation's is of made faults or other IDs
    seeds: Mapping[str, SeedSpread]  # by recipe, of members of an ensemble that differ in their seed alone
    test_evaluations: TestEvaluations  # at the held-out clips
    fingerprint: str  # of the corpus
    dropped: tuple[Outlier, ...]  # training clips that cleaning left out
