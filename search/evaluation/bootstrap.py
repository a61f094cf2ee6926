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
    """Resamples of some recordings, stratified by machine ID, label and domain: drawn once, for however many trials.

    As often as a recording is drawn, all clips of it are: in each fold, and with each fault that was made of it. The
    fold that a recording is scored in is no stratum: one of a recording or two is nearly the same in each resample.

    The draws depend on the clips alone: two sets of scores of the same clips are resampled alike, so that their
    difference is a paired one. Raises StudyError if no ID has both labels.
    """

    def __init__(self, truth: Truth, *, resamples: int = RESAMPLES) -> None:
        judged_ids(truth)
        rng = np.random.default_rng(0)
        strata, of_clips = _strata(truth)
        of_recordings = np.zeros((of_clips.max() + 1, resamples), dtype=np.int32)
        for stratum in strata.values():
            of_recordings[stratum] = _draw_counts(rng, len(stratum), resamples)
        self._truth = truth
        self._drawn = of_recordings[of_clips]  # how often each clip is drawn in each

    def aucs(self, scores: Scores) -> Scores:
        """The mean AUC of each resample, (resamples,)."""
        return self.metric("auc", scores)

    def metric(self, metric: Metric, scores: Scores, *, year: Year | None = None) -> Scores:
        """The metric of each resample, (resamples,): what `figure` would say of its clips.

        Raises StudyError as `figure` does.
        """
        year = year or self._truth.year
        parts = parts_with_clips(metric, self._truth, year)
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
        return combined(metric, year, list(parts), values)

    def _share(self, clips: Indices) -> Scores:
        """How many of some clips are drawn in each resample, of how many they are."""
        return np.asarray(self._drawn[clips].mean(axis=0))

    def _aucs(self, scores: Scores, normals: Indices, anomalies: Indices) -> Scores:
        # AUC is the share of (anomaly, normal) pairs in the right order, a tie counting half (Mann and Whitney 1947):
        # the mean of the shares with ties counted as right and as wrong.
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
        return standardised(area)

    def _ranked(self, scores: Scores, clips: Indices) -> tuple[Scores, npt.NDArray[np.int64]]:
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


def fewest_recordings(truth: Truth) -> int:
    """How many the smallest stratum has of those that a `Bootstrap` draws a machine ID's recordings from.

    Raises StudyError if no ID has both labels.
    """
    judged, strata = judged_ids(truth), _strata(truth)[0]
    return min(len(recordings) for (name, _, _), recordings in strata.items() if name in judged)


def _strata(truth: Truth) -> tuple[dict[tuple[str, int, str], Indices], Indices]:
    """Recordings by machine ID, label and domain, each recording by its first clip; and which one each clip is of."""
    _, first_clips, of_clips = np.unique(truth.recordings or range(len(truth)), return_index=True, return_inverse=True)
    strata: dict[tuple[str, int, str], list[int]] = defaultdict(list)
    for recording, clip in enumerate(first_clips.tolist()):
        domain = truth.domains[clip] if truth.domains else None
        strata[truth.ids[clip], truth.labels[clip], domain or ""].append(recording)
    return {key: np.array(strata[key]) for key in sorted(strata)}, of_clips
