"""How the scores of two systems differ on the same clips.

A difference is the first system's metric minus the other's. Its interval is that of a paired difference
(search.evaluation.confidence): clips which are hard for both systems do not widen it. Each interval stands alone: of
twenty machine IDs without any difference, one interval excludes 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.scoring.scores import Scores
from search.errors import StudyError
from search.evaluation.bootstrap import Bootstrap
from search.evaluation.confidence import interval_of_difference
from search.evaluation.interval import Interval
from search.evaluation.metrics import Metric, metric_of
from search.evaluation.official import Year
from search.evaluation.score_truth import LabelledScores
from search.evaluation.truth import Truth, judged_ids


@dataclass(frozen=True)
class PairedDifference:
    """One metric of two systems on the same clips."""

    value: float
    other: float
    interval: Interval | None  # of the difference; None where there are too few clips, or where nothing differs
    are_same: bool  # whether each clip has the same score in both systems

    @property
    def difference(self) -> float:
        return self.value - self.other

    @property
    def in_words(self) -> str:
        """What the clips can tell of this difference."""
        if self.are_same:
            return "the same scores on every clip"
        if self.interval is None:
            return "too few clips to tell"
        if self.interval.includes(0):
            return "not told apart"
        return "higher" if self.interval.low > 0 else "lower"

    def as_json(self) -> dict[str, Any]:
        """Return the document that `offkey evaluate --json` prints."""
        return {
            "value": self.value,
            "other": self.other,
            "difference": self.difference,
            "interval": None if self.interval is None else list(self.interval),
        }


@dataclass(frozen=True)
class Differences:
    """The differences of two systems on some clips; None where the clips leave a metric undefined."""

    auc: PairedDifference
    pauc: PairedDifference | None
    official: PairedDifference | None

    @property
    def named(self) -> dict[str, PairedDifference | None]:
        """The differences by the metric's name."""
        return {"auc": self.auc, "pauc": self.pauc, "official": self.official}

    def as_json(self) -> dict[str, Any]:
        """Return the document that `offkey evaluate --json` prints."""
        return {name: None if of is None else of.as_json() for name, of in self.named.items()}


@dataclass(frozen=True)
class SystemDifferences:
    """The differences of two systems on the clips of the machine IDs that both scored."""

    overall: Differences
    per_id: Mapping[str, Differences]
    of_one_alone: tuple[str, ...]  # machine IDs that only one of them scored: left out

    def as_json(self) -> dict[str, Any]:
        """Return the document that `offkey evaluate --json` prints."""
        return {
            **self.overall.as_json(),
            "per_id": {name: of_id.as_json() for name, of_id in self.per_id.items()},
            "of_one_alone": list(self.of_one_alone),
        }


def differences(clips: LabelledScores, other: LabelledScores) -> SystemDifferences:
    """Return the differences of two systems whose scores are labelled by the same truth.

    Raises StudyError if no machine ID with both labels has scores of both.
    """
    ids, other_ids = set(clips.truth.ids), set(other.truth.ids)
    common = ids & other_ids
    if not common:
        raise StudyError(
            f"The two systems scored no machine ID in common, but {_named(ids)} and {_named(other_ids)}: give scores "
            "of the same clips"
        )
    # All labelled clips of a scored machine ID have a score, in the order of the truth: the clips are the same.
    truth = clips.truth.of_ids(common)
    scores, others = (of.scores[np.isin(of.truth.ids, list(common))] for of in (clips, other))
    of_each = judged_ids(truth)
    return SystemDifferences(
        overall=_differences(scores, others, truth, clips.year),
        per_id={
            name: _differences(scores[members], others[members], truth.of_ids([name]), clips.year)
            for name, members in of_each.items()
        },
        of_one_alone=tuple(sorted(ids ^ other_ids)),
    )


def _named(ids: set[str]) -> str:
    return ", ".join(sorted(ids))


def _differences(scores: Scores, others: Scores, truth: Truth, year: Year | None) -> Differences:
    bootstrap, are_same = Bootstrap(truth), np.array_equal(scores, others)

    def of(metric: Metric) -> PairedDifference:
        return PairedDifference(
            value=metric_of(metric, scores, truth, year=year),
            other=metric_of(metric, others, truth, year=year),
            interval=None
            if are_same
            else interval_of_difference(scores, others, truth, metric=metric, year=year, bootstrap=bootstrap),
            are_same=are_same,
        )

    def if_defined(metric: Metric) -> PairedDifference | None:
        try:
            return of(metric)
        except StudyError:
            return None

    return Differences(of("auc"), if_defined("pauc"), None if year is None else if_defined("official"))
