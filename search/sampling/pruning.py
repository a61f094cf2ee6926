"""Pruning that knows how noisy a figure of few clips is.

Hyperband goes on with the best third at each rung, though that a trial is not among them may be chance. Here one is
stopped only where it is behind that third by more than chance makes of so few clips. All trials are measured on the
same clips, so that what counts is the standard error of two trials' difference: small where both take the same clips
for anomalies, and larger than either's own where they do not. benchmarks/pruning.py measures what comes of it.

noise     : (resamples,) float, the deviations of a trial's figure over bootstrap resamples of the clips, scaled so that
            the length of the vector is the figure's standard error. Every trial's resamples are the same, so that the
            length of the difference of two trials' noise is the standard error of the difference of their figures.
rung      : an epoch at which trials are compared: 1, 3, 9, 27, ... as in successive halving (Jamieson and Talwalkar
            2016).
reference : of the other trials at a rung, the last one of the best third.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from optuna.pruners import BasePruner
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from models.scoring.scores import Scores
from search.evaluation.bootstrap import Bootstrap, fewest_recordings
from search.evaluation.metrics import Metric
from search.evaluation.truth import Truth

#: Rungs are powers of it, and the reference ends the best one in so many trials.
REDUCTION_FACTOR = 3

#: Other trials at a rung, below which none is stopped there.
FEWEST_OTHERS = 5

#: Standard errors of the difference that a trial may be behind: of two that are equally good, chance puts a given one
#: further behind in 5 % of the draws of clips.
MARGIN = 1.645

#: They give a standard error to within some 5 % of itself. A trial keeps as many numbers at each rung.
RESAMPLES = 200


def is_rung(epoch: int) -> bool:
    """Whether trials are compared after so many epochs."""
    while epoch > 1 and epoch % REDUCTION_FACTOR == 0:
        epoch //= REDUCTION_FACTOR
    return epoch == 1


def noise_key(epoch: int) -> str:
    """The system attribute that holds a trial's noise at a rung. To be there before the rung's report is."""
    return f"noise:{epoch}"


def noise_of(scores: Scores, truth: Truth, *, metric: Metric = "auc") -> list[float] | None:
    """The noise of a figure, (resamples,).

    None if a stratum has a single recording: a resample is that one again, and tells nothing of another one.
    Raises StudyError if the clips do not tell the figure.
    """
    if fewest_recordings(truth) < 2:
        return None
    figures = Bootstrap(truth, resamples=RESAMPLES).metric(metric, scores)
    deviations = (figures - figures.mean()) / math.sqrt(RESAMPLES - 1)
    return [round(deviation, 6) for deviation in deviations.tolist()]


class NoisePruner(BasePruner):
    """Stops a trial at a rung where it is behind the reference by more than `margin` standard errors.

    What it says follows from the study's trials alone, whichever worker asks. A trial counts at a rung once it went on
    from there or was stopped: one that ends there, a family's without epochs for one, is as good as it gets after an
    epoch, which says nothing of those that have just begun. Trials that failed do not count. A trial whose figure is
    NaN, or whose noise is not known, does not count and is not stopped.
    """

    def __init__(self, *, margin: float = MARGIN) -> None:
        self._margin = margin

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        epoch = trial.last_step
        if epoch is None or not is_rung(epoch) or not _is_measured(trial, epoch):
            return False
        others = [
            other
            for other in study.get_trials(deepcopy=False)
            if other.number != trial.number and _is_measured(other, epoch) and _counts(other, epoch)
        ]
        if len(others) < FEWEST_OTHERS:
            return False
        others.sort(key=lambda other: (-other.intermediate_values[epoch], other.number))
        reference = others[math.ceil(len(others) / REDUCTION_FACTOR) - 1]
        behind = reference.intermediate_values[epoch] - trial.intermediate_values[epoch]
        error = float(np.linalg.norm(_noise(reference, epoch) - _noise(trial, epoch)))
        return behind > self._margin * error


def _is_measured(trial: FrozenTrial, epoch: int) -> bool:
    is_number = not math.isnan(trial.intermediate_values.get(epoch, math.nan))
    return is_number and trial.system_attrs.get(noise_key(epoch)) is not None


def _counts(trial: FrozenTrial, epoch: int) -> bool:
    if trial.state == TrialState.FAIL or any(violation > 0 for violation in trial.constraints.values()):
        return False
    return trial.state == TrialState.PRUNED or max(trial.intermediate_values) > epoch


def _noise(trial: FrozenTrial, epoch: int) -> npt.NDArray[np.float64]:
    return np.asarray(trial.system_attrs[noise_key(epoch)], dtype=np.float64)
