"""The JSON files of a bundle, key by key in the order in which they are written.

detector.json   what a detector is loaded from, beside recipe and weights
metrics.json    the validation and test metrics; `offkey train --json` prints them below `bundle`
scores.json     the scores that set the thresholds, and those that they are counted on (search.detector.thresholds)

A new key does not change the format: a file without it, or with keys that are unknown here, can still be read. Numbers
are finite: with a NaN for a threshold, every clip would be normal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from models.labels import Labels
from search.artifacts.bucket import bucket_of
from search.detector.best_member import BestMember
from search.detector.detector import Detector
from search.detector.digests import COVERED, document_digest
from search.detector.document import Document
from search.detector.optimism import Optimism, SeedSpread, Spread
from search.detector.thresholds import ThresholdScores
from search.errors import BundleError
from search.evaluation.decisions import Decisions, share_interval
from search.evaluation.evaluate import IdMetrics, Metrics
from search.evaluation.interval import Interval

#: About a file whose digest is not the one in detector.json.
NOT_AS_WRITTEN = "not as it was written: its SHA-256 digest is another. Copy the bundle anew, or train it again"

#: The format of the files: a bundle of another format cannot be read.
_FORMAT = 3


class _Format(Document):
    """The key that the detector.json of every format has."""

    format: int


class DecisionCounts(Document):
    """What thresholds decide on the test clips, with the 95 % intervals of both shares; null without such clips."""

    normal: int
    false_alarms: int
    false_alarm_interval: Interval | None
    anomaly: int
    found: int
    found_interval: Interval | None

    @classmethod
    def of(cls, decisions: Decisions) -> DecisionCounts:
        normal, false_alarms, anomaly, found = (
            decisions.normal,
            decisions.false_alarms,
            decisions.anomaly,
            decisions.found,
        )
        return cls(
            normal=normal,
            false_alarms=false_alarms,
            false_alarm_interval=share_interval(false_alarms, normal) if normal else None,
            anomaly=anomaly,
            found=found,
            found_interval=share_interval(found, anomaly) if anomaly else None,
        )


class Look(Document):
    """A move of the thresholds after the training: another test evaluation, if there are test clips."""

    false_alarm_rate: float  # that the thresholds aim at since
    decisions: DecisionCounts | None  # on the test clips


class DetectorFile(_Format):
    """detector.json."""

    labels: Labels
    thresholds: dict[str, float]  # by machine/ID
    threshold_clips: dict[str, int]  # how many withheld normal clips set each threshold
    false_alarm_rate: float | None = None  # that the thresholds aim at; None in files of earlier versions
    looks: tuple[Look, ...] = ()  # one for each move of the thresholds
    corpus_fingerprint: str
    versions: dict[str, str] = Field(default_factory=dict)  # of packages that a score may depend on
    digests: dict[str, str] | None = None  # of the other files; None in files of earlier versions

    @classmethod
    def of(cls, detector: Detector, versions: Mapping[str, str], digests: Mapping[str, str]) -> DetectorFile:
        """The content for a detector that was trained with these `versions`."""
        return cls(
            format=_FORMAT,
            labels=detector.labels,
            thresholds=detector.thresholds,
            threshold_clips=detector.threshold_clips,
            false_alarm_rate=detector.recipe.scoring.false_alarm_rate,
            corpus_fingerprint=detector.fingerprint,
            versions=dict(versions),
            digests=dict(digests),
        )

    def text(self) -> str:
        """The text of the file; its last key is the digest of the others."""
        document = self.document()
        return json.dumps(document | {"digest": document_digest(document)}, indent=1)

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
            file = cls.model_validate_json(content)
        except ValidationError as error:
            raise not_whole(place, f"{path.name}: {_in_words(error)}") from error
        file._require_digests(json.loads(content), place)
        return file

    def _require_digests(self, document: dict[str, Any], place: str | Path) -> None:
        """Raises BundleError if the document is not the one that was written; earlier versions wrote no digests."""
        if self.digests is None and "digest" not in document:
            return
        missing = next((name for name in COVERED if name not in (self.digests or {})), None)
        if missing is not None:
            raise not_whole(place, f"detector.json: digests.{missing} is missing")
        if document.get("digest") != document_digest(document):
            raise not_whole(place, f"detector.json is {NOT_AS_WRITTEN}")


class PartMetrics(Document):
    """The metrics on the validation clips, or on the test clips."""

    auc: float
    interval: Interval | None
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


class ObjectiveMetrics(Document):
    """The study's first objective and its values."""

    name: str
    validation: float
    test: float | None


class SpreadMetrics(Document):
    """The AUCs of several seeds' models."""

    auc: tuple[float, ...]
    mean: float
    sd: float
    range: tuple[float, float]

    @classmethod
    def of(cls, spread: Spread) -> SpreadMetrics:
        lowest, highest = min(spread.aucs), max(spread.aucs)
        return cls(auc=spread.aucs, mean=spread.mean, sd=spread.deviation, range=(lowest, highest))


class SeedMetrics(Document):
    """How one recipe's AUC varies with its seed."""

    count: int
    seeds: tuple[int, ...]
    validation: SpreadMetrics
    test: SpreadMetrics | None
    seed_matters: bool = True

    @classmethod
    def of(cls, spread: SeedSpread) -> SeedMetrics:
        return cls(
            count=len(spread.seeds),
            seeds=spread.seeds,
            validation=SpreadMetrics.of(spread.validation),
            test=None if spread.test is None else SpreadMetrics.of(spread.test),
            seed_matters=spread.seed_matters,
        )


class RecipesSeedMetrics(Document):
    """How the AUC of several recipes varies with the seed, by the recipe's name."""

    recipes: dict[str, SeedMetrics]


class MetricsFile(Document):
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
    decisions: DecisionCounts | None = None  # of the thresholds that the training set, on the test clips

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
            decisions=None if detector.decisions is None else DecisionCounts.of(detector.decisions),
        )


def read_scores(path: Path, place: str | Path) -> ThresholdScores:
    """The scores of the bundle at `place`, from its file at `path`.

    Raises BundleError, with the key's name, if the file is damaged. Raises OSError if it cannot be read.
    """
    try:
        return ThresholdScores.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise not_whole(place, f"{path.name}: {_in_words(error)}") from error


def metrics_of(detector: Detector) -> dict[str, Any]:
    """The metrics of a detector, as `offkey train --json` prints them below `bundle`."""
    return MetricsFile.of(detector).document()


def not_whole(place: str | Path, why: object) -> BundleError:
    """The error for a place that has no bundle, or only a part of one."""
    if bucket_of(place) is None and isinstance(why, FileNotFoundError | NotADirectoryError):
        why = f"there is no {Path(why.filename).name}" if Path(place).is_dir() else "there is no such folder"
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
