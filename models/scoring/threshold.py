"""From a clip's score to a decision: one threshold for each machine ID, from normal clips alone.

scores : (clips,) float64, higher is more anomalous; of normal clips that the model was not trained on.
"""

from __future__ import annotations

import numpy as np

from models.scoring.scores import Scores
from models.settings import ScoringSettings

#: With fewer clips a distribution of three parameters adds nothing to their own scores.
FEWEST_CLIPS = 3

#: A gamma distribution may begin this many standard deviations below the lowest score.
_ORIGINS = (0.1, 0.3, 1.0, 3.0, 10.0)


def threshold_of(scores: Scores, scoring: ScoringSettings) -> float:
    """The threshold of one machine ID by its withheld normal clips' scores, as the recipe asks for it."""
    quantile = {"quantile": normal_quantile, "gamma": gamma_quantile}[scoring.threshold]
    return quantile(scores, false_alarm_rate=scoring.false_alarm_rate)


def normal_quantile(scores: Scores, *, false_alarm_rate: float) -> float:
    """The score that this share of normal clips exceeds: an empirical quantile, one of the scores themselves.

    With n clips a rate below 1/n cannot be reached; the threshold is then the highest score.
    """
    return float(np.quantile(scores, 1 - false_alarm_rate, method="higher"))


def gamma_quantile(scores: Scores, *, false_alarm_rate: float) -> float:
    """The score that this share of a gamma distribution exceeds, fitted by maximum likelihood: rates below 1/n too.

    The DCASE baselines since 2021 take the 90 % quantile of one. Scores may be negative, and a location that is fitted
    freely ends at the lowest score, where the likelihood has no bound: the likeliest of `_ORIGINS` is taken.

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
