"""From a clip's score to a decision: one threshold for each machine ID, from normal clips alone.

scores : (clips,) float64, higher is more anomalous; of normal clips that the model was not trained on.
rate   : the false-alarm rate, the share of all normal clips of a machine ID that are above the threshold. Of n withheld
         clips a new normal clip is above the k-th highest with the probability k / (n + 1), whatever the distribution
         of scores is, if both come from the same one. No threshold among n clips therefore promises less than
         1 / (n + 1): a rate of 0.1 takes 9 clips, 0.02 takes 49.
"""

from __future__ import annotations

import math

import numpy as np

from models.scoring.scores import Scores
from models.settings import ScoringSettings

#: With fewer clips a distribution of three parameters adds nothing to their own scores.
FEWEST_CLIPS = 3

#: A gamma distribution may begin this many standard deviations below the lowest score.
_ORIGINS = (0.1, 0.3, 1.0, 3.0, 10.0)

#: For the rounding of a rate times a number of clips: 0.29 · 100 is a little less than 29.
_ROUNDING = 1e-9


def lowest_rate(clips: int) -> float:
    """The lowest false-alarm rate that a threshold from this many normal clips can promise."""
    return 1 / (clips + 1)


def fewest_clips(false_alarm_rate: float) -> int:
    """How many withheld normal clips of a machine ID a threshold of this rate takes."""
    return math.ceil(1 / false_alarm_rate - _ROUNDING) - 1


def threshold_of(scores: Scores, scoring: ScoringSettings) -> float:
    """The threshold of one machine ID by its withheld normal clips' scores, as the recipe asks for it."""
    quantile = {"quantile": normal_quantile, "gamma": gamma_quantile}[scoring.threshold]
    return quantile(scores, false_alarm_rate=scoring.false_alarm_rate)


def normal_quantile(scores: Scores, *, false_alarm_rate: float) -> float:
    """The lowest of the scores that a new normal clip exceeds with at most this probability.

    With fewer clips than `fewest_clips` there is none: the threshold is then the highest score.
    """
    rank = math.floor(false_alarm_rate * (len(scores) + 1) + _ROUNDING)
    return float(np.sort(scores)[-min(max(rank, 1), len(scores))])


def gamma_quantile(scores: Scores, *, false_alarm_rate: float) -> float:
    """The score that this share of a gamma distribution exceeds, fitted by maximum likelihood.

    The DCASE baselines since 2021 take the 90 % quantile of one. Scores may be negative, and a location that is fitted
    freely ends at the lowest score, where the likelihood has no bound: the likeliest of `_ORIGINS` is taken.

    Below the lowest rate of the clips it extrapolates: the rate holds as far as the scores follow the distribution.
    Of fewer clips than FEWEST_CLIPS, and of scores that are all alike, the empirical quantile.
    """
    from scipy.stats import gamma  # here: it takes a while to load

    heights = scores - scores.min()
    deviation = float(heights.std())
    if len(scores) < FEWEST_CLIPS or deviation == 0:
        return normal_quantile(scores, false_alarm_rate=false_alarm_rate)
    likeliest, threshold = -np.inf, 0.0
    for origin in _ORIGINS:
        shape, _, scale = gamma.fit(heights / deviation + origin, floc=0)
        likelihood = gamma.logpdf(heights / deviation + origin, shape, scale=scale).sum()
        if likelihood > likeliest:
            likeliest, threshold = likelihood, gamma.isf(false_alarm_rate, shape, scale=scale) - origin
    return float(scores.min() + deviation * threshold)
