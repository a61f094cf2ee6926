"""Where trials are compared, and with whom.

rung : a step at which trials are compared: 1, 3, 9, 27, ... as in successive halving (Jamieson and Talwalkar 2016).
       A step is an epoch, or a fold of a cross-validation.

curve: a trial's values at some steps: the first nine, then six in each tripling (12, 15, …, 27, 36, …), so that each
       rung is among them, and the last. Scored after each epoch, validation clips took a third of a VAE's time.

A trial has its share of steps before it is judged: the first rung is the first one that is at least a ninth of the most
steps that a trial of the study has. With 50 epochs it is 9, with 100 it is 27, with 9 or fewer it is 1. A ninth is two
rungs before the end. Curves that are judged earlier mostly say how fast a model learns: of 81 epochs, one is too few to
tell.

In a study of several families, a trial is compared with trials of its own family alone: others learn faster or slower.
"""

from __future__ import annotations

from collections.abc import Container
from types import SimpleNamespace
from typing import Any, cast

from optuna.pruners import BasePruner, HyperbandPruner
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

#: Rungs are powers of this factor, and pruners let the best 1/3 of the trials pass.
REDUCTION_FACTOR = 3

#: A trial is judged after this share of the steps, or later.
_SHARE = 1 / REDUCTION_FACTOR**2


def is_rung(step: int, *, first: int = 1) -> bool:
    """Whether trials are compared after this step (counted from 1)."""
    rung = first
    while rung < step:
        rung *= REDUCTION_FACTOR
    return rung == step


def is_on_curve(step: int) -> bool:
    """Whether a trial has a value after this step (counted from 1), besides its last one."""
    spacing = 1
    while step > REDUCTION_FACTOR**2 * spacing:
        spacing *= REDUCTION_FACTOR
    return step % spacing == 0


def first_rung(max_steps: int) -> int:
    """The first rung of trials of at most `max_steps` steps."""
    rung = 1
    while rung < max_steps * _SHARE:
        rung *= REDUCTION_FACTOR
    return rung


class Hyperband(HyperbandPruner):
    """Optuna's Hyperband, whose brackets go by a name that stays when the study is renamed.

    It depends on Optuna's internals: `_get_bracket_id` reads nothing of the study but its name
    (tests/search/sampling/test_pruning.py fails if that changes).
    """

    def __init__(self, name: str, *, min_resource: int, max_resource: int, reduction_factor: int) -> None:
        super().__init__(min_resource, max_resource, reduction_factor)
        self._named = cast(Study, SimpleNamespace(study_name=name))

    def _get_bracket_id(self, study: Study, trial: FrozenTrial) -> int:
        return super()._get_bracket_id(self._named, trial)


class WithinFamily(BasePruner):
    """A pruner to which a study seems to have the trials of one family alone: that of the trial in question."""

    def __init__(self, pruner: BasePruner) -> None:
        self.pruner = pruner

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        # The storage is filtered, not the study: Hyperband makes a study of its own from the storage.
        of_family = cast(BaseStorage, _OfFamily(study._storage, trial.params["family"]))
        return self.pruner.prune(Study(study.study_name, of_family, study.sampler, self.pruner), trial)


class _OfFamily:
    """A storage, with the trials of one family alone."""

    def __init__(self, storage: BaseStorage, family: str) -> None:
        self._storage, self._family = storage, family

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        trials = self._storage.get_all_trials(study_id, deepcopy, states)
        return [trial for trial in trials if trial.params.get("family") == self._family]
