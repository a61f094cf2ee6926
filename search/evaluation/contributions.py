"""How much each recording contributes to a metric, for many sets of scores at once.

An AUC is the mean, over anomalies, of the share of normal clips below each. It is as much the mean, over normal clips,
of the share of anomalies above each. These shares are the contributions (placement values). The deviation of an AUC
from its true value is, to first order, the sum of the deviations of both means (DeLong, DeLong and Clarke-Pearson
1988). Below a false-positive rate r, an anomaly with a share s of normal clips above it contributes max(r − s, 0)
(Dodd and Pepe 2003). A metric of several parts is linearised at its parts' values.

contributions : (sets, recordings) float. Of two sets of scores, the differences of all contributions vary between sets
                of clips as the difference of the metrics does. A constant that all sets share is subtracted.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from models.scoring.scores import Scores
from search.evaluation.metrics import (
    MAX_FALSE_POSITIVE_RATE,
    Metric,
    areas_under_curve,
    combined,
    metric_of_each,
    parts_with_clips,
    standardised,
)
from search.evaluation.official import Year
from search.evaluation.truth import Truth

#: The step by which a metric is differentiated.
_STEP = 1e-6


def contributions_of(
    metric: Metric, scores: Scores, truth: Truth, *, year: Year | None = None
) -> tuple[Scores, Scores]:
    """Return the metric of each set of scores (sets, clips), (sets,), and the contributions, (sets, recordings).

    Raises StudyError as `metric_of` does.
    """
    year = year or truth.year
    parts = parts_with_clips(metric, truth, year)
    values = np.array([areas_under_curve(part.kind, scores, pairs) for part, pairs in parts.items()])
    of_metric = combined(metric, year, list(parts), values)
    # Backwards: of several parts that are equally low, each one lowers the lowest.
    lowered = np.maximum(values - _STEP * np.eye(len(parts))[:, :, np.newaxis], 0)  # (changed part, part, sets)
    slopes = np.array([of_metric - combined(metric, year, list(parts), changed) for changed in lowered]) / _STEP
    # Each metric is homogeneous in its parts (twice the values, twice the metric), so that slopes · values = metric.
    total = (slopes * values).sum(axis=0)
    slopes *= np.divide(of_metric, total, out=np.ones_like(total), where=total > 0)
    of_clips = np.zeros(scores.shape)
    for (part, pairs), slope, value in zip(parts.items(), slopes, values, strict=True):
        middle = value.mean()
        for normals, anomalies in pairs:
            of_normals, of_anomalies = _shares(part.kind, scores[:, normals], scores[:, anomalies])
            weight = slope[:, np.newaxis] / len(pairs)
            of_clips[:, normals] += weight * (of_normals - middle) / len(normals)
            of_clips[:, anomalies] += weight * (of_anomalies - middle) / len(anomalies)
    return of_metric, _by_recording(of_clips, truth)


def contributions_if_guessing(scores: Scores, truth: Truth) -> tuple[Scores, Scores]:
    """Return the mean AUC of each set of scores, and what its recordings contribute if labels say nothing of scores.

    Then the share of normal clips below an anomaly is, to first order, the share of all clips below it.
    """
    from scipy.stats import rankdata

    parts = parts_with_clips("auc", truth, truth.year)
    of_clips = np.zeros(scores.shape)
    for pairs in parts.values():
        for normals, anomalies in pairs:
            both = np.concatenate([normals, anomalies])
            share = (rankdata(scores[:, both], axis=1) - 0.5) / len(both) - 0.5
            weight = 1 / (len(parts) * len(pairs))
            of_clips[:, normals] -= weight * share[:, : len(normals)] / len(normals)
            of_clips[:, anomalies] += weight * share[:, len(normals) :] / len(anomalies)
    return metric_of_each("auc", scores, truth), _by_recording(of_clips, truth)


def _shares(kind: str, normals: Scores, anomalies: Scores) -> tuple[Scores, Scores]:
    """Return what each normal clip and each anomaly contributes; the mean of either is the part's value."""
    rate = MAX_FALSE_POSITIVE_RATE if kind == "pauc" else 1.0
    within = np.maximum(rate - 1 + _number_below(anomalies, normals) / normals.shape[1], 0)
    counts = within > 0
    below = _number_below(normals, np.where(counts, anomalies, np.inf))  # of the anomalies that count
    of_normals = (rate * counts.sum(axis=1, keepdims=True) - below) / anomalies.shape[1]
    return (standardised(of_normals), standardised(within)) if kind == "pauc" else (of_normals, within)


def _number_below(values: Scores, others: Scores) -> Scores:
    """How many of each set's `others` (sets, others) lie below each of its values (sets, values); a tie counts half."""
    from scipy.stats import rankdata

    among_all = rankdata(np.concatenate([values, others], axis=1), axis=1)[:, : values.shape[1]]
    return np.asarray(among_all - rankdata(values, axis=1))


def _by_recording(of_clips: Scores, truth: Truth) -> Scores:
    if not truth.recordings:
        return of_clips
    _, recording = np.unique(truth.recordings, return_inverse=True)
    summed: npt.NDArray[np.float64] = np.zeros((recording.max() + 1, len(of_clips)))
    np.add.at(summed, recording, of_clips.T)
    return summed.T
