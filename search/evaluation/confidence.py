"""The 95 % intervals of metrics and of their differences: the one place where they are computed.

The interval of a metric holds what bootstrap resamples give, what a model of the scores does not exclude
(search.evaluation.small_samples), and what the spread of few clips of a label leaves open
(search.evaluation.few_of_a_label): the bootstrap knows the scores' true distributions, the other two know what few
clips do not show. It never has a width of zero.

The ends of the interval of a difference lie as far from it as the ends of both metrics' intervals allow:
√(a² + b² − 2 r a b), where a and b are the distances of the two ends from their metrics, and r is the correlation of
the two errors (Newcombe 1998; Zou and Donner 2008).

With fewer than five recordings of a label there is no interval: the true value lies outside too often.
"""

from __future__ import annotations

import numpy as np

from features.clips.clip import ANOMALY, NORMAL
from models.scoring.scores import Scores
from search.evaluation.bootstrap import Bootstrap
from search.evaluation.contributions import contributions_of
from search.evaluation.few_of_a_label import ends_by_contributions
from search.evaluation.interval import Interval
from search.evaluation.metrics import Metric, metric_of, parts_with_clips
from search.evaluation.official import Year
from search.evaluation.small_samples import counts_of, ends_by_model
from search.evaluation.truth import Truth, judged_ids

#: The fewest normal recordings, and the fewest anomalies, of a machine ID.
FEWEST = 5


def why_no_interval(truth: Truth) -> str:
    """Say why metrics of these clips have no interval; empty if they have one.

    Raises StudyError if no machine ID has both labels.
    """
    labels = np.array(truth.labels)
    for name, members in judged_ids(truth).items():
        counted = [
            sum(count for _, count in counts_of(members[labels[members] == label], truth))
            for label in (NORMAL, ANOMALY)
        ]
        if min(counted) < FEWEST:
            normal, anomalous = counted
            return (
                f"no interval: it takes {FEWEST} normal clips and {FEWEST} anomalies of each machine ID, but {name} "
                f"has {normal} and {anomalous}"
            )
    return ""


def interval_of(
    scores: Scores,
    truth: Truth,
    *,
    metric: Metric = "auc",
    year: Year | None = None,
    bootstrap: Bootstrap | None = None,
) -> Interval | None:
    """Return the 95 % interval of a metric; None if `why_no_interval` says why there is none.

    `bootstrap` are resamples of this truth, to draw them once for several sets of scores. Raises StudyError as
    `metric_of` does.
    """
    year = year or truth.year
    parts = parts_with_clips(metric, truth, year)
    if why_no_interval(truth):
        return None
    resampled = (bootstrap or Bootstrap(truth)).metric(metric, scores, year=year)
    ends = np.r_[
        np.quantile(resampled, [0.025, 0.975]),
        ends_by_model(metric, year, parts, scores, truth),
        ends_by_contributions(metric, year, scores, truth),
    ]
    measured = metric_of(metric, scores, truth, year=year)
    return Interval(float(min(ends.min(), measured)), float(max(ends.max(), measured)))


def interval_of_difference(
    scores: Scores,
    others: Scores,
    truth: Truth,
    *,
    metric: Metric = "auc",
    year: Year | None = None,
    bootstrap: Bootstrap | None = None,
    intervals: tuple[Interval | None, Interval | None] | None = None,
) -> Interval | None:
    """Return the 95 % interval of the metric of `scores` minus that of `others`, of the same clips; None as above.

    `intervals` are those of both metrics, if they are known: most of the time goes into them.
    """
    if intervals is None:
        bootstrap = bootstrap or Bootstrap(truth)
        of_each = (interval_of(of, truth, metric=metric, year=year, bootstrap=bootstrap) for of in (scores, others))
        first, second = of_each
    else:
        first, second = intervals
    if first is None or second is None:
        return None
    values, contributions = contributions_of(metric, np.stack([scores, others]), truth, year=year)
    centred = contributions - contributions.mean(axis=1, keepdims=True)
    lengths = float(np.prod(np.linalg.norm(centred, axis=1)))
    alike = float(centred[0] @ centred[1]) / lengths if lengths > 0 else 0.0
    return _difference(float(values[0]), first, float(values[1]), second, alike)


def interval_of_independent(first: float, of_first: Interval, second: float, of_second: Interval) -> Interval:
    """Return the 95 % interval of the difference of two metrics of different clips, which have these intervals."""
    return _difference(first, of_first, second, of_second, 0.0)


def _difference(first: float, of_first: Interval, second: float, of_second: Interval, alike: float) -> Interval:
    def distance(one: float, other: float) -> float:
        return float(np.sqrt(max(one**2 + other**2 - 2 * alike * one * other, 0.0)))

    low = distance(first - of_first.low, of_second.high - second)
    high = distance(of_first.high - first, second - of_second.low)
    return Interval(first - second - low, first - second + high)
