"""The variants of a trial that closes its scoring for each machine type: scored together, one taken for each type.

Each machine type chooses as a whole trial does (search.training.variant_choice), but by its own clips and by the
study's evidence for it. A type without both labels among the validation clips takes what all types together take.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from features.clips.machine_id import MachineId
from models.scoring.scores import Scores
from search.evaluation.metrics import metric_of_machines
from search.evaluation.truth import judged_ids
from search.study.machine_types import parameter_of, routed, with_machine_types
from search.study.objectives import METRICS
from search.study.recipe import Recipe
from search.study.variants import Variant
from search.training.protocols import Evidence, TrialTraining
from search.training.variant_choice import VariantChoice
from search.validation.views import ValidationData


class ChoiceForEachType:
    """Scores the variants of a training at each judged step, and takes one for each machine type."""

    def __init__(
        self,
        variants: Sequence[Variant],
        validation_data: ValidationData,
        objective: str,
        evidence: Evidence,
        *,
        reports_folds_alone: bool = False,
    ) -> None:
        machines, truth = validation_data.machines, validation_data.truth
        self._validation_data, self._objective, self._evidence = validation_data, objective, evidence
        self._variants = [replace(variant, recipe=routed(variant.recipe, machines)) for variant in variants]

        def chooser(of: Sequence[str], names: Sequence[str], known: Evidence) -> _Chooser:
            data = replace(validation_data, truth=truth.of_ids(names))
            choice = VariantChoice(self._variants, data, objective, known, reports_folds_alone=reports_folds_alone)
            return _Chooser(tuple(of), frozenset(names), choice)

        of_machine: dict[str, list[str]] = {machine: [] for machine in machines}
        for name in sorted(set(truth.ids)):
            of_machine[_machine(name)].append(name)
        judged = {_machine(name) for name in judged_ids(truth)}
        self._choosers = [chooser([m], of_machine[m], evidence.of_machine(m)) for m in machines if m in judged]
        if others := [machine for machine in machines if machine not in judged]:
            self._choosers.append(chooser(others, truth.ids, evidence))

    @property
    def recipes(self) -> list[Recipe]:
        """The recipes of the variants, which share a training."""
        return [variant.recipe for variant in self._variants]

    @property
    def taken(self) -> Recipe:
        """The recipe by the variants that were taken at the last step that was judged."""
        return with_machine_types({m: each.choice.taken for m, each in self._by_machine().items()})

    def is_judged(self, step: int, *, is_last: bool) -> bool:
        """Whether the training is scored after this step: see VariantChoice."""
        return self._choosers[0].choice.is_judged(step, is_last=is_last)

    def scores(self, training: TrialTraining) -> Scores:
        """Return the scores of the validation clips, each under the variant that is taken for its machine type.

        Raises UnservedError, TrialFailure or FloatingPointError if the training gives no detector.
        """
        assert training.step is not None
        scores = training.scores_of_variants(self.recipes)
        count = next((len(each) for each in scores if not isinstance(each, Exception)), 0)
        ids = self._validation_data.truth.ids[:count]
        together = np.empty(count)
        for each in self._choosers:
            judging = np.array([name in each.names for name in ids])
            parts = [one if isinstance(one, Exception) else one[judging] for one in scores]
            chosen = scores[each.choice.choose(parts, training.step)]
            assert not isinstance(chosen, Exception)
            members = np.array([_machine(name) in each.machines for name in ids])
            together[members] = chosen[members]
        values = {
            parameter_of(machine, name): value
            for machine, each in self._by_machine().items()
            for name, value in each.choice.values.items()
        }
        curve = self._curve()
        if curve:  # the last value to the last bit
            curve[training.step] = self._validation_data.metric(self._objective, together)
        self._evidence.take(values, curve)
        return together

    def _curve(self) -> dict[int, float]:
        """Return the trial's value at each judged step under the variants that are taken now."""
        curves = {machine: each.choice.curve for machine, each in self._by_machine().items()}
        steps = set.intersection(*(set(curve) for curve in curves.values()))
        metric, truth = METRICS[self._objective], self._validation_data.truth
        return {
            step: metric_of_machines(metric, {machine: curve[step] for machine, curve in curves.items()}, truth)
            for step in sorted(steps)
        }

    def _by_machine(self) -> dict[str, _Chooser]:
        return dict(sorted((machine, each) for each in self._choosers for machine in each.machines))


@dataclass(frozen=True)
class _Chooser:
    """The choice for one machine type, or for those that the validation clips cannot judge."""

    machines: tuple[str, ...]
    names: frozenset[str]  # of the machine IDs whose clips it judges
    choice: VariantChoice


def _machine(name: str) -> str:
    return MachineId.parse(name).machine
