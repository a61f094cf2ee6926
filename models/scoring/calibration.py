"""Bringing the scores of different machine IDs, or of different models, to one scale: that of normal clips.

scores : (clips,) float64, higher is more anomalous.
ids    : (clips,) int64, index of each clip's machine ID, or UNKNOWN: on the scale of normal clips that were scored as
         unknown too, or else of all of them together.

    z          distance from the mean of the ID's normal clips, in their standard deviations
    empirical  normal scores (van der Waerden 1952): the i-th of n normal clips by height comes to Φ⁻¹(i / (n + 1)),
               straight lines between them, and beyond them lines of the slope that z has

Both are strictly increasing: the AUC of one machine ID does not change, that over several does. Normal clips that all
score alike have a standard deviation of 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import ndtri
from torch import Tensor

from features.errors import UnservedError
from models.labels import Labels
from models.scoring.learnt_arrays import Learnt
from models.scoring.scores import Scores

#: With fewer clips of an ID its scores have no spread.
FEWEST_CLIPS = 2


def require_normals(ids: Sequence[str], labels: Labels) -> None:
    """Raises UnservedError unless each machine ID has enough normal clips to bring its scores to a scale.

    `ids`: of the normal clips that there are.
    """
    for name in labels.ids:
        if ids.count(name) < FEWEST_CLIPS:
            raise UnservedError(
                f"an ensemble takes at least {FEWEST_CLIPS} normal clips of each machine ID, but {name} has "
                f"{ids.count(name)}: train on more clips of it"
            )


def require_withheld(withheld: Sequence[str], train: Sequence[str], labels: Labels) -> None:
    """Raises UnservedError unless enough clips of each machine ID are withheld from training to calibrate its scores.

    `withheld`, `train`: machine IDs of these clips.
    """
    for name in labels.ids:
        count, total = withheld.count(name), withheld.count(name) + train.count(name)
        if count < FEWEST_CLIPS:
            share = math.ceil(100 * FEWEST_CLIPS / total) / 100
            enough = f"set training.calibration_share to {share:g}" if share <= 0.5 else "train on more clips of it"
            raise UnservedError(
                f"scoring.calibration takes at least {FEWEST_CLIPS} withheld normal clips of each machine ID, but "
                f"{name} has {count} of {total}: {enough}, or scoring.calibration to none"
            )


class Calibration(Learnt):
    """The normal clips' scores, by which others are judged."""

    normals: Tensor  # (clips,) float64
    ids: Tensor  # (clips,) int64

    def __init__(self, kind: Literal["z", "empirical"]) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("normals", torch.zeros(0, dtype=torch.float64))
        self.register_buffer("ids", torch.zeros(0, dtype=torch.int64))

    def fit(self, scores: Scores, ids: npt.NDArray[np.int64]) -> None:
        """Takes these for how normal clips score."""
        self.keep(normals=torch.from_numpy(scores), ids=torch.from_numpy(ids))

    def calibrated(self, scores: Scores, ids: npt.NDArray[np.int64]) -> Scores:
        """The scores on the common scale, (clips,)."""
        result = np.empty(len(scores))
        for index in np.unique(ids):
            members = ids == index
            result[members] = _on_the_scale_of(self._normals_of(index), scores[members], self.kind)
        return result

    def scale_of(self, index: int) -> tuple[float, float]:
        """The mean and the standard deviation of a machine ID's normal clips, by which z calibrates."""
        return _scale_of(self._normals_of(index))

    def _normals_of(self, index: int) -> Scores:
        normals, owners = self.normals.numpy(), self.ids.numpy()
        return np.asarray(normals[owners == index] if index in owners else normals)


def _scale_of(normals: Scores) -> tuple[float, float]:
    # From one of them: where all are alike, rounding gives their mean a distance, and their scale would be its.
    return float(normals.mean()), float((normals - normals[0]).std(ddof=1)) or 1.0


def _on_the_scale_of(normals: Scores, scores: Scores, kind: str) -> Scores:
    mean, deviation = _scale_of(normals)
    if kind == "z":
        return np.asarray((scores - mean) / deviation)
    # Clips that score alike share their mean rank: the line through them stays one.
    heights, counts = np.unique(normals, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    levels = ndtri(ranks / (len(normals) + 1))
    below, above = np.minimum(scores - heights[0], 0), np.maximum(scores - heights[-1], 0)
    return np.asarray(np.interp(scores, heights, levels) + (below + above) / deviation)
