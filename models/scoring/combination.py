"""How the scores of an ensemble's members become one, without torch.

scores : (members, clips) float64, each on the scale of normal clips, higher is more anomalous.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from scipy.special import ndtr

from models.scoring.scores import Scores

#: By machine ID, the mean and the standard deviation of normal clips' scores: the scale of a member's z.
Scales = Mapping[str, tuple[float, float]]

#: See models.scoring.fusion.
Combine = Literal["mean", "min", "max", "rank", "weights"]


def on_scale(scores: Scores, ids: Sequence[str], scales: Scales) -> Scores:
    """Return a member's z, (clips,), from its scores (clips,) and the machine ID of each clip."""
    means, deviations = np.array([scales[name] for name in ids]).T
    return np.asarray((scores - means) / deviations)


def squashed(scores: Scores) -> Scores:
    """sign(z)·log(1 + |z|): nearly z close to 0, and of large scores hardly more than their order of magnitude.

    The function is Webber's ("A bi-symmetric log transformation for wide-range data", 2013). That it helps means of
    detectors is our own measurement.
    """
    return np.asarray(np.copysign(np.log1p(np.abs(scores)), scores))


def combined(scores: Scores, combine: Combine, *, weights: Sequence[float] = (), squash: bool = False) -> Scores:
    """Return one score for each clip, (clips,). `weights` are for `weights`, `squash` is for means."""
    if combine == "min":
        return np.asarray(scores.min(axis=0))
    if combine == "max":
        return np.asarray(scores.max(axis=0))
    if combine == "rank":
        return np.asarray(ndtr(scores).mean(axis=0))
    scores = squashed(scores) if squash else scores
    return np.asarray(np.average(scores, axis=0, weights=weights) if combine == "weights" else scores.mean(axis=0))
