"""Moves the thresholds of a detector to another false-alarm rate, by the scores in its bundle: without training.

Withheld scores alone set the thresholds. The test scores in the bundle say what these then decide, which is one more
test evaluation: detector.json lists each move under `looks`, and the model card says it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from features.errors import OffkeyError
from models.settings import ScoringSettings
from search.artifacts.bucket import BucketFolder, bucket_of
from search.detector.bundle import Bundle, opened_bundle
from search.detector.bundle_files import DecisionCounts, DetectorFile, Look, read_scores
from search.detector.threshold_card import threshold_section, with_section
from search.detector.thresholds import Threshold, ThresholdScores
from search.errors import BundleError
from search.evaluation.decisions import Decisions
from search.study.study_file import load_study

_CARD = "README.md"


@dataclass(frozen=True)
class MovedThresholds:
    """The thresholds of a bundle after a move."""

    false_alarm_rate: float  # that they aim at
    thresholds: Mapping[str, Threshold]  # by machine/ID
    decisions: Mapping[str, Decisions] | None  # on the test clips of each machine ID; None without test clips
    moved_to: tuple[float, ...]  # the rates of all moves, this one included

    @property
    def decided(self) -> Decisions | None:
        """What the thresholds decide on all test clips together."""
        return None if self.decisions is None else Decisions.together(self.decisions.values())


def at_false_alarm_rate(bundle: Bundle, false_alarm_rate: float, *, nearest: bool = False) -> Bundle:
    """The detector with thresholds for another false-alarm rate; nothing is written.

    Raises BundleError if the bundle has no withheld scores, MisuseError if these are too few for the rate and not the
    `nearest` is asked for.
    """
    scoring, thresholds = _moved(bundle.scores, bundle.recipe.scoring, false_alarm_rate, nearest=nearest)
    values = {name: threshold.value for name, threshold in thresholds.items()}
    return replace(bundle, thresholds=values, false_alarm_rate=scoring.false_alarm_rate)


def move_thresholds(place: str | Path, false_alarm_rate: float, *, nearest: bool = False) -> MovedThresholds:
    """Writes thresholds for another false-alarm rate into the bundle in a folder or at `s3://BUCKET/PREFIX`.

    Raises the errors of `at_false_alarm_rate`, and BundleError if the bundle cannot be read or written.
    """
    with opened_bundle(place) as (folder, details):
        recipe = load_study(folder / "recipe.yaml").first_recipe()
        scores = None if details.digests is None else read_scores(folder / "scores.json", place)
    scoring, thresholds = _moved(scores, recipe.scoring, false_alarm_rate, nearest=nearest)
    assert scores is not None
    values = {name: threshold.value for name, threshold in thresholds.items()}
    decisions = scores.decisions(values)
    counts = None if decisions is None else DecisionCounts.of(Decisions.together(decisions.values()))
    look = Look(false_alarm_rate=scoring.false_alarm_rate, decisions=counts)
    update = {"thresholds": values, "false_alarm_rate": scoring.false_alarm_rate, "looks": (*details.looks, look)}
    file = details.model_copy(update=update)
    moved_to = tuple(each.false_alarm_rate for each in file.looks)
    _write(place, file, threshold_section(scoring, thresholds, decisions, moved_to=moved_to))
    return MovedThresholds(scoring.false_alarm_rate, thresholds, decisions, moved_to)


def _moved(
    scores: ThresholdScores | None, scoring: ScoringSettings, false_alarm_rate: float, *, nearest: bool
) -> tuple[ScoringSettings, dict[str, Threshold]]:
    if scores is None:
        raise BundleError(
            "The thresholds cannot be moved: an earlier Offkey wrote the detector, without the withheld scores that "
            "set them. Train its recipe again"
        )
    if not scores.withheld:
        raise BundleError(
            "The thresholds cannot be moved: there are none, since no training clip was withheld to set one. Train "
            "with a training.calibration_share above 0"
        )
    scores.require(false_alarm_rate, nearest=nearest)
    moved = scoring.model_copy(update={"false_alarm_rate": false_alarm_rate})
    return moved, scores.thresholds(moved)


def _write(place: str | Path, file: DetectorFile, section: str) -> None:
    """Writes detector.json, from then on the thresholds are moved; and then the model card."""
    try:
        if bucket_of(place) is None:
            _replace(Path(place, "detector.json"), file.text().encode())
            card = Path(place, _CARD)
            _replace(card, _changed(card.read_bytes() if card.exists() else b"", section))
            return
        bucket = BucketFolder(place)
        bucket.replace("detector.json", file.text().encode())
        bucket.replace(_CARD, _changed(_card_in(bucket), section))
    except (OSError, OffkeyError) as error:
        raise BundleError(f"{place} cannot be written: {error}") from error


def _changed(card: bytes, section: str) -> bytes:
    """A card that people may have added to, in whatever encoding, with another section on thresholds."""
    text = with_section(card.decode(errors="surrogateescape"), section)
    return text.encode(errors="surrogateescape")


def _replace(path: Path, content: bytes) -> None:
    """Writes a file, whole or not at all."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(name, 0o644)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def _card_in(bucket: BucketFolder) -> bytes:
    with tempfile.TemporaryDirectory(prefix="offkey-card-") as folder:
        try:
            bucket.fetch([_CARD], Path(folder))
        except FileNotFoundError:
            return b""
        return Path(folder, _CARD).read_bytes()
