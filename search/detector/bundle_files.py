"""The two JSON files of a bundle, key by key in the order in which they are written.

detector.json   what a detector is loaded from, beside recipe and weights
metrics.json    what was measured; `offkey train --json` prints it below `bundle`

Keys that are only added leave the format as it is: a file without them, or with others, is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from models.labels import Labels
from search.detector.detector import Detector
from search.detector.optimism import Optimism, SeedSpread, Spread
from search.errors import BundleError
from search.evaluation.evaluate import IdMetrics, Metrics
from search.evaluation.interval import Interval

#: Of what is in the files: a bundle of another one cannot be read.
_FORMAT = 3


class _Document(BaseModel):
    """Frozen; a number is a number, and never a text that reads like one."""

    model_config = ConfigDict(frozen=True, strict=True)

    def document(self) -> dict[str, Any]:
        """In the types that JSON has."""
        return self.model_dump(mode="json")

    def text(self) -> str:
        """As it stands in the file."""
        return json.dumps(self.document(), indent=1)


class _Format(_Document):
    """What the detector.json of every format has."""

    format: int


class DetectorFile(_Format):
    """detector.json."""

    labels: Labels
    thresholds: dict[str, float]  # by machine/ID
    threshold_clips: dict[str, int]  # withheld normal clips behind each
    false_alarm_rate: float | None = None  # that the thresholds aim at; None in files of earlier versions
    corpus_fingerprint: str
    versions: dict[str, str] = {}  # of what a score may depend on

    @classmethod
    def of(cls, detector: Detector, versions: Mapping[str, str]) -> DetectorFile:
        """What there is to write of a detector; `versions` are those that it was made with."""
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
        """The file of the bundle at a place.

        Raises BundleError, which names the key, for another format and for a file that is damaged or another
        program's, OSError if it cannot be read.
        """
        content = path.read_bytes()
        try:
            found = _Format.model_validate_json(content)
            if found.format != _FORMAT:
                raise BundleError(f"{place}: a bundle of format {found.format}; this Offkey reads {_FORMAT}")
            return cls.model_validate_json(content)
        except ValidationError as error:
            raise not_whole(place, f"{path.name}: {_in_words(error)}") from error


class PartMetrics(_Document):
    """What was measured on the validation clips, or on the test clips."""

    auc: float
    interval: Interval
    pauc: float | None
    pooled_auc: float
    per_id: dict[str, IdMetrics]  # by machine/ID

    @classmethod
    def of(cls, figures: Metrics) -> PartMetrics:
        return cls(
            auc=figures.auc,
            interval=figures.interval,
            pauc=figures.pauc,
            pooled_auc=figures.pooled,
            per_id=dict(figures.per_id),
        )


class ObjectiveMetrics(_Document):
    """The study's first objective."""

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
    """The same of several recipes, by name."""

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

    @classmethod
    def of(cls, detector: Detector) -> MetricsFile:
        """What was measured of a detector."""
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
        )


def metrics_of(detector: Detector) -> dict[str, Any]:
    """The metrics of a detector, as `offkey train --json` prints them below `bundle`."""
    return MetricsFile.of(detector).document()


def not_whole(place: str | Path, why: object) -> BundleError:
    """The error of a place that has no bundle, or a part of one."""
    return BundleError(f"{place} is not a bundle, or not a whole one: {why}")


def _seeds(spreads: Mapping[str, SeedSpread]) -> SeedMetrics | RecipesSeedMetrics | None:
    by_recipe = {name: SeedMetrics.of(spread) for name, spread in spreads.items()}
    if len(by_recipe) > 1:
        return RecipesSeedMetrics(recipes=by_recipe)
    return next(iter(by_recipe.values()), None)


def _in_words(error: ValidationError) -> str:
    """The first key that is not as it should be, and why."""
    problem = error.errors()[0]
    key = ".".join(map(str, problem["loc"]))
    if problem["type"] == "missing":
        return f"{key} is missing"
    return f"{key} {problem['msg'].removeprefix('Input ')}".strip()
