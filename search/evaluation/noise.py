"""How far a metric of a set of scores depends on which clips were recorded.

noise : (resamples,) float, the deviations of a metric over bootstrap resamples of the clips, scaled so that the length
        of the vector is the metric's standard error. All sets of scores have the same resamples, so that the length of
        the difference of two noises is the standard error of the difference of their metrics.
"""

from __future__ import annotations

import math

from models.scoring.scores import Scores
from search.evaluation.bootstrap import Bootstrap, fewest_recordings
from search.evaluation.metrics import Metric
from search.evaluation.truth import Truth

#: Bootstrap resamples. 200 give a standard error to within 5 % of itself; a trial stores 200 numbers at each rung.
RESAMPLES = 200


def noise_of(scores: Scores, truth: Truth, *, metric: Metric = "auc") -> list[float] | None:
    """The noise of a metric, (resamples,).

    None if a stratum has a single recording: every resample repeats it, which says nothing of other recordings.
    Raises StudyError if the metric is undefined on these clips.
    """
    if fewest_recordings(truth) < 2:
        return None
    resampled = Bootstrap(truth, resamples=RESAMPLES).metric(metric, scores)
    deviations = (resampled - resampled.mean()) / math.sqrt(RESAMPLES - 1)
    return [round(deviation, 6) for deviation in deviations.tolist()]
