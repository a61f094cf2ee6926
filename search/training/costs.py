"""What a detector costs, and the limits that a study sets.

parameters : learnt numbers of all networks; the training clips that a density remembers are not counted.
latency    : milliseconds from a wav file to its score, one clip at a time, on the worker's device with the trial's
             threads: the median of 9 clips or fewer. Other programs on the host slow it down.

A trial ends as soon as it breaks a limit, which saves its other epochs. The sampler learns by how much it broke it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from optuna.trial import BaseTrial

from models.scoring.scores import Scores
from search.errors import TrialFailure
from search.study.recipe import CostObjective, Objective
from search.study.search_settings import ConstraintSettings
from search.validation.views import ValidationData

if TYPE_CHECKING:
    from search.training.protocols import TrialTraining


class Limits:
    """The limits of a study, and the costs that it searches for."""

    def __init__(self, constraints: ConstraintSettings, objectives: Sequence[Objective]) -> None:
        self._constraints = constraints
        self._is_timed = False
        self._needed = {
            "parameters": constraints.max_parameters is not None or "parameters" in objectives,
            "latency_ms": constraints.max_latency_ms is not None or "latency_ms" in objectives,
        }

    def before_training(self, trial: BaseTrial, training: TrialTraining) -> None:
        """Raise TrialFailure if the networks are too large."""
        if self._needed["parameters"]:
            self._note(trial, "parameters", lambda: training.parameters)
            self._require(trial, "parameters", self._constraints.max_parameters, "{:,} parameters")

    def after_step(self, trial: BaseTrial, training: TrialTraining) -> None:
        """Raise TrialFailure if the detector is too slow.

        The latency is measured once: a trial that continues from a checkpoint keeps it.
        """
        if self._needed["latency_ms"] and not self._is_timed:
            self._note(trial, "latency_ms", training.latency_ms)
            self._require(trial, "latency_ms", self._constraints.max_latency_ms, "{:.3g} ms to score a clip")
            self._is_timed = True

    def after_training(self, trial: BaseTrial, validation_data: ValidationData, scores: Scores) -> None:
        """Store how far the worst machine ID is below its limit: such a trial is complete, but is not chosen."""
        least = self._constraints.min_worst_id
        if least is not None and "min_worst_id" not in trial.constraints:
            trial.set_constraint("min_worst_id", least - validation_data.metric("worst_id", scores))

    def costs(self, trial: BaseTrial) -> dict[str, float]:
        """Return the costs that are known of a trial."""
        return {cost: float(trial.user_attrs[cost]) for cost in self._needed if cost in trial.user_attrs}

    def _note(self, trial: BaseTrial, cost: CostObjective, measure: Callable[[], float]) -> None:
        if cost not in trial.user_attrs:
            trial.set_user_attr(cost, measure())

    def _require(self, trial: BaseTrial, cost: CostObjective, most: float | None, what: str) -> None:
        if most is None:
            return
        value = trial.user_attrs[cost]
        name = f"max_{cost}"
        if name not in trial.constraints:
            # Relative to the limit, since limits differ in size.
            trial.set_constraint(name, value / most - 1 if most else float(value))
        if value > most:
            raise TrialFailure(f"{what.format(value)}, more than search.constraints.{name} allows: {most:,}")
