"""A pruner that takes into account how noisy a metric of few clips is.

Hyperband continues the best third of the trials at each rung, although a trial may be outside of it by chance. This
pruner stops a trial only if it is behind that third by more than chance explains with so few clips. All trials are
measured on the same clips. What counts is therefore the standard error of the difference of two trials: it is small
where both rank the same clips as anomalies, and larger than either trial's own where they do not. benchmarks/pruning.py
measures the effect.

noise     : the deviations of a trial's metric over bootstrap resamples of the clips (search.evaluation.noise).
reference : the last trial of the best third of the other trials at a rung.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from optuna.pruners import BasePruner
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from search.sampling.rungs import REDUCTION_FACTOR, is_rung
from search.study.search_settings import keeps_to_limits

#: The fewest other trials at a rung with which a trial may be stopped there.
FEWEST_OTHERS = 5

#: Standard errors of the difference that a trial may be behind: of two equally good trials, chance puts a given one
#: further behind in 5 % of the draws of clips.
MARGIN = 1.645


def noise_key(epoch: int) -> str:
    """The system attribute of a trial's noise at a rung. It must be written before the rung's report."""
    return f"noise:{epoch}"


class NoisePruner(BasePruner):
    """Stops a trial at a rung where it is behind the reference by more than `margin` standard errors.

    The decision depends only on the study's trials, not on the worker that asks. A trial counts at a rung once it went
    on from there or was stopped there. A trial that ends there, for example of a family without epochs, does not count:
    its training is finished, and a comparison with trials that have just begun is unfair. Trials that failed do not
    count. A trial whose metric is NaN, or whose noise is not known, does not count and is not stopped.
    """

    def __init__(self, *, first_rung: int = 1, margin: float = MARGIN) -> None:
        self._first_rung, self._margin = first_rung, margin

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        epoch = trial.last_step
        if epoch is None or not is_rung(epoch, first=self._first_rung) or not _is_measured(trial, epoch):
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
    if trial.state == TrialState.FAIL or not keeps_to_limits(trial):
        return False
    return trial.state == TrialState.PRUNED or max(trial.intermediate_values) > epoch


def _noise(trial: FrozenTrial, epoch: int) -> npt.NDArray[np.float64]:
    return np.asarray(trial.system_attrs[noise_key(epoch)], dtype=np.float64)
