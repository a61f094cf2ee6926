"""Which feature tells anomalies from normal clips, by two simple detectors: no network, nothing to tune.

A clip is represented by its statistics under a feature. Its score is their distance from those of its own machine ID's
training clips, measured in two ways, both after each column is standardised on those clips:

Mahalanobis : with their covariance, shrunk since there are more columns than clips (models.scoring.covariance).
kNN         : the mean distance to the nearest three of them.

scores : (clips,) float64, higher is more anomalous, in the order of `Separability.clips`.
AUC    : for an ID; for a machine and for all machines, the mean over IDs.

Intervals and ties come from a bootstrap over clips. Resamples of n clips vary less than samples of n clips, by
(n − 1) / n in variance, which matters since an ID may have only two clips: intervals are widened by that factor
(Hesterberg 2015).
"""

from __future__ import annotations

from collections import Counter, defaultdict
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
from search.evaluation.bootstrap import Bootstrap
from search.evaluation.interval import Interval
from search.evaluation.metrics import id_aucs
from search.evaluation.truth import Truth

_NEIGHBOURS = 3

#: With fewer clips of either label, resamples do not represent other clips: an interval would be too narrow.
FEWEST_FOR_INTERVAL = 5
#: With fewer clips of an ID, an interval of width 0 (all resamples have the same AUC) is not reported either.
_FEWEST_ALIKE = 10


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
    beats_guessing: bool  # with a Bonferroni correction for the number of methods
    ties: bool  # with the best: the interval of their paired difference includes 0


@dataclass(frozen=True)
class Scope:
    """All methods on the clips of one ID, of one machine, or of all: the best first."""

    ids: tuple[str, ...]  # machine/ID
    normal: int  # clips
    anomaly: int
    methods: tuple[MethodResult, ...]

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
    strata = Counter(zip(truth.ids, truth.labels, strict=True))
    ids = tuple(sorted(set(truth.ids)))
    normal, anomaly = truth.labels.count(NORMAL), truth.labels.count(ANOMALY)
    few = min(normal, anomaly) < FEWEST_FOR_INTERVAL
    wider = np.sqrt(np.mean([count / (count - 1) if count > 1 else 2.0 for count in strata.values()]))
    means = {method: float(np.mean([aucs[method][name] for name in ids])) for method in scores}
    bootstrap = Bootstrap(truth)
    resampled = {method: means[method] + wider * (bootstrap.aucs(scores[method]) - means[method]) for method in scores}
    intervals = {method: Interval.of(of_method) for method, of_method in resampled.items()}
    # Of methods with the same AUC, the one with the higher lower end comes first.
    ordered = sorted(means, key=lambda method: (-round(means[method], 9), -intervals[method].low))
    measured = []
    for method in ordered:
        interval = Interval(*np.clip(intervals[method], 0, 1).tolist())  # widened, it may leave what an AUC can be
        unknown = few or (interval.low == interval.high and min(strata.values()) < _FEWEST_ALIKE)
        luckiest = float(np.quantile(resampled[method], 0.025 / len(ordered)))
        measured.append(
            MethodResult(
                method=method,
                auc=means[method],
                interval=None if unknown else interval,
                beats_guessing=luckiest > 0.5 and not few,
                ties=few or Interval.of(resampled[ordered[0]] - resampled[method]).low <= 1e-9,
            )
        )
    return Scope(ids=ids, normal=normal, anomaly=anomaly, methods=tuple(measured))


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
