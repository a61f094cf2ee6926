"""From a clip's score to a decision: one threshold for each machine ID, from normal clips alone.

scores : (clips,) float64, higher is more anomalous; of normal clips that the model was not trained on.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from models.settings import ScoringSettings


def threshold_of(scores: npt.NDArray[np.float64], scoring: ScoringSettings) -> float:
    """The threshold of one machine ID by its withheld normal clips' scores, as the recipe asks for it."""
    return normal_quantile(scores, false_alarm_rate=scoring.false_alarm_rate)


def normal_quantile(scores: npt.NDArray[np.float64], *, false_alarm_rate: float) -> float:
    """The score that this share of normal clips exceeds: an empirical quantile, one of the scores themselves.

    With n clips a rate below 1/n cannot be told; the threshold is then the highest score.
    """
    return float(np.quantile(scores, 1 - false_alarm_rate, method="higher"))
