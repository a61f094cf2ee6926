"""The final detector: a trained model, its thresholds and its metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from features.cleaning import Outlier
from models.labels import Labels
from models.scoring.scorer import Scorer
from search.detector.best_member import BestMember
from search.detector.optimism import Optimism, SeedSpread
from search.evaluation.evaluate import Metrics
from search.storage.counted_evaluations import TestEvaluations
from search.study.recipe import Recipe


@dataclass(frozen=True)
class Detector:
    """A trained model, its thresholds and its metrics."""

    recipe: Recipe
    scorer: Scorer
    labels: Labels  # of the clips that it was trained on
    thresholds: Mapping[str, float]  # by machine/ID; a clip that scores higher is called an anomaly
    threshold_clips: Mapping[str, int]  # how many withheld normal clips set each threshold
    validation: Metrics
    value: float  # of the recipe's first objective, as its trial had it
    test: Metrics | None  # None where no ID has both labels among the test clips
    test_value: float | None  # of that objective; None where the test clips do not define it, and with synthetic faults
    optimism: Optimism | None  # None without test metrics, and where validation had synthetic faults or other IDs
    seeds: Mapping[str, SeedSpread]  # by recipe, over the members of an ensemble that differ in their seed alone
    best_member: BestMember | None  # of an ensemble of a study's trials, measured alone on the same clips
    test_evaluations: TestEvaluations  # on the test clips
    fingerprint: str  # of the corpus
    dropped: tuple[Outlier, ...]  # training clips that cleaning left out
