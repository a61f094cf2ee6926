"""The thresholds of a detector: set by its withheld scores, counted on its test scores.

withheld scores : of normal clips that were withheld from the training, by machine ID; they set the thresholds
test scores     : of the held-out test clips, by machine ID and label; they say what the thresholds decide

Both travel with the detector, so that its thresholds can be moved without training.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from features.clips.clip import NORMAL
from models.scoring.scores import Scores
from models.scoring.threshold import fewest_clips, lowest_rate, threshold_of
from models.settings import ScoringSettings
from search.detector.document import Document
from search.errors import MisuseError, TrialFailure
from search.evaluation.decisions import Decisions, share_interval
from search.evaluation.interval import Interval
from search.evaluation.truth import Truth

#: Thresholds from fewer clips are named wherever thresholds are shown.
_FEW_CLIPS = 10

#: An error names at most this many machine IDs.
_SHOWN_IDS = 3


@dataclass(frozen=True)
class Threshold:
    """The threshold of one machine ID, and what its withheld clips tell of its false-alarm rate."""

    value: float
    clips: int  # withheld normal clips
    above: int  # of them above the threshold

    @property
    def rate(self) -> float:
        """The probability that a new normal clip is above it; an estimate, if the threshold is a fitted one."""
        return (self.above + 1) / (self.clips + 1)

    @property
    def interval(self) -> Interval:
        """Where the false-alarm rate of this very threshold lies, with 95 % confidence."""
        return share_interval(self.above, self.clips)


class HeldOutScores(Document):
    """Scores of the held-out test clips of one machine ID."""

    normal: tuple[float, ...]
    anomaly: tuple[float, ...]

    def decisions(self, threshold: float) -> Decisions:
        """Count the clips above a threshold."""
        false_alarms, found = (sum(score > threshold for score in scores) for scores in (self.normal, self.anomaly))
        return Decisions(len(self.normal), false_alarms, len(self.anomaly), found)


class ThresholdScores(Document):
    """The scores that thresholds are set by and counted on, by machine/ID; `scores.json` of a bundle."""

    withheld: dict[str, tuple[float, ...]]
    test: dict[str, HeldOutScores] = Field(default_factory=dict)

    @classmethod
    def of(cls, withheld: tuple[Scores, Sequence[str]], test: tuple[Scores, Truth] | None) -> ThresholdScores:
        """Group the scores of withheld clips, with their machine IDs, and of test clips.

        Raises TrialFailure if a score is not finite.
        """
        scores, ids = withheld[0], np.array(withheld[1])
        for what, each in (("withheld", scores), ("test", np.empty(0) if test is None else test[0])):
            if not np.isfinite(each).all():
                raise TrialFailure(f"scores of {what} clips are not finite")
        by_id = {name: tuple(scores[ids == name].tolist()) for name in sorted(set(withheld[1]))}
        return cls(withheld=by_id, test={} if test is None else _by_label(*test))

    def thresholds(self, scoring: ScoringSettings) -> dict[str, Threshold]:
        """Return each machine ID's threshold; with too few clips for the rate, the nearest that they can give."""
        values = {name: threshold_of(np.array(scores), scoring) for name, scores in self.withheld.items()}
        return self.rated(values)

    def rated(self, values: Mapping[str, float]) -> dict[str, Threshold]:
        """Return thresholds of these values, with what the withheld scores tell of them."""
        return {
            name: Threshold(value, len(self.withheld[name]), sum(score > value for score in self.withheld[name]))
            for name, value in values.items()
        }

    def require(self, false_alarm_rate: float, *, nearest: bool) -> None:
        """Raise MisuseError if a rate is none, or if a machine ID has too few withheld clips for it.

        With `nearest`, too few will do.
        """
        if not 0 < false_alarm_rate < 1:
            raise MisuseError(f"A false-alarm rate must be above 0 and below 1, but got {false_alarm_rate:g}")
        needed = fewest_clips(false_alarm_rate)
        clips = {name: len(scores) for name, scores in self.withheld.items()}
        few = {name: count for name, count in clips.items() if count < needed}
        if not few or nearest:
            return
        lowest = math.ceil(lowest_rate(min(few.values())) * 1e4) / 1e4
        fewest = sorted(few, key=lambda name: few[name])
        shown = ", ".join(f"{name} has {few[name]}" for name in fewest[:_SHOWN_IDS])
        others = f" and {len(few) - _SHOWN_IDS} more have too few" if len(few) > _SHOWN_IDS else ""
        raise MisuseError(
            f"A false-alarm rate of {false_alarm_rate:g} takes {needed} withheld normal clips of each machine ID, but "
            f"{shown}{others}. The lowest rate that the clips of all can give is {lowest:g}: ask for that, or train "
            "with a higher training.calibration_share. With --nearest (in Python: nearest=True), "
            "each threshold comes as near to the rate as its clips allow, and the interval of what it gives is shown"
        )

    def decisions(self, thresholds: Mapping[str, float]) -> dict[str, Decisions] | None:
        """Return what thresholds decide on the test clips of each machine ID that has one; None without test clips."""
        decided = {name: of.decisions(thresholds[name]) for name, of in self.test.items() if name in thresholds}
        return decided or None


def doubts(thresholds: Mapping[str, Threshold], false_alarm_rate: float | None) -> Iterator[str]:
    """Yield sentences, without full stops, on thresholds that rest on too few clips."""
    needed = 0 if false_alarm_rate is None else fewest_clips(false_alarm_rate)
    too_few = [name for name, threshold in thresholds.items() if threshold.clips < needed]
    if too_few:
        highest = max(thresholds[name].rate for name in too_few)
        yield (
            f"Thresholds of {', '.join(too_few)} cannot promise a false-alarm rate of {false_alarm_rate:g}, which "
            f"takes {needed} withheld clips of each machine ID: they have {_counts(too_few, thresholds)}, and call up "
            f"to {highest:.0%} of normal clips faulty on average. Raise training.calibration_share, or train on more "
            "clips"
        ).replace("%", " %")
    higher = {
        name: of.rate
        for name, of in thresholds.items()
        if false_alarm_rate is not None and name not in too_few and of.rate > false_alarm_rate
    }
    if higher:
        yield (
            f"Thresholds of {', '.join(higher)} lie at quantiles of a fitted distribution, which promise no rate: by "
            f"the withheld clips they call up to {max(higher.values()):.0%} of normal clips faulty, and "
            f"{false_alarm_rate:g} was asked for. scoring.threshold: quantile keeps the rate"
        ).replace("%", " %")
    few = [name for name, of in thresholds.items() if of.clips < _FEW_CLIPS and name not in too_few]
    if few:
        yield f"Thresholds of {', '.join(few)} rest on fewer than ten clips each"


def _counts(names: Collection[str], thresholds: Mapping[str, Threshold]) -> str:
    counts = sorted({thresholds[name].clips for name in names})
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _by_label(scores: Scores, truth: Truth) -> dict[str, HeldOutScores]:
    ids, normal = np.array(truth.ids), np.array(truth.labels) == NORMAL
    return {
        name: HeldOutScores(
            normal=tuple(scores[(ids == name) & normal].tolist()),
            anomaly=tuple(scores[(ids == name) & ~normal].tolist()),
        )
        for name in sorted(set(truth.ids))
    }
