"""How well clip scores tell anomalies from normal clips.

scores : (clips,) float64, higher is more anomalous, in the order of the truth's clips.
AUC    : for each machine ID, then the mean over IDs. An ID with one label only has none and is left out.
pooled : AUC over the clips of these IDs together: how far one threshold would do for all. Calibration changes it.
pAUC   : area below a false-positive rate of 0.1, standardised (McClish 1989): DCASE Task 2's p.
metric : what one number is made of a scoring, from 0 to 1, higher is better:
         auc       mean AUC over machine IDs
         pauc      mean pAUC over machine IDs
         official  the challenge's score, by the rule of search.official that fits the clips
         worst_id  the lowest AUC of a machine ID
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from features.clip import ANOMALY, NORMAL, Description, Domain
from search.errors import StudyError
from search.official import Part, Year, official_score, parts_of, year_for

Scores = npt.NDArray[np.float64]
Metric = Literal["auc", "pauc", "official", "worst_id"]

_Indices = npt.NDArray[np.int64]  # of clips

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

    @classmethod
    def of(cls, clips: Sequence[Description]) -> Truth:
        """The truth of clips that all have labels."""
        domains = tuple(clip.domain for clip in clips)
        return cls(
            ids=tuple(clip.id_name for clip in clips),
            labels=tuple(clip.label for clip in clips if clip.label is not None),
            domains=domains if any(domains) else (),
        )

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
    from sklearn.metrics import roc_auc_score  # here, so that a worker that waits for a trial stays small

    return {name: float(roc_auc_score(labels, own)) for name, (own, labels) in scores_by_id(scores, truth).items()}


def evaluate(scores: Scores, truth: Truth) -> Figures:
    """All figures of one set of scored clips. Raises StudyError if no ID has both labels."""
    from sklearn.metrics import roc_auc_score

    by_id = scores_by_id(scores, truth)
    per_id = {}
    for name, (id_scores, labels) in by_id.items():
        normals = int((labels == NORMAL).sum())
        pauc = None
        if normals >= FEWEST_NORMALS_FOR_PAUC:
            pauc = float(roc_auc_score(labels, id_scores, max_fpr=MAX_FALSE_POSITIVE_RATE))
        auc = float(roc_auc_score(labels, id_scores))
        per_id[name] = IdFigures(auc=auc, pauc=pauc, normal=normals, anomaly=len(labels) - normals)
    paucs = [figures.pauc for figures in per_id.values() if figures.pauc is not None]
    judged = np.isin(truth.ids, list(by_id))
    low, high = np.quantile(resampled_aucs(scores, truth), [0.025, 0.975])
    return Figures(
        auc=float(np.mean([figures.auc for figures in per_id.values()])),
        pauc=float(np.mean(paucs)) if len(paucs) == len(per_id) else None,
        interval=(float(low), float(high)),
        pooled=float(roc_auc_score(np.array(truth.labels)[judged], scores[judged])),
        per_id=per_id,
    )


def figure(metric: Metric, scores: Scores, truth: Truth, *, year: Year | None = None) -> float:
    """That metric of a scoring; `year` chooses the official score's rule.

    Raises StudyError, with the reason, if the clips do not tell it: no ID with both labels, too few normal clips for a
    pAUC, or clips without a domain where the rule asks for one.
    """
    year = year or truth.year
    parts = _parts(metric, truth, year)
    values = np.array([_measured(part.kind, scores, *clips) for part, clips in parts.items()])
    return float(_combined(metric, year, list(parts), values))


def domain_aucs(scores: Scores, truth: Truth, *, year: Year | None = None) -> dict[str, dict[str, float]]:
    """The AUCs of each machine ID in each domain, as that year's official score has them; none for 2020.

    Raises StudyError if the clips do not tell them.
    """
    chosen = parts_of(year or truth.year, _members(truth))
    found: dict[str, dict[str, float]] = {}
    for part in chosen:
        if part.kind == "auc" and part.normals is not None:
            found.setdefault(part.id_name, {})[part.normals] = _measured("auc", scores, *_clips_of(part, truth))
    return found


class Bootstrap:
    """Resamples of some clips, stratified by machine ID, label and domain: drawn once, for however many trials.

    The draws depend on the clips alone: two sets of scores of the same clips are resampled alike, so that their
    difference is a paired one. Raises StudyError if no ID has both labels.
    """

    def __init__(self, truth: Truth, *, resamples: int = RESAMPLES) -> None:
        rng = np.random.default_rng(0)
        self._truth = truth
        self._drawn = np.zeros((len(truth.ids), resamples), dtype=np.int32)  # how often each clip is drawn in each
        for stratum in _strata(truth):
            self._drawn[stratum] = _draw_counts(rng, len(stratum), resamples)

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
        values = np.array([of_kind[part.kind](scores, *clips) for part, clips in parts.items()])
        return _combined(metric, year, list(parts), values)

    def _aucs(self, scores: Scores, normals: _Indices, anomalies: _Indices) -> Scores:
        # AUC is the share of (anomaly, normal) pairs in the right order, a tie counting half (Mann and Whitney 1947):
        # the mean of the shares with ties counted as right and as wrong.
        ranked, counts = self._ranked(scores, normals)
        below, not_above = (np.searchsorted(ranked, scores[anomalies], side) for side in ("left", "right"))
        twice = counts[below]
        twice += counts[not_above]
        twice *= self._drawn[anomalies]
        return np.asarray(twice.sum(axis=0) / (2 * len(normals) * len(anomalies)))

    def _paucs(self, scores: Scores, normals: _Indices, anomalies: _Indices) -> Scores:
        ranked, counts = self._ranked(scores, normals)
        ranked_anomalies, anomaly_counts = self._ranked(scores, anomalies)
        # From the highest normal clip down, the first at which the rate is reached in every resample.
        reached = (counts <= (1 - MAX_FALSE_POSITIVE_RATE) * len(normals)).all(axis=1)
        lowest = ranked[np.flatnonzero(reached)[-1]] if reached.any() else -np.inf
        thresholds = np.unique(scores[np.concatenate([normals, anomalies])])
        thresholds = thresholds[thresholds >= lowest][::-1]
        # The points of the ROC curve, (points, resamples): it starts where nothing is called an anomaly.
        false = 1 - counts[np.r_[-1, np.searchsorted(ranked, thresholds)]] / len(normals)
        true = 1 - anomaly_counts[np.r_[-1, np.searchsorted(ranked_anomalies, thresholds)]] / len(anomalies)
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


def _measured(kind: Literal["auc", "pauc"], scores: Scores, normals: _Indices, anomalies: _Indices) -> float:
    from sklearn.metrics import roc_auc_score

    labels = np.repeat([NORMAL, ANOMALY], [len(normals), len(anomalies)])
    max_fpr = MAX_FALSE_POSITIVE_RATE if kind == "pauc" else None
    return float(roc_auc_score(labels, scores[np.concatenate([normals, anomalies])], max_fpr=max_fpr))


def _parts(metric: Metric, truth: Truth, year: Year) -> dict[Part, tuple[_Indices, _Indices]]:
    """What a metric is made of, each with its normal clips and anomalies. Raises StudyError if some cannot be told."""
    names = _members(truth)
    if metric == "official":
        parts = parts_of(year, names)
    else:
        parts = [Part(id_name=name, kind="pauc" if metric == "pauc" else "auc") for name in names]
    return {part: _clips_of(part, truth) for part in parts}


def _clips_of(part: Part, truth: Truth) -> tuple[_Indices, _Indices]:
    """The normal clips and the anomalies of a part. Raises StudyError if they do not suffice."""
    normals, anomalies = (
        _of_domain(part.id_name, label, domain, truth)
        for label, domain in ((NORMAL, part.normals), (ANOMALY, part.anomalies))
    )
    if part.kind == "pauc" and len(normals) < FEWEST_NORMALS_FOR_PAUC:
        of_domain = f" of the {part.normals} domain" if part.normals else ""
        raise StudyError(
            f"pAUC looks at the highest tenth of a machine ID's normal clips and needs {FEWEST_NORMALS_FOR_PAUC} of "
            f"them, but {part.id_name} has {len(normals)}{of_domain}. Add labelled normal clips, or go by AUC."
        )
    return normals, anomalies


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


def _strata(truth: Truth) -> list[_Indices]:
    """The clips of each machine ID that has both labels, by label and domain."""
    strata: dict[tuple[int, Domain | None], list[int]]
    found = []
    for members in _members(truth).values():
        strata = {}
        for clip in members.tolist():
            strata.setdefault((truth.labels[clip], truth.domains[clip] if truth.domains else None), []).append(clip)
        found += [np.array(strata[key]) for key in sorted(strata, key=str)]
    return found


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
