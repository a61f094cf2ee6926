"""The final detector: a trained model, its thresholds and its metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from features.cleaning import Outlier
from models.labels import Labels
from models.scoring.scorer import Scorer
from search.detector.best_member import BestMember
from search.detector.optimism import Optimism, SeedSpread
from search.detector.thresholds import Threshold, ThresholdScores
from search.evaluation.decisions import Decisions
from search.evaluation.evaluate import Metrics
from search.storage.counted_evaluations import TestEvaluations
from search.study.recipe import Recipe


@dataclass(frozen=True)
class Detector:
    """A trained model, its thresholds and its metrics."""

    recipe: Recipe
    scorer: Scorer
    labels: Labels  # of the clips that it was trained on
    scores: ThresholdScores  # of the withheld clips, which set the thresholds, and of the test clips
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

    @cached_property
    def rated_thresholds(self) -> Mapping[str, Threshold]:
        """The thresholds by machine/ID, each with the false-alarm rate that it gives."""
        return self.scores.thresholds(self.recipe.scoring)

    @property
    def thresholds(self) -> dict[str, float]:
        """The thresholds by machine/ID; a clip that scores higher is called an anomaly."""
        return {name: threshold.value for name, threshold in self.rated_thresholds.items()}

    @property
    def threshold_clips(self) -> dict[str, int]:
        """How many withheld normal clips set each threshold."""
        return {name: threshold.clips for name, threshold in self.rated_thresholds.items()}

    @property
    def decisions_per_id(self) -> dict[str, Decisions] | None:
        """What the thresholds decide on the test clips of each machine ID; None without test metrics."""
        return self.scores.decisions(self.thresholds)

    @property
    def decisions(self) -> Decisions | None:
        """The same of all machine IDs together."""
        each = self.decisions_per_id
        return None if each is None else Decisions.together(each.values())
