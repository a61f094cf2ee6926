"""What a detector costs, and the trials that go beyond a study's limits.

parameters : learnt numbers of all networks; a density's memory of training clips is not counted.
latency    : milliseconds from a wav file to its score, one clip at a time, on the worker's device with the trial's
             threads: the median of some clips. Other programs on the host are in it.

A limit that is known to be broken ends a trial at once: its epochs are spared. The sampler learns by how much.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from optuna.trial import BaseTrial

from models.scoring.scores import Scores
from search.errors import TrialFailure
from search.study.recipe import ConstraintSettings, CostObjective, Objective
from search.validation.views import ValidationData

if TYPE_CHECKING:
    from search.training.trained import Trained


class Limits:
    """The constraints of a study, and the costs that it searches for."""

    def __init__(self, constraints: ConstraintSettings, objectives: Sequence[Objective]) -> None:
        self._constraints = constraints
        self._is_timed = False
        self._asked = {
            "parameters": constraints.max_parameters is not None or "parameters" in objectives,
            "latency_ms": constraints.max_latency_ms is not None or "latency_ms" in objectives,
        }

    def before_training(self, trial: BaseTrial, training: Trained) -> None:
        """Raises TrialFailure for a network that is too large."""
        if self._asked["parameters"]:
            self._note(trial, "parameters", lambda: training.parameters)
            self._require(trial, "parameters", self._constraints.max_parameters, "{:,} parameters")

    def after_step(self, trial: BaseTrial, training: Trained) -> None:
        """Raises TrialFailure for a detector that is too slow. Measured once: a trial that goes on keeps its figure."""
        if self._asked["latency_ms"] and not self._is_timed:
            self._note(trial, "latency_ms", training.latency_ms)
            self._require(trial, "latency_ms", self._constraints.max_latency_ms, "{:.3g} ms to score a clip")
            self._is_timed = True

    def after_training(self, trial: BaseTrial, validation_data: ValidationData, scores: Scores) -> None:
        """Enters how far the worst machine ID is below what it must have: such a trial is complete, but not chosen."""
        least = self._constraints.min_worst_id
        if least is not None and "min_worst_id" not in trial.constraints:
            trial.set_constraint("min_worst_id", least - validation_data.metric("worst_id", scores))

    def costs(self, trial: BaseTrial) -> dict[str, float]:
        """Those that are known of a trial."""
        return {cost: float(trial.user_attrs[cost]) for cost in self._asked if cost in trial.user_attrs}

    def _note(self, trial: BaseTrial, cost: CostObjective, measure: Callable[[], float]) -> None:
        if cost not in trial.user_attrs:
            trial.set_user_attr(cost, measure())

    def _require(self, trial: BaseTrial, cost: CostObjective, most: float | None, what: str) -> None:
        if most is None:
            return
        value = trial.user_attrs[cost]
        name = f"max_{cost}"
        if name not in trial.constraints:
            trial.set_constraint(name, value / most - 1 if most else float(value))  # in shares: limits differ in size
        if value > most:
            raise TrialFailure(f"{what.format(value)}, more than search.constraints.{name} allows: {most:,}")
