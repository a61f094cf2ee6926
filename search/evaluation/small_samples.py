"""What a metric of few clips leaves open, by a model of their scores.

Bootstrap resamples of few clips vary too little, and not at all where every clip is ranked right. The model: within a
machine ID, scores of normal clips and of anomalies are normally distributed with one deviation (the binormal model of
the ROC curve, Dorfman and Alf 1969), apart as far as was measured. It is simulated for the numbers of clips at hand. All
machine IDs move by a common distance; the interval holds every value of the metric that the model does not exclude:
those at which the measured one is not among the extreme 2.5 % (inversion of a test, as in Clopper and Pearson 1934).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from features.clips.clip import ANOMALY, NORMAL, Domain
from models.scoring.scores import Scores
from search.evaluation.interval import Interval
from search.evaluation.metrics import MAX_FALSE_POSITIVE_RATE, Metric, combined, parts_with_clips, standardised
from search.evaluation.official import Part, Year
from search.evaluation.truth import Indices, Pairs, Truth

#: A label and a domain, and how many clips have them.
Stratum = tuple[int, Domain | None]
Counts = tuple[tuple[Stratum, int], ...]

#: The simulated sets of clips.
_SETS = 1000

#: With more clips of a label, so many are simulated, and deviations scaled by the variance of the AUC.
_MOST_CLIPS = 60

#: Distances between the means of anomalies and normal clips, in deviations: AUCs from 0.02 to 0.99999.
_DISTANCES = np.linspace(-3.0, 6.0, 181)

#: By how much all machine IDs are moved.
_MOVES = np.linspace(-6.0, 6.0, 241)

_ONE_SIDE = 0.025


def model_interval(metric: Metric, scores: Scores, truth: Truth, *, year: Year | None = None) -> Interval:
    """Return the values of the metric that its clips do not exclude, by the model.

    Raises StudyError as `metric_of` does.
    """
    from search.evaluation.metrics import areas_under_curve

    year = year or truth.year
    parts = parts_with_clips(metric, truth, year)
    values = np.array([float(areas_under_curve(part.kind, scores[np.newaxis], pairs)[0]) for part, pairs in parts.items()])
    measured = float(combined(metric, year, list(parts), values))
    simulated, expected = _moved(parts, values, truth)
    of_metric = combined(metric, year, list(parts), simulated)  # (moves, sets)
    at_most = (of_metric <= measured + 1e-9).mean(axis=1)  # falls with the move
    at_least = (of_metric >= measured - 1e-9).mean(axis=1)  # rises
    possible = combined(metric, year, list(parts), expected)  # (moves,)
    low = np.interp(_ONE_SIDE, at_least, possible)
    high = np.interp(-_ONE_SIDE, -at_most, possible)
    return Interval(float(min(low, measured)), float(max(high, measured)))


def _moved(parts: dict[Part, Pairs], values: Scores, truth: Truth) -> tuple[Scores, Scores]:
    """Return the parts' values in simulated sets, (parts, moves, sets), and in expectation, (parts, moves)."""
    rng = np.random.default_rng(0)
    of_ids: dict[str, npt.NDArray[np.int64]] = {}
    simulated, expected = [], []
    for (part, pairs), value in zip(parts.items(), values, strict=True):
        if part.id_name not in of_ids:  # IDs with equal numbers of clips share the simulated sets
            of_ids[part.id_name] = rng.permutation(_SETS)
        normals, anomalies = (np.concatenate(of_label) for of_label in zip(*pairs, strict=True))
        counts = _counts(normals, truth), _counts(anomalies, truth)
        table = _table(part.kind, *counts)  # (distances, sets)
        mean = table.mean(axis=1)
        clips = _total(counts[0]) * _total(counts[1])
        distance = np.interp((value * clips + 0.5) / (clips + 1), mean, _DISTANCES)
        place = np.clip((distance + _MOVES - _DISTANCES[0]) / (_DISTANCES[1] - _DISTANCES[0]), 0, len(_DISTANCES) - 1)
        below = np.minimum(place.astype(int), len(_DISTANCES) - 2)
        share = (place - below)[:, np.newaxis]
        moved = (1 - share) * table[below] + share * table[below + 1]
        simulated.append(moved[:, of_ids[part.id_name]])
        expected.append(moved.mean(axis=1))
    return np.array(simulated), np.array(expected)


def _counts(clips: Indices, truth: Truth) -> Counts:
    """How many recordings these clips are, by label and domain."""
    numbers = np.array(truth.recordings)[clips] if truth.recordings else clips
    _, first = np.unique(numbers, return_index=True)
    domains = truth.domains or (None,) * len(truth)
    counted = Counter((truth.labels[clip], domains[clip]) for clip in clips[first].tolist())
    return tuple(sorted(counted.items(), key=repr))


def _total(counts: Counts) -> int:
    return sum(count for _, count in counts)


@lru_cache(maxsize=64)
def _table(kind: str, normals: Counts, anomalies: Counts) -> Scores:
    """Return a part's value in each simulated set of clips, at each distance; (distances, sets)."""
    normal, faulty = _drawn(normals), _drawn(anomalies)
    table = _aucs(normal, faulty) if kind == "auc" else _paucs(normal, faulty)
    mean = table.mean(axis=1, keepdims=True)
    aucs = mean if kind == "auc" else _aucs(normal, faulty).mean(axis=1, keepdims=True)
    simulated = _variance(aucs, normal.shape[1], faulty.shape[1])
    wanted = _variance(aucs, _total(normals), _total(anomalies))
    return np.asarray(mean + (table - mean) * np.sqrt(wanted / simulated))


def _drawn(counts: Counts) -> Scores:
    """Return standard normal scores, (sets, clips): a clip has the same in each part of its machine ID."""
    drawn = []
    for stratum, count in counts:
        rng = np.random.default_rng([stratum[0], {None: 0, "source": 1, "target": 2}[stratum[1]]])
        drawn.append(rng.standard_normal((_SETS, count if _total(counts) <= _MOST_CLIPS else max(1, round(count * _MOST_CLIPS / _total(counts))))))
    return np.concatenate(drawn, axis=1)


def _aucs(normal: Scores, faulty: Scores) -> Scores:
    differences = (normal[:, :, np.newaxis] - faulty[:, np.newaxis, :]).reshape(len(normal), -1)
    return _shares_below(differences, np.broadcast_to(_DISTANCES, (len(normal), len(_DISTANCES)))).T


def _paucs(normal: Scores, faulty: Scores) -> Scores:
    """The area below the rate is that of the highest normal clips: one column of the ROC curve for each."""
    clips = normal.shape[1]
    highest = -np.sort(-normal, axis=1)[:, : int(np.ceil(MAX_FALSE_POSITIVE_RATE * clips))]
    widths = np.full(highest.shape[1], 1 / clips)
    widths[-1] = MAX_FALSE_POSITIVE_RATE - (len(widths) - 1) / clips
    area = np.zeros((len(normal), len(_DISTANCES)))
    for column, width in zip(highest.T, widths, strict=True):
        area += width * (1 - _shares_below(faulty, column[:, np.newaxis] - _DISTANCES))
    return standardised(area).T


def _shares_below(values: Scores, limits: Scores) -> Scores:
    """The share of each row's values (rows, values) below each of its limits (rows, limits)."""
    apart = 100.0 * np.arange(len(values))[:, np.newaxis]  # further than any two values: all rows are searched at once
    ranked = np.sort(values, axis=1) + apart
    below = np.searchsorted(ranked.ravel(), (limits + apart).ravel()).reshape(limits.shape)
    return np.asarray((below - np.arange(len(values))[:, np.newaxis] * values.shape[1]) / values.shape[1])


def _variance(auc: Scores, normals: int, anomalies: int) -> Scores:
    """The variance of an AUC (Hanley and McNeil 1982)."""
    both_anomalies, both_normals = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    of_pairs = auc * (1 - auc)
    return np.asarray(
        (of_pairs + (anomalies - 1) * (both_anomalies - auc**2) + (normals - 1) * (both_normals - auc**2))
        / (normals * anomalies)
    )
