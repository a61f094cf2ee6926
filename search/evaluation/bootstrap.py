"""Bootstrap resamples of labelled clips: how far a metric depends on which clips were recorded."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import numpy.typing as npt

from models.scoring.scores import Scores
from search.evaluation.metrics import MAX_FALSE_POSITIVE_RATE, Metric, combined, parts_with_clips, standardised
from search.evaluation.official import Year
from search.evaluation.truth import Indices, Truth, judged_ids

RESAMPLES = 2000


class Bootstrap:
    """Resamples of the recordings of a truth, stratified by machine ID, label and domain.

    They are drawn once, for any number of trials. Each time a recording is drawn, all of its clips are drawn: those of
    each fold, and those with a synthetic fault. The fold of a recording is no stratum: a stratum of one or two
    recordings would hardly differ between resamples.

    The draws depend on the clips alone. Two sets of scores of the same clips are therefore resampled alike, and their
    difference is a paired one. Raises StudyError if no machine ID has both labels.
    """

    def __init__(self, truth: Truth, *, resamples: int = RESAMPLES) -> None:
        judged_ids(truth)
        rng = np.random.default_rng(0)
        strata, of_clips = strata_of(truth)
        of_recordings = np.zeros((of_clips.max() + 1, resamples), dtype=np.int32)
        for stratum in strata.values():
            of_recordings[stratum] = _draw_counts(rng, len(stratum), resamples)
        self._truth = truth
        self._drawn = of_recordings[of_clips]  # (clips, resamples): how often each clip is drawn

    def aucs(self, scores: Scores) -> Scores:
        """The AUC of each resample, the mean over machine IDs; (resamples,)."""
        return self.metric("auc", scores)

    def metric(self, metric: Metric, scores: Scores, *, year: Year | None = None) -> Scores:
        """The metric of each resample, (resamples,): what `metric_of` returns for the clips that were drawn.

        Raises StudyError as `metric_of` does.
        """
        year = year or self._truth.year
        parts = parts_with_clips(metric, self._truth, year)
        of_kind = {"auc": self._aucs, "pauc": self._paucs}
        values = np.array(
            [
                np.average(
                    [of_kind[part.kind](scores, *pair) for pair in pairs],
                    # A fold is weighted by how much of it is drawn: over all folds, that is as much in each resample.
                    weights=[self._share(normals) * self._share(anomalies) for normals, anomalies in pairs],
                    axis=0,
                )
                for part, pairs in parts.items()
            ]
        )
        return combined(metric, year, list(parts), values)

    def _share(self, clips: Indices) -> Scores:
        """The number of draws of these clips in each resample, divided by the number of clips; (resamples,)."""
        return np.asarray(self._drawn[clips].mean(axis=0))

    def _aucs(self, scores: Scores, normals: Indices, anomalies: Indices) -> Scores:
        # AUC is the share of (anomaly, normal) pairs in the right order, where a tie counts half (Mann and Whitney
        # 1947). That is the mean of two shares: with ties counted as right, and as wrong.
        ranked, counts = self._ranked(scores, normals)
        below, not_above = (np.searchsorted(ranked, scores[anomalies], side) for side in ("left", "right"))
        twice = counts[below]
        twice += counts[not_above]
        twice *= self._drawn[anomalies]
        pairs = counts[-1] * self._drawn[anomalies].sum(axis=0)
        return np.asarray(twice.sum(axis=0) / (2 * np.maximum(pairs, 1)))

    def _paucs(self, scores: Scores, normals: Indices, anomalies: Indices) -> Scores:
        ranked, counts = self._ranked(scores, normals)
        ranked_anomalies, anomaly_counts = self._ranked(scores, anomalies)
        drawn, drawn_anomalies = np.maximum(counts[-1], 1), np.maximum(anomaly_counts[-1], 1)
        # The highest normal score at which every resample has reached the rate: lower thresholds add nothing.
        reached = (counts[:-1] <= (1 - MAX_FALSE_POSITIVE_RATE) * drawn).all(axis=1)
        lowest = ranked[np.flatnonzero(reached)[-1]] if reached.any() else -np.inf
        thresholds = np.unique(scores[np.concatenate([normals, anomalies])])
        thresholds = thresholds[thresholds >= lowest][::-1]
        # The points of the ROC curve, (points, resamples). It starts where no clip is called an anomaly.
        false = 1 - counts[np.r_[-1, np.searchsorted(ranked, thresholds)]] / drawn
        true = 1 - anomaly_counts[np.r_[-1, np.searchsorted(ranked_anomalies, thresholds)]] / drawn_anomalies
        # Of each line between two points, the part within the rate counts.
        width, height = np.diff(false, axis=0), np.diff(true, axis=0)
        within = np.clip(MAX_FALSE_POSITIVE_RATE - false[:-1], 0, width)
        share = np.divide(within, width, out=np.zeros_like(width), where=width > 0)
        area = (within * (true[:-1] + share * height / 2)).sum(axis=0)
        return standardised(area)

    def _ranked(self, scores: Scores, clips: Indices) -> tuple[Scores, npt.NDArray[np.int64]]:
        """Return the clips' scores, ascending, and how many draws lie before each place; (clips + 1, resamples)."""
        order = clips[np.argsort(scores[clips])]
        counts = np.zeros((len(clips) + 1, self._drawn.shape[1]), dtype=np.int64)
        np.cumsum(self._drawn[order], axis=0, out=counts[1:])
        return scores[order], counts


def _draw_counts(rng: np.random.Generator, clips: int, resamples: int) -> npt.NDArray[np.int64]:
    """Return how often each clip is drawn in each resample, (clips, resamples)."""
    drawn = rng.integers(clips, size=(clips, resamples))
    drawn *= resamples
    drawn += np.arange(resamples)
    return np.bincount(drawn.ravel(), minlength=clips * resamples).reshape(clips, resamples)


def fewest_recordings(truth: Truth) -> int:
    """Return the number of recordings in the smallest stratum that a `Bootstrap` draws from.

    Machine IDs without both labels do not count. Raises StudyError if no machine ID has both.
    """
    judged, strata = judged_ids(truth), strata_of(truth)[0]
    return min(len(recordings) for (name, _, _), recordings in strata.items() if name in judged)


def strata_of(truth: Truth) -> tuple[dict[tuple[str, int, str], Indices], Indices]:
    """Return the recordings by machine ID, label and domain, and the recording of each clip, (clips,).

    A recording has the machine ID, label and domain of its first clip.
    """
    _, first_clips, of_clips = np.unique(truth.recordings or range(len(truth)), return_index=True, return_inverse=True)
    strata: dict[tuple[str, int, str], list[int]] = defaultdict(list)
    for recording, clip in enumerate(first_clips.tolist()):
        domain = truth.domains[clip] if truth.domains else None
        strata[truth.ids[clip], truth.labels[clip], domain or ""].append(recording)
    return {key: np.array(strata[key]) for key in sorted(strata)}, of_clips
