"""Which feature tells anomalies from normal clips, by two simple detectors: no network, nothing to tune.

A clip is represented by its statistics under a feature. Its score is their distance from those of its own machine ID's
training clips, measured in two ways, both after each column is standardised on those clips:

Mahalanobis : with their covariance, shrunk since there are more columns than clips (models.scoring.covariance).
kNN         : the mean distance to the nearest three of them.

scores : (clips,) float64, higher is more anomalous, in the order of `Separability.clips`.
AUC    : for an ID; for a machine and for all machines, the mean over IDs.

Intervals are those of search.evaluation.confidence; which methods the best one is told from, and whether it is better
than guessing, say the rules for the best of many trials (search.evaluation.best_of_many): a method is a trial.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.spatial.distance import cdist

from features.clips.clip import ANOMALY, NORMAL, Clip
from models.scoring.covariance import ShrunkCovariance
from models.scoring.scores import Scores
from search.analysis.statistics import KindProgress, Statistics, Values, standardised
from search.analysis.view import View
from search.evaluation.best_of_many import lead_over_guessing, leads
from search.evaluation.bootstrap import Bootstrap
from search.evaluation.confidence import interval_of, why_no_interval
from search.evaluation.interval import Interval
from search.evaluation.metrics import id_aucs
from search.evaluation.truth import Truth

_NEIGHBOURS = 3


@dataclass(frozen=True)
class SeparationMethod:
    """A feature, and a detector on its statistics."""

    feature: str  # a kind, or a stack of kinds
    detector: str


@dataclass(frozen=True)
class MethodResult:
    """The AUC of a method on some clips."""

    method: SeparationMethod
    auc: float
    interval: Interval | None  # None where there are too few clips
    beats_guessing: bool  # being one of so many methods
    ties: bool  # with the best, which is not told from it


@dataclass(frozen=True)
class Scope:
    """All methods on the clips of one ID, of one machine, or of all: the best first."""

    ids: tuple[str, ...]  # machine/ID
    normal: int  # clips
    anomaly: int
    methods: tuple[MethodResult, ...]
    few: bool  # whether there are too few clips for intervals, and to tell methods apart

    @property
    def best(self) -> MethodResult:
        return self.methods[0]

    @property
    def ties(self) -> tuple[MethodResult, ...]:
        """The methods that tie with the best one."""
        return tuple(measured for measured in self.methods[1:] if measured.ties)

    def of(self, method: SeparationMethod) -> MethodResult:
        return next(measured for measured in self.methods if measured.method == method)


@dataclass(frozen=True)
class Separability:
    """How well each method tells anomalies from normal clips."""

    clips: tuple[Clip, ...]  # the clips that have scores
    scores: Mapping[SeparationMethod, Scores]
    overall: Scope | None  # None if no ID has an AUC
    machines: Mapping[str, Scope]
    ids: Mapping[str, Scope]  # by machine/ID
    undefined: Mapping[str, str]  # machine/ID → why it has no AUC


def separability(view: View, statistics: Statistics, kinds: Sequence[str], *, progress: KindProgress) -> Separability:
    """Measures every feature with every detector, on the labelled clips of the view."""
    training = _by_id(view.training)
    undefined = dict(_undefined(view, training))
    clips = tuple(clip for clip in view.labelled if clip.id_name not in undefined)
    methods = [SeparationMethod(kind, detector) for kind, detector in product(kinds, DETECTORS)]
    scores = {method: np.empty(len(clips)) for method in methods}
    rows: dict[str, list[int]] = defaultdict(list)
    for row, clip in enumerate(clips):
        rows[clip.id_name].append(row)
    for done, (name, own) in enumerate(rows.items()):
        progress("comparing features", done, len(rows))
        for kind in kinds:
            normal = statistics.of(kind, training[name])
            tested = standardised(statistics.of(kind, [clips[row] for row in own]), normal)
            normal = standardised(normal, normal)
            for detector, distance in DETECTORS.items():
                scores[SeparationMethod(kind, detector)][own] = distance(tested, normal)
    machines = sorted({clip.machine for clip in clips})
    parts: list[tuple[str, Sequence[Clip]]] = [("", clips)] if clips else []
    parts += [(machine, [clip for clip in clips if clip.machine == machine]) for machine in machines]
    parts += [(name, [clips[row] for row in own]) for name, own in sorted(rows.items())]
    places = {clip.name: row for row, clip in enumerate(clips)}
    aucs = {method: id_aucs(of_all, Truth.of(clips)) for method, of_all in scores.items()} if clips else {}
    scopes = {}
    for done, (name, part) in enumerate(parts):
        progress("resampling clips", done, len(parts))
        own = [places[clip.name] for clip in part]
        scopes[name] = _scope(Truth.of(part), {method: of_all[own] for method, of_all in scores.items()}, aucs)
    return Separability(
        clips=clips,
        scores=scores,
        overall=scopes.get(""),
        machines={machine: scopes[machine] for machine in machines},
        ids={name: scopes[name] for name in sorted(rows)},
        undefined=undefined,
    )


def mahalanobis(tested: Values, normal: Values) -> Scores:
    """The distance of each row of `tested` from the mean of `normal`, (rows,); both standardised, (rows, columns)."""
    return ShrunkCovariance.of(normal).distances(tested)


def nearest(tested: Values, normal: Values) -> Scores:
    """The mean distance of each row of `tested` to the nearest rows of `normal`, (rows,)."""
    return np.asarray(np.sort(cdist(tested, normal))[:, :_NEIGHBOURS].mean(axis=1))


DETECTORS: dict[str, Callable[[Values, Values], Scores]] = {"kNN": nearest, "Mahalanobis": mahalanobis}


def _scope(
    truth: Truth, scores: Mapping[SeparationMethod, Scores], aucs: Mapping[SeparationMethod, Mapping[str, float]]
) -> Scope:
    """The methods on clips of this truth; `aucs` are those of every ID."""
    ids = tuple(sorted(set(truth.ids)))
    means = {method: float(np.mean([aucs[method][name] for name in ids])) for method in scores}
    bootstrap = Bootstrap(truth)
    intervals = {method: interval_of(of_method, truth, bootstrap=bootstrap) for method, of_method in scores.items()}

    def standing(method: SeparationMethod) -> tuple[float, float]:
        """Of methods with the same AUC, the one with the higher lower end comes first."""
        interval = intervals[method]
        return -round(means[method], 9), 0.0 if interval is None else -interval.low

    ordered = sorted(means, key=standing)
    of_all = np.stack([scores[method] for method in ordered])
    few = bool(why_no_interval(truth))
    # Each method is judged against guessing as if it were the best.
    over_guessing = [
        lead_over_guessing(of_all[[place, *range(place), *range(place + 1, len(ordered))]], truth)
        for place in range(len(ordered))
    ]
    measured = [
        MethodResult(
            method=method,
            auc=means[method],
            interval=intervals[method],
            beats_guessing=over.is_told and not few,
            ties=few or not lead.is_told,
        )
        for method, over, lead in zip(ordered, over_guessing, leads("auc", of_all, truth), strict=True)
    ]
    normal, anomaly = truth.labels.count(NORMAL), truth.labels.count(ANOMALY)
    return Scope(ids=ids, normal=normal, anomaly=anomaly, methods=tuple(measured), few=few)


def _undefined(view: View, training: Mapping[str, Sequence[Clip]]) -> Iterator[tuple[str, str]]:
    """IDs that have no AUC, and why."""
    labels: dict[str, set[int | None]] = defaultdict(set)
    for clip in view.seen + view.held_out:
        labels[clip.id_name].add(clip.label if clip.split == "test" else None)
    for name, seen in sorted(labels.items()):
        if not {NORMAL, ANOMALY} <= seen:
            one = "normal" if NORMAL in seen else "anomalous"
            yield name, f"only {one} test clips" if {NORMAL, ANOMALY} & seen else "no labelled test clip"
        elif len(training.get(name, ())) < 2:
            yield name, f"{len(training.get(name, ()))} training clips: there is no normal sound to compare with"


def _by_id(clips: Sequence[Clip]) -> dict[str, list[Clip]]:
    by_id: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        by_id[clip.id_name].append(clip)
    return by_id
