"""How high an AUC guessing reaches by chance: exactly, where clips are few.

Where labels say nothing of scores, every order of a machine ID's clips is as likely as any other, which gives the
distribution of its AUC (Mann and Whitney 1947), and the convolution of these that of their mean. Of few clips its upper
end is far from a normal distribution's: that one would not even let a perfect detector be better than guessing.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from features.clips.clip import NORMAL
from models.scoring.scores import Scores
from search.evaluation.truth import Truth, judged_ids

#: Machine IDs with more pairs of clips are left to the normal distribution, which is close to it there.
_MOST_PAIRS = 2500

#: The steps of an AUC, from 0 to 1, in which means are computed; each AUC counts as the next higher step.
_STEPS = 2000


def highest_by_chance(truth: Truth, tail: float) -> float | None:
    """Return the highest mean AUC that guessing reaches or exceeds with a probability above `tail`.

    None where the normal distribution serves: with many clips, or with clips that are scored in several folds.
    Raises StudyError if no machine ID has both labels.
    """
    if truth.recordings:
        return None
    labels, chances = np.array(truth.labels), np.ones(1)
    judged = judged_ids(truth)
    for members in judged.values():
        normal = int((labels[members] == NORMAL).sum())
        if normal * (len(members) - normal) > _MOST_PAIRS:
            return None
        chances = np.convolve(chances, _chances(normal, len(members) - normal))
    reached = np.cumsum(chances[::-1])[::-1] > tail
    return float(np.flatnonzero(reached).max(initial=0)) / (_STEPS * len(judged))


@lru_cache(maxsize=256)
def _chances(normal: int, anomalies: int) -> Scores:
    """Return the probability of each step of an AUC of so many clips, (steps + 1,), if labels say nothing of scores."""
    orders = np.zeros(normal * anomalies + 1)  # by the number of pairs in the right order: a Gaussian binomial
    orders[0] = 1.0
    for factor in range(1, normal + 1):
        if anomalies + factor < len(orders):
            orders[anomalies + factor :] -= orders[: -(anomalies + factor)].copy()
        for rest in range(min(factor, len(orders))):
            orders[rest::factor] = np.cumsum(orders[rest::factor])
    chances = np.zeros(_STEPS + 1)
    steps = np.ceil(np.arange(len(orders)) * _STEPS / (len(orders) - 1) - 1e-9).astype(np.int64)
    np.add.at(chances, steps, orders / orders.sum())
    return chances
