"""What a metric of few clips leaves open, by a model of their scores.

Bootstrap resamples of few clips vary too little, and not at all where every clip is ranked right. The model: within a
machine ID, the scores of normal clips and those of anomalies are normally distributed with the same deviation (the
binormal model of the ROC curve, Dorfman and Alf 1969), as far apart as was measured. Sets of as many clips as there are
are drawn from it. All machine IDs are moved by a common distance, to both sides, until the measured value is among the
extremes of those that are drawn: such a distance, and so the metric that belongs to it, is excluded (the inversion
of a test, Clopper and Pearson 1934). Only numbers of clips are drawn for, so that sets are drawn once for each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from features.clips.clip import Domain
from models.scoring.scores import Scores
from search.evaluation.metrics import MAX_FALSE_POSITIVE_RATE, Metric, areas_under_curve, combined, standardised
from search.evaluation.official import Part, Year
from search.evaluation.truth import Indices, Pairs, Truth

#: A label's domain, and how many recordings have it.
Counts = tuple[tuple[Domain | None, int], ...]

#: The sets of clips that are drawn.
_SETS = 1000

#: Of more clips of a label, only so many are drawn; the spread of the sets is that of all of them.
_MOST_CLIPS = 60

#: Distances between the means of anomalies and normal clips, in deviations: AUCs from 0.02 to 0.99999.
_DISTANCES = np.linspace(-3.0, 6.0, 181)

#: By how much all machine IDs are moved at most, and how often the range of moves is halved.
_FURTHEST, _HALVINGS = 8.0, 12

#: The probability beyond an end, less than 2.5 %: scores are not distributed as in the model.
_TAIL = 0.015


def ends_by_model(metric: Metric, year: Year, parts: dict[Part, Pairs], scores: Scores, truth: Truth) -> Scores:
    """Return the lowest and the highest value of the metric that the clips do not exclude, by the model; (2,)."""
    values = np.array([areas_under_curve(part.kind, scores[np.newaxis], pairs)[0] for part, pairs in parts.items()])
    low, high = _ends(metric, year, parts, values, truth)
    if metric == "worst_id":
        # Where all but one ID are perfect, the lowest is as low as that one may be: each ID's own lower end holds.
        alone = [_ends(metric, year, {p: parts[p]}, values[[k]], truth)[0] for k, p in enumerate(parts)]
        low = min(low, *alone)
    return np.array([low, high])


def _ends(metric: Metric, year: Year, parts: dict[Part, Pairs], values: Scores, truth: Truth) -> tuple[float, float]:
    measured = combined(metric, year, list(parts), values)
    tables, distances, draws = _of_parts(parts, values, truth)
    kinds = [part.kind for part in parts]

    def moved(move: float) -> tuple[Scores, Scores]:
        """The metric of each set that is drawn, (sets,), and of the distributions, if all machine IDs move so far."""
        drawn, true = np.empty((len(parts), _SETS)), np.empty(len(parts))
        for row, (table, distance, draw) in enumerate(zip(tables, distances, draws, strict=True)):
            place = np.clip((distance + move - _DISTANCES[0]) / (_DISTANCES[1] - _DISTANCES[0]), 0, len(table) - 1.001)
            below, share = int(place), place % 1
            of_sets = (1 - share) * table[below] + share * table[below + 1]
            drawn[row], true[row] = of_sets[draw], np.interp(distance + move, _DISTANCES, _true_values(kinds[row]))
        return combined(metric, year, list(parts), drawn), combined(metric, year, list(parts), true)

    low = _turning_point(lambda move: (moved(move)[0] >= measured - 1e-9).mean() >= _TAIL, -_FURTHEST, 0.0)
    high = _turning_point(lambda move: (moved(move)[0] <= measured + 1e-9).mean() < _TAIL, 0.0, _FURTHEST)
    return float(moved(low)[1]), float(moved(high)[1])


def _turning_point(is_beyond: Callable[[float], bool], low: float, high: float) -> float:
    """Return where `is_beyond`, false at first, becomes true between these moves; an end if it does not."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if is_beyond(middle) else (middle, high)
    return (low + high) / 2


def _of_parts(
    parts: dict[Part, Pairs], values: Scores, truth: Truth
) -> tuple[list[Scores], list[float], list[Indices]]:
    """Return each part's table, its measured distance, and the order in which it takes the sets that are drawn."""
    rng = np.random.default_rng(0)
    of_ids: dict[str, Indices] = {}
    tables, distances, draws = [], [], []
    for (part, pairs), value in zip(parts.items(), values, strict=True):
        if part.id_name not in of_ids:  # IDs with as many clips share the sets: in another order they are independent
            of_ids[part.id_name] = rng.permutation(_SETS)
        normals, anomalies = (counts_of(np.concatenate(clips), truth) for clips in zip(*pairs, strict=True))
        table = _table(part.kind, normals, anomalies)
        compared = _total(normals) * _total(anomalies)
        # Half a comparison more on either side: a value of 1 has a distance too.
        within = (value * compared + 0.5) / (compared + 1)
        tables.append(table)
        distances.append(float(np.interp(within, table.mean(axis=1), _DISTANCES)))
        draws.append(of_ids[part.id_name])
    # Where an ID's clips are all ranked right, its parts have one distance, though a pAUC alone allows a longer one.
    for name in of_ids:
        right = [
            row
            for row, (part, value) in enumerate(zip(parts, values, strict=True))
            if part.id_name == name and value == 1
        ]
        for row in right:
            distances[row] = min(distances[other] for other in right)
    return tables, distances, draws


def counts_of(clips: Indices, truth: Truth) -> Counts:
    """Return how many recordings these clips are, by domain."""
    numbers = np.array(truth.recordings)[clips] if truth.recordings else clips
    _, first = np.unique(numbers, return_index=True)
    domains = truth.domains or (None,) * len(truth)
    counted = Counter(domains[clip] for clip in clips[first].tolist())
    return tuple(sorted(counted.items(), key=repr))


def _total(counts: Counts) -> int:
    return sum(count for _, count in counts)


@lru_cache
def _true_values(kind: str) -> Scores:
    """Return the AUC or pAUC of the distributions at each distance, (distances,)."""
    from scipy.stats import norm

    if kind == "auc":
        return np.asarray(norm.cdf(_DISTANCES / np.sqrt(2)))
    rates = (np.arange(200) + 0.5) * MAX_FALSE_POSITIVE_RATE / 200
    found = norm.cdf(_DISTANCES[:, np.newaxis] + norm.ppf(rates)).mean(axis=1)
    return standardised(MAX_FALSE_POSITIVE_RATE * found)


@lru_cache(maxsize=64)
def _table(kind: str, normals: Counts, anomalies: Counts) -> Scores:
    """Return a part's value in each set that is drawn, at each distance; (distances, sets)."""
    drawn = _drawn(0, normals), _drawn(1, anomalies)
    aucs = _aucs(*drawn)
    table = aucs if kind == "auc" else _paucs(*drawn)
    mean, mean_auc = table.mean(axis=1, keepdims=True), aucs.mean(axis=1, keepdims=True)
    fewer = _variance(mean_auc, drawn[0].shape[1], drawn[1].shape[1])
    all_of_them = _variance(mean_auc, _total(normals), _total(anomalies))
    narrower = np.divide(all_of_them, fewer, out=np.ones_like(fewer), where=fewer > 0)
    # The best and the worst value stay: that of more clips, too, may be the best one.
    is_extreme = (table == table.max()) | (table == table.min())
    return np.where(is_extreme, table, mean + (table - mean) * np.sqrt(narrower))


def _drawn(label: int, counts: Counts) -> Scores:
    """Return standard normal scores, (sets, clips). A domain's clips have the same scores in each part."""
    shrunk = min(1.0, _MOST_CLIPS / _total(counts))
    domains = {None: 0, "source": 1, "target": 2}
    return np.concatenate(
        [
            np.random.default_rng([label, domains[domain]]).standard_normal((_SETS, max(1, round(shrunk * count))))
            for domain, count in counts
        ],
        axis=1,
    )


def _aucs(normals: Scores, anomalies: Scores) -> Scores:
    differences = (normals[:, :, np.newaxis] - anomalies[:, np.newaxis, :]).reshape(_SETS, -1)
    return _shares_below(differences, np.broadcast_to(_DISTANCES, (_SETS, len(_DISTANCES)))).T


def _paucs(normals: Scores, anomalies: Scores) -> Scores:
    """The ROC curve has a column for each of the highest normal clips, as high as the share of anomalies above it."""
    clips = normals.shape[1]
    highest = -np.sort(-normals, axis=1)[:, : int(np.ceil(MAX_FALSE_POSITIVE_RATE * clips))]
    widths = np.full(highest.shape[1], 1 / clips)
    widths[-1] = MAX_FALSE_POSITIVE_RATE - (len(widths) - 1) / clips
    area = np.zeros((_SETS, len(_DISTANCES)))
    for column, width in zip(highest.T, widths, strict=True):
        area += width * (1 - _shares_below(anomalies, column[:, np.newaxis] - _DISTANCES))
    return standardised(area).T


def _shares_below(values: Scores, limits: Scores) -> Scores:
    """Return the share of each row's values (rows, values) that lie below each of its limits (rows, limits)."""
    apart = 100.0 * np.arange(len(values))[:, np.newaxis]  # more than any two values differ by: one search for all rows
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
