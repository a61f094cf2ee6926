"""The samplers and pruners of a study.

Each trial has a new sampler, seeded by (study seed, trial number). Parallel workers therefore never share a random
stream, and a study that was stopped and continued draws the same numbers as one that was not. In a study of several
families, measured times decide which family a trial is of (search.sampling.families). So one that runs again may differ
in that; the settings within a family depend on seed, number and the family's earlier trials alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, MedianPruner, NopPruner, WilcoxonPruner
from optuna.samplers import BaseSampler, PartialFixedSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from search.sampling.families import STARTUP, families_by_claim
from search.sampling.pruning import NoisePruner
from search.sampling.rungs import REDUCTION_FACTOR, Hyperband, WithinFamily, first_rung
from search.storage.study_rows import Remaining
from search.study.search_settings import SearchSettings
from search.study.space import Space
from search.study.study import Study

#: The most new suggestions in place of one that was tried already: first by the study's sampler, then at random.
REDRAWS_OF_THE_SAMPLER, REDRAWS_AT_RANDOM = 5, 20


def sampler_for(study: Study, number: int, *, draw: int = 0, remaining: Remaining | None = None) -> BaseSampler:
    """The sampler of the trial with this number.

    `draw` counts the trial's suggestions that were rejected. `remaining` is what was left of the budget when the trial
    began, if this is known.
    """
    seed = int(np.random.SeedSequence([study.search.seed, number, draw]).generate_state(1)[0])
    if study.search.sampler == "random" or draw > REDRAWS_OF_THE_SAMPLER:
        return RandomSampler(seed=seed)
    if study.search.sampler == "tpe":
        is_conditional = len(study.space.families) > 1
        return (
            FamilySampler(study.space, seed=seed, draw=draw, remaining=remaining)
            if is_conditional
            else TPESampler(seed=seed)
        )
    grid = study.grid()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return PartialFixedSampler(grid[number % len(grid)], RandomSampler(seed=seed))


def pruner_for(settings: SearchSettings, *, max_steps: int, families: int = 1, name: str) -> BasePruner:
    """The pruner of a study with so many families, whose trials have at most `max_steps` steps.

    `name` is the one that the study had at first: Hyperband's brackets go by it, and a new name changes nothing.
    """
    pruner = _pruner(settings, max_steps, name)
    # Wilcoxon compares whole models, fold by fold: it needs no trials that learn as fast.
    return WithinFamily(pruner) if families > 1 and settings.pruner in ("hyperband", "median", "noise") else pruner


def _pruner(settings: SearchSettings, max_steps: int, name: str) -> BasePruner:
    first = first_rung(max_steps)
    match settings.pruner:
        case "none":
            return NopPruner()
        case "median":
            return MedianPruner(n_warmup_steps=first)
        case "noise":
            return NoisePruner(first_rung=first)
        case "wilcoxon":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                return WilcoxonPruner()
        case "hyperband":
            # Not "auto": each worker would infer it from its first trials.
            return Hyperband(name, min_resource=first, max_resource=max_steps, reduction_factor=REDUCTION_FACTOR)


def curves_read(settings: SearchSettings) -> tuple[TrialState, ...]:
    """The states of the trials whose reports the study's sampler and pruner read.

    TPE uses the last report of a pruned trial as its value. Hyperband stores the values that it compares in system
    attributes.
    """
    match settings.pruner:
        case "none" | "hyperband":
            return (TrialState.PRUNED,)
        case "median" | "wilcoxon":
            return TrialState.PRUNED, TrialState.COMPLETE
        case "noise":
            return tuple(TrialState)


class FamilySampler(BaseSampler):
    """Samples a conditional space: first the family, then its settings by TPE from that family's own trials.

    Families share time: the k-th best one gets 1/k of the time of the best one (search.sampling.families); with several
    objectives, all get the same. TPE alone has three faults here. It does not look at what a trial costs. It stays with
    a family whose first trials happen to be good, and rarely tunes one that needs tuning. And it takes the trials of
    the best family for the good trials, so that it learns nothing about the settings of the others.

    benchmarks/conditional.py compares both, and Optuna's `group`, after equal time.
    """

    def __init__(self, space: Space, *, seed: int, draw: int = 0, remaining: Remaining | None = None) -> None:
        """`draw` is the number of families to skip, because suggestions for them had been tried already."""
        self._space, self._draw, self._remaining = space, draw, remaining
        self._tpe = TPESampler(seed=seed, n_startup_trials=STARTUP)
        self._alone: optuna.Trial | None = None  # asked of a study with the trials of the family alone

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}  # the space depends on the family, which is not suggested yet

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if param_name == "family":
            by_claim = families_by_claim(self._space.families, _all_trials(study), self._remaining)
            return by_claim[self._draw % len(by_claim)]
        if self._alone is None:
            others = [other for other in _all_trials(study) if other.number != trial.number]
            self._alone = _of_family(trial.params["family"], study, others, self._tpe).ask()
        return self._alone._suggest(param_name, param_distribution)


def _all_trials(study: optuna.Study) -> list[FrozenTrial]:
    # Not get_trials: under Hyperband, Optuna gives samplers a study whose get_trials shows one bracket alone.
    return study._get_trials(deepcopy=False)


def _of_family(family: str, study: optuna.Study, trials: Sequence[FrozenTrial], sampler: BaseSampler) -> optuna.Study:
    """A study with the trials of one family: its settings are suggested from these alone.

    Settings that all of them have are suggested together, others one by one. Trials at work keep other workers from
    suggesting the same.
    """
    alone = optuna.create_study(directions=study.directions, sampler=sampler)
    used = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
    alone.add_trials(t for t in trials if t.state in used and t.params.get("family") == family)
    return alone
