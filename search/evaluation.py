"""How well clip scores tell anomalies from normal clips.

scores : (clips,) float64, higher is more anomalous, in the order of the truth's clips.
AUC    : for each machine ID, then the mean over IDs. An ID with one label only has none and is left out.
pooled : AUC over the clips of these IDs together: how far one threshold would do for all. Calibration changes it.
folds  : of a cross-validation (search.steering): a clip may have a score in each, by another model. Scores of two
         folds have no common scale: any AUC is taken within each fold, and the mean over folds.
pAUC   : area below a false-positive rate of 0.1, standardised (McClish 1989): DCASE Task 2's p.
metric : what one number is made of a scoring, from 0 to 1, higher is better:
         auc       mean AUC over machine IDs
         pauc      mean pAUC over machine IDs
         official  the challenge's score, by the rule of search.official that fits the clips
         worst_id  the lowest AUC of a machine ID
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Literal

import numpy as np
import numpy.typing as npt

from features.clip import ANOMALY, NORMAL, Clip, Description, Domain
from search.errors import StudyError
from search.official import Part, Year, official_score, parts_of, year_for

Scores = npt.NDArray[np.float64]
Metric = Literal["auc", "pauc", "official", "worst_id"]

_Indices = npt.NDArray[np.int64]  # of clips
_Pairs = list[tuple[_Indices, _Indices]]  # in each fold that has both, the normal clips and the anomalies

MAX_FALSE_POSITIVE_RATE = 0.1
RESAMPLES = 2000

#: With fewer normal clips, a tenth of them is not one clip.
FEWEST_NORMALS_FOR_PAUC = 10


@dataclass(frozen=True)
class Truth:
    """What is known of some labelled clips: all that a figure needs of them."""

    ids: tuple[str, ...]  # machine/ID of each clip
    labels: tuple[int, ...]  # 0 normal, 1 anomaly
    domains: tuple[Domain | None, ...] = ()  # of each clip; empty where none is known
    folds: tuple[int, ...] = ()  # in which each clip is scored, from 0, ascending; empty where there is one
    recordings: tuple[int, ...] = ()  # what each clip is of, by a number; empty where each is of one of its own

    @classmethod
    def of(cls, clips: Sequence[Description]) -> Truth:
        """The truth of clips that all have labels."""
        domains = tuple(clip.domain for clip in clips)
        return cls(
            ids=tuple(clip.id_name for clip in clips),
            labels=tuple(clip.label for clip in clips if clip.label is not None),
            domains=domains if any(domains) else (),
        )

    @classmethod
    def of_folds(cls, folds: Sequence[Sequence[Clip]]) -> Truth:
        """The truth of the clips of several folds, one fold after the other."""
        clips = [clip for fold in folds for clip in fold]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(clip.name for clip in clips))}
        return replace(
            cls.of(clips),
            folds=tuple(fold for fold, members in enumerate(folds) for _ in members),
            recordings=tuple(numbers[clip.name] for clip in clips),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def first(self, clips: int) -> Truth:
        """The truth of the first clips: of those folds that have been scored so far."""
        return self._of_slice(slice(clips))

    @property
    def last_fold(self) -> slice:
        """Where the clips of the last fold are: all of them where there are no folds."""
        return slice(self.folds.index(self.folds[-1]), None) if self.folds else slice(None)

    @property
    def in_last_fold(self) -> Truth:
        """The truth of one model's scores."""
        return replace(self._of_slice(self.last_fold), folds=(), recordings=())

    def count(self, label: int) -> int:
        """How many clips have that label; one that is in several folds counts once."""
        return _count(np.flatnonzero(np.array(self.labels) == label), self)

    def of_ids(self, names: Collection[str]) -> Truth:
        """The truth of these machine IDs' clips."""
        chosen = [name in names for name in self.ids]
        return Truth(
            ids=tuple(compress(self.ids, chosen)),
            labels=tuple(compress(self.labels, chosen)),
            domains=tuple(compress(self.domains, chosen)),
            folds=tuple(compress(self.folds, chosen)),
            recordings=tuple(compress(self.recordings, chosen)),
        )

    def _of_slice(self, part: slice) -> Truth:
        return Truth(self.ids[part], self.labels[part], self.domains[part], self.folds[part], self.recordings[part])

    @property
    def year(self) -> Year:
        """The year of the challenge whose rule fits the clips."""
        return year_for(self.domains)


@dataclass(frozen=True)
class IdFigures:
    """One machine ID's figures."""

    auc: float
    pauc: float | None
    normal: int  # clips
    anomaly: int


@dataclass(frozen=True)
class Figures:
    """What a set of scored clips says."""

    auc: float  # mean over machine IDs
    pauc: float | None  # mean over machine IDs; None where one has too few normal clips
    interval: tuple[float, float]  # 95 %, of auc
    pooled: float  # AUC over the same clips, whatever their machine ID
    per_id: Mapping[str, IdFigures]


def mean_auc(scores: Scores, truth: Truth) -> float:
    """AUC, averaged over machine IDs. Raises StudyError if no ID has both labels."""
    return float(np.mean(list(id_aucs(scores, truth).values())))


def id_aucs(scores: Scores, truth: Truth) -> dict[str, float]:
    """AUC of each machine ID that has both labels. Raises StudyError if none has."""
    return {
        name: _measured("auc", scores, _pairs_of(Part(id_name=name, kind="auc"), truth)) for name in _members(truth)
    }


def evaluate(scores: Scores, truth: Truth) -> Figures:
    """All figures of one set of scored clips. Raises StudyError if no ID has both labels."""
    per_id = {}
    for name, members in _members(truth).items():
        pairs = _pairs_of(Part(id_name=name, kind="auc"), truth)
        enough = all(len(normals) >= FEWEST_NORMALS_FOR_PAUC for normals, _ in pairs)
        normals, anomalies = _by_label(members, truth)
        per_id[name] = IdFigures(
            auc=_measured("auc", scores, pairs),
            pauc=_measured("pauc", scores, pairs) if enough else None,
            normal=_count(normals, truth),
            anomaly=_count(anomalies, truth),
        )
    paucs = [figures.pauc for figures in per_id.values() if figures.pauc is not None]
    judged = np.flatnonzero(np.isin(truth.ids, list(per_id)))
    low, high = np.quantile(resampled_aucs(scores, truth), [0.025, 0.975])
    return Figures(
        auc=float(np.mean([figures.auc for figures in per_id.values()])),
        pauc=float(np.mean(paucs)) if len(paucs) == len(per_id) else None,
        interval=(float(low), float(high)),
        pooled=_measured("auc", scores, _pairs(*_by_label(judged, truth), truth)),
        per_id=per_id,
    )


def figure(metric: Metric, scores: Scores, truth: Truth, *, year: Year | None = None) -> float:
    """That metric of a scoring; `year` chooses the official score's rule.

    Raises StudyError, with the reason, if the clips do not tell it: no ID with both labels, too few normal clips for a
    pAUC, or clips without a domain where the rule asks for one.
    """
    year = year or truth.year
    parts = _parts(metric, truth, year)
    values = np.array([_measured(part.kind, scores, pairs) for part, pairs in parts.items()])
    return float(_combined(metric, year, list(parts), values))


def domain_aucs(scores: Scores, truth: Truth, *, year: Year | None = None) -> dict[str, dict[str, float]]:
    """The AUCs of each machine ID in each domain, as that year's official score has them; none for 2020.

    Raises StudyError if the clips do not tell them.
    """
    chosen = parts_of(year or truth.year, _members(truth))
    found: dict[str, dict[str, float]] = {}
    for part in chosen:
        if part.kind == "auc" and part.normals is not None:
            found.setdefault(part.id_name, {})[part.normals] = _measured("auc", scores, _pairs_of(part, truth))
    return found


class Bootstrap:
    """Resamples of some recordings, stratified by machine ID, label and domain: drawn once, for however many trials.

    As often as a recording is drawn, all clips of it are: in each fold, and with each fault that was made of it. The
    fold that a recording is scored in is no stratum: one of a recording or two is nearly the same in each resample.

    The draws depend on the clips alone: two sets of scores of the same clips are resampled alike, so that their
    difference is a paired one. Raises StudyError if no ID has both labels.
    """

    def __init__(self, truth: Truth, *, resamples: int = RESAMPLES) -> None:
        _members(truth)
        rng = np.random.default_rng(0)
        strata, of_clips = _strata(truth)
        of_recordings = np.zeros((of_clips.max() + 1, resamples), dtype=np.int32)
        for stratum in strata.values():
            of_recordings[stratum] = _draw_counts(rng, len(stratum), resamples)
        self._truth = truth
        self._drawn = of_recordings[of_clips]  # how often each clip is drawn in each

    def aucs(self, scores: Scores) -> Scores:
        """The mean AUC of each resample, (resamples,)."""
        return self.figures("auc", scores)

    def figures(self, metric: Metric, scores: Scores, *, year: Year | None = None) -> Scores:
        """The metric of each resample, (resamples,): what `figure` would say of its clips.

        Raises StudyError as `figure` does.
        """
        year = year or self._truth.year
        parts = _parts(metric, self._truth, year)
        of_kind = {"auc": self._aucs, "pauc": self._paucs}
        values = np.array(
            [
                np.average(
                    [of_kind[part.kind](scores, *pair) for pair in pairs],
                    # A fold counts by how much of it is drawn: over the folds, that is as much in each resample.
                    weights=[self._share(normals) * self._share(anomalies) for normals, anomalies in pairs],
                    axis=0,
                )
                for part, pairs in parts.items()
            ]
        )
        return _combined(metric, year, list(parts), values)

    def _share(self, clips: _Indices) -> Scores:
        """How many of some clips are drawn in each resample, of how many they are."""
        return np.asarray(self._drawn[clips].mean(axis=0))

    def _aucs(self, scores: Scores, normals: _Indices, anomalies: _Indices) -> Scores:
        # AUC is the share of (anomaly, normal) pairs in the right order, a tie counting half (Mann and Whitney 1947):
        # the mean of the shares with ties counted as right and as wrong.
        ranked, counts = self._ranked(scores, normals)
        below, not_above = (np.searchsorted(ranked, scores[anomalies], side) for side in ("left", "right"))
        twice = counts[below]
        twice += counts[not_above]
        twice *= self._drawn[anomalies]
        pairs = counts[-1] * self._drawn[anomalies].sum(axis=0)
        return np.asarray(twice.sum(axis=0) / (2 * np.maximum(pairs, 1)))

    def _paucs(self, scores: Scores, normals: _Indices, anomalies: _Indices) -> Scores:
        ranked, counts = self._ranked(scores, normals)
        ranked_anomalies, anomaly_counts = self._ranked(scores, anomalies)
        drawn, drawn_anomalies = np.maximum(counts[-1], 1), np.maximum(anomaly_counts[-1], 1)
        # From the highest normal clip down, the first at which the rate is reached in every resample.
        reached = (counts[:-1] <= (1 - MAX_FALSE_POSITIVE_RATE) * drawn).all(axis=1)
        lowest = ranked[np.flatnonzero(reached)[-1]] if reached.any() else -np.inf
        thresholds = np.unique(scores[np.concatenate([normals, anomalies])])
        thresholds = thresholds[thresholds >= lowest][::-1]
        # The points of the ROC curve, (points, resamples): it starts where nothing is called an anomaly.
        false = 1 - counts[np.r_[-1, np.searchsorted(ranked, thresholds)]] / drawn
        true = 1 - anomaly_counts[np.r_[-1, np.searchsorted(ranked_anomalies, thresholds)]] / drawn_anomalies
        # Each line between two points counts as far as it lies within the rate.
        width, height = np.diff(false, axis=0), np.diff(true, axis=0)
        within = np.clip(MAX_FALSE_POSITIVE_RATE - false[:-1], 0, width)
        share = np.divide(within, width, out=np.zeros_like(width), where=width > 0)
        area = (within * (true[:-1] + share * height / 2)).sum(axis=0)
        return _standardised(area)

    def _ranked(self, scores: Scores, clips: _Indices) -> tuple[Scores, npt.NDArray[np.int64]]:
        """Scores of some clips, ascending; and how many of each resample lie before each place, (clips + 1, …)."""
        order = clips[np.argsort(scores[clips])]
        counts = np.zeros((len(clips) + 1, self._drawn.shape[1]), dtype=np.int64)
        np.cumsum(self._drawn[order], axis=0, out=counts[1:])
        return scores[order], counts


def resampled_aucs(scores: Scores, truth: Truth, *, resamples: int = RESAMPLES) -> Scores:
    """Mean AUC of bootstrap resamples of the clips, (resamples,). Raises StudyError if no ID has both labels."""
    return Bootstrap(truth, resamples=resamples).aucs(scores)


def _draw_counts(rng: np.random.Generator, clips: int, resamples: int) -> npt.NDArray[np.int64]:
    """How often each clip is drawn in each resample, (clips, resamples)."""
    drawn = rng.integers(clips, size=(clips, resamples))
    drawn *= resamples
    drawn += np.arange(resamples)
    return np.bincount(drawn.ravel(), minlength=clips * resamples).reshape(clips, resamples)


def _standardised(area: Scores) -> Scores:
    """A partial area as 1/2 for chance and 1 for a perfect score (McClish 1989)."""
    chance = MAX_FALSE_POSITIVE_RATE**2 / 2
    return (1 + (area - chance) / (MAX_FALSE_POSITIVE_RATE - chance)) / 2


def _measured(kind: Literal["auc", "pauc"], scores: Scores, pairs: _Pairs) -> float:
    from sklearn.metrics import roc_auc_score  # here, so that a worker that waits for a trial stays small

    max_fpr = MAX_FALSE_POSITIVE_RATE if kind == "pauc" else None
    values = []
    for normals, anomalies in pairs:
        labels = np.repeat([NORMAL, ANOMALY], [len(normals), len(anomalies)])
        values.append(roc_auc_score(labels, scores[np.concatenate([normals, anomalies])], max_fpr=max_fpr))
    return float(np.mean(values))


def _parts(metric: Metric, truth: Truth, year: Year) -> dict[Part, _Pairs]:
    """What a metric is made of, each with its clips. Raises StudyError if some cannot be told."""
    names = _members(truth)
    if metric == "official":
        parts = parts_of(year, names)
    else:
        parts = [Part(id_name=name, kind="pauc" if metric == "pauc" else "auc") for name in names]
    return {part: _pairs_of(part, truth) for part in parts}


def _pairs_of(part: Part, truth: Truth) -> _Pairs:
    """The normal clips and the anomalies of a part. Raises StudyError if they do not suffice."""
    normals, anomalies = (
        _of_domain(part.id_name, label, domain, truth)
        for label, domain in ((NORMAL, part.normals), (ANOMALY, part.anomalies))
    )
    pairs = _pairs(normals, anomalies, truth)
    fewest = min(len(of_fold) for of_fold, _ in pairs)
    if part.kind == "pauc" and fewest < FEWEST_NORMALS_FOR_PAUC:
        of_domain = f" of the {part.normals} domain" if part.normals else ""
        in_a_fold = " in a fold" if truth.folds else ""
        raise StudyError(
            f"pAUC looks at the highest tenth of a machine ID's normal clips and needs {FEWEST_NORMALS_FOR_PAUC} of "
            f"them, but {part.id_name} has {fewest}{of_domain}{in_a_fold}. Add labelled normal clips, or go by AUC."
        )
    return pairs


def _pairs(normals: _Indices, anomalies: _Indices, truth: Truth) -> _Pairs:
    """Some clips by fold: those folds that have both."""
    if not truth.folds:
        return [(normals, anomalies)]
    folds = np.array(truth.folds)
    pairs = [
        (normals[folds[normals] == fold], anomalies[folds[anomalies] == fold]) for fold in range(truth.folds[-1] + 1)
    ]
    return [(of_fold, faulty) for of_fold, faulty in pairs if len(of_fold) and len(faulty)]


def _count(clips: _Indices, truth: Truth) -> int:
    """How many clips these are, each of them once."""
    return len({truth.recordings[clip] for clip in clips}) if truth.folds else len(clips)


def _by_label(clips: _Indices, truth: Truth) -> tuple[_Indices, _Indices]:
    """The normal ones of some clips, and the anomalies."""
    labels = np.array(truth.labels)[clips]
    return clips[labels == NORMAL], clips[labels == ANOMALY]


def _of_domain(name: str, label: int, domain: Domain | None, truth: Truth) -> _Indices:
    """Clips of a machine ID with that label, of one domain or of all. Raises StudyError if the domain has none."""
    ids, labels = np.array(truth.ids), np.array(truth.labels)
    clips = np.flatnonzero((ids == name) & (labels == label))
    if domain is None:
        return clips
    domains = np.array(truth.domains or (None,) * len(ids))[clips]
    what = "normal clips" if label == NORMAL else "anomalies"
    unknown = sum(of_clip is None for of_clip in domains)
    if unknown:
        raise StudyError(
            f"The official score since 2021 needs the domain, source or target, of the {what} that it judges, but of "
            f"{unknown} of the {len(clips)} of {name} it is not known. Add it to the ground truth, or go by AUC."
        )
    if not (domains == domain).any():
        raise StudyError(
            f"The official score since 2021 needs {what} of both domains of each machine ID, but {name} has none of "
            f"the {domain} domain. Add some, or go by AUC."
        )
    return np.asarray(clips[domains == domain])


def _combined(metric: Metric, year: Year, parts: Sequence[Part], values: Scores) -> Scores:
    """One number of the values (parts, …) of a metric's parts; (…)."""
    if metric == "official":
        return official_score(year, parts, values)
    return np.asarray(values.min(axis=0) if metric == "worst_id" else values.mean(axis=0))


def fewest_recordings(truth: Truth) -> int:
    """How many the smallest stratum has of those that a `Bootstrap` draws a machine ID's recordings from.

    Raises StudyError if no ID has both labels.
    """
    judged, strata = _members(truth), _strata(truth)[0]
    return min(len(recordings) for (name, _, _), recordings in strata.items() if name in judged)


def _strata(truth: Truth) -> tuple[dict[tuple[str, int, str], _Indices], _Indices]:
    """Recordings by machine ID, label and domain, each recording by its first clip; and which one each clip is of."""
    _, first_clips, of_clips = np.unique(truth.recordings or range(len(truth)), return_index=True, return_inverse=True)
    strata: dict[tuple[str, int, str], list[int]] = defaultdict(list)
    for recording, clip in enumerate(first_clips.tolist()):
        domain = truth.domains[clip] if truth.domains else None
        strata[truth.ids[clip], truth.labels[clip], domain or ""].append(recording)
    return {key: np.array(strata[key]) for key in sorted(strata)}, of_clips


def scores_by_id(scores: Scores, truth: Truth) -> dict[str, tuple[Scores, npt.NDArray[np.int64]]]:
    """Scores and labels of each machine ID that has both labels, by its name."""
    labels = np.array(truth.labels, dtype=np.int64)
    return {name: (scores[members], labels[members]) for name, members in _members(truth).items()}


def _members(truth: Truth) -> dict[str, npt.NDArray[np.int64]]:
    """Indices of the clips of each machine ID that has both labels, by its name."""
    ids, labels = np.array(truth.ids), np.array(truth.labels, dtype=np.int64)
    found = {}
    for name in sorted(set(truth.ids)):
        members = np.flatnonzero(ids == name)
        if {NORMAL, ANOMALY} <= set(labels[members].tolist()):
            found[name] = members
    if not found:
        raise StudyError("AUC is undefined: no machine ID has both normal and anomalous labelled clips")
    return found
