"""The two JSON files of a bundle, key by key in the order in which they are written.

detector.json   what a detector is loaded from, beside recipe and weights
metrics.json    the validation and test metrics; `offkey train --json` prints them below `bundle`

A new key does not change the format: a file without it, or with keys that are unknown here, can still be read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from models.labels import Labels
from search.detector.best_member import BestMember
from search.detector.detector import Detector
from search.detector.optimism import Optimism, SeedSpread, Spread
from search.errors import BundleError
from search.evaluation.evaluate import IdMetrics, Metrics
from search.evaluation.interval import Interval

#: The format of the files: a bundle of another format cannot be read.
_FORMAT = 3


class _Document(BaseModel):
    """Frozen and strict: a text that reads like a number is not accepted as one."""

    model_config = ConfigDict(frozen=True, strict=True)

    def document(self) -> dict[str, Any]:
        """The content in types that JSON has."""
        return self.model_dump(mode="json")

    def text(self) -> str:
        """The text of the file."""
        return json.dumps(self.document(), indent=1)


class _Format(_Document):
    """The key that the detector.json of every format has."""

    format: int


class DetectorFile(_Format):
    """detector.json."""

    labels: Labels
    thresholds: dict[str, float]  # by machine/ID
    threshold_clips: dict[str, int]  # how many withheld normal clips set each threshold
    false_alarm_rate: float | None = None  # that the thresholds aim at; None in files of earlier versions
    corpus_fingerprint: str
    versions: dict[str, str] = {}  # of packages that a score may depend on

    @classmethod
    def of(cls, detector: Detector, versions: Mapping[str, str]) -> DetectorFile:
        """The content for a detector that was trained with these `versions`."""
        return cls(
            format=_FORMAT,
            labels=detector.labels,
            thresholds=dict(detector.thresholds),
            threshold_clips=dict(detector.threshold_clips),
            false_alarm_rate=detector.recipe.scoring.false_alarm_rate,
            corpus_fingerprint=detector.fingerprint,
            versions=dict(versions),
        )

    @classmethod
    def read(cls, path: Path, place: str | Path) -> DetectorFile:
        """The file at `path`, which belongs to the bundle at `place`.

        Raises BundleError for another format and, with the key's name, for a file that is damaged or was written by
        another program. Raises OSError if it cannot be read.
        """
        content = path.read_bytes()
        try:
            written_as = _Format.model_validate_json(content).format
            if written_as != _FORMAT:
                raise BundleError(f"{place}: a bundle of format {written_as}; this Offkey reads {_FORMAT}")
            return cls.model_validate_json(content)
        except ValidationError as error:
            raise not_whole(place, f"{path.name}: {_in_words(error)}") from error


class PartMetrics(_Document):
    """The metrics on the validation clips, or on the test clips."""

    auc: float
    interval: Interval
    pauc: float | None
    pooled_auc: float
    per_id: dict[str, IdMetrics]  # by machine/ID

    @classmethod
    def of(cls, metrics: Metrics) -> PartMetrics:
        return cls(
            auc=metrics.auc,
            interval=metrics.interval,
            pauc=metrics.pauc,
            pooled_auc=metrics.pooled,
            per_id=dict(metrics.per_id),
        )


class ObjectiveMetrics(_Document):
    """The study's first objective and its values."""

    name: str
    validation: float
    test: float | None


class SpreadMetrics(_Document):
    """The AUCs of several seeds' models."""

    auc: tuple[float, ...]
    mean: float
    sd: float
    range: tuple[float, float]

    @classmethod
    def of(cls, spread: Spread) -> SpreadMetrics:
        lowest, highest = min(spread.aucs), max(spread.aucs)
        return cls(auc=spread.aucs, mean=spread.mean, sd=spread.deviation, range=(lowest, highest))


class SeedMetrics(_Document):
    """How one recipe's AUC varies with its seed."""

    count: int
    seeds: tuple[int, ...]
    validation: SpreadMetrics
    test: SpreadMetrics | None

    @classmethod
    def of(cls, spread: SeedSpread) -> SeedMetrics:
        return cls(
            count=len(spread.seeds),
            seeds=spread.seeds,
            validation=SpreadMetrics.of(spread.validation),
            test=None if spread.test is None else SpreadMetrics.of(spread.test),
        )


class RecipesSeedMetrics(_Document):
    """How the AUC of several recipes varies with the seed, by the recipe's name."""

    recipes: dict[str, SeedMetrics]


class MetricsFile(_Document):
    """metrics.json."""

    validation: PartMetrics
    test: PartMetrics | None
    metric: ObjectiveMetrics
    optimism: Optimism | None
    test_looks: int | None
    test_clips_seen: int
    test_recipes: int | None
    seeds: SeedMetrics | RecipesSeedMetrics | None
    best_member: BestMember | None = None

    @classmethod
    def of(cls, detector: Detector) -> MetricsFile:
        """The content for a detector."""
        return cls(
            validation=PartMetrics.of(detector.validation),
            test=None if detector.test is None else PartMetrics.of(detector.test),
            metric=ObjectiveMetrics(
                name=detector.recipe.validation.objectives[0], validation=detector.value, test=detector.test_value
            ),
            optimism=detector.optimism,
            test_looks=detector.test_evaluations.count,
            test_clips_seen=detector.test_evaluations.seen,
            test_recipes=detector.test_evaluations.recipes,
            seeds=_seeds(detector.seeds),
            best_member=detector.best_member,
        )


def metrics_of(detector: Detector) -> dict[str, Any]:
    """The metrics of a detector, as `offkey train --json` prints them below `bundle`."""
    return MetricsFile.of(detector).document()


def not_whole(place: str | Path, why: object) -> BundleError:
    """The error for a place that has no bundle, or only a part of one."""
    return BundleError(f"{place} is not a bundle, or not a whole one: {why}")


def _seeds(spreads: Mapping[str, SeedSpread]) -> SeedMetrics | RecipesSeedMetrics | None:
    by_recipe = {name: SeedMetrics.of(spread) for name, spread in spreads.items()}
    if len(by_recipe) > 1:
        return RecipesSeedMetrics(recipes=by_recipe)
    return next(iter(by_recipe.values()), None)


def _in_words(error: ValidationError) -> str:
    """The first key that is not valid, and why."""
    problem = error.errors()[0]
    key = ".".join(map(str, problem["loc"]))
    if problem["type"] == "missing":
        return f"{key} is missing"
    return f"{key} {problem['msg'].removeprefix('Input ')}".strip()
