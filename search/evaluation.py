"""How well clip scores tell anomalies from normal clips.

scores : (clips,) float64, higher is more anomalous, in the order of the truth's clips.
AUC    : for each machine ID, then the mean over IDs. An ID with one label only has none and is left out.
pooled : AUC over the clips of these IDs together: how far one threshold would do for all. Calibration changes it.
pAUC   : area below a false-positive rate of 0.1, standardised (McClish 1989): DCASE Task 2's p.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.clip import ANOMALY, NORMAL, Clip
from search.errors import StudyError

Scores = npt.NDArray[np.float64]

MAX_FALSE_POSITIVE_RATE = 0.1
RESAMPLES = 2000

#: With fewer normal clips, a tenth of them is not one clip.
FEWEST_NORMALS_FOR_PAUC = 10


@dataclass(frozen=True)
class Truth:
    """What is known of some labelled clips: all that a figure needs of them."""

    ids: tuple[str, ...]  # machine/ID of each clip
    labels: tuple[int, ...]  # 0 normal, 1 anomaly

    @classmethod
    def of(cls, clips: Sequence[Clip]) -> Truth:
        """The truth of clips that all have labels."""
        return cls(
            ids=tuple(clip.id_name for clip in clips),
            labels=tuple(clip.label for clip in clips if clip.label is not None),
        )


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


class Bootstrap:
    """Resamples of some clips, stratified by machine ID and label: drawn once, for however many trials.

    The draws depend on the clips alone: two sets of scores of the same clips are resampled alike, so that their
    difference is a paired one. Raises StudyError if no ID has both labels.
    """

    def __init__(self, truth: Truth, *, resamples: int = RESAMPLES) -> None:
        rng = np.random.default_rng(0)
        labels = np.array(truth.labels, dtype=np.int64)
        self._resamples = resamples
        self._strata = []
        for members in _members(truth).values():
            anomalies, normals = members[labels[members] == ANOMALY], members[labels[members] == NORMAL]
            drawn_anomalies = _draw_counts(rng, len(anomalies), resamples)
            drawn_normals = _draw_counts(rng, len(normals), resamples)
            self._strata.append((anomalies, normals, drawn_anomalies, drawn_normals))

    def aucs(self, scores: Scores) -> Scores:
        """The mean AUC of each resample, (resamples,)."""
        total = np.zeros(self._resamples)
        for anomalies, normals, drawn_anomalies, drawn_normals in self._strata:
            above, below = scores[anomalies, None], scores[None, normals]
            # AUC is the share of (anomaly, normal) pairs in the right order, a tie counting half (Mann and Whitney
            # 1947).
            right = (above > below) + 0.5 * (above == below)
            total += np.einsum("rn,rn->r", drawn_anomalies @ right, drawn_normals) / right.size
        return total / len(self._strata)


def resampled_aucs(scores: Scores, truth: Truth, *, resamples: int = RESAMPLES) -> Scores:
    """Mean AUC of bootstrap resamples of the clips, (resamples,). Raises StudyError if no ID has both labels."""
    return Bootstrap(truth, resamples=resamples).aucs(scores)


def _draw_counts(rng: np.random.Generator, clips: int, resamples: int) -> Scores:
    """How often each clip is drawn in each resample, (resamples, clips)."""
    return rng.multinomial(clips, np.full(clips, 1 / clips), size=resamples).astype(np.float64)


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
