"""Samplers and pruners of a study.

A sampler is made anew for each trial and seeded by (study seed, trial number): parallel workers never share a
random stream, and a study that was stopped and goes on draws what it would have drawn.
"""

from __future__ import annotations

import warnings

import numpy as np
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner
from optuna.samplers import BaseSampler, PartialFixedSampler, RandomSampler, TPESampler

from search.recipe import SearchSettings
from search.study_file import Study

#: Suggestions in place of one that was tried already: of the study's sampler first, then random ones.
REDRAWS_OF_THE_SAMPLER, REDRAWS_AT_RANDOM = 5, 20


def sampler_for(study: Study, number: int, *, draw: int = 0) -> BaseSampler:
    """The sampler of the trial with this number; `draw` counts suggestions that were no use."""
    seed = int(np.random.SeedSequence([study.search.seed, number, draw]).generate_state(1)[0])
    if study.search.sampler == "random" or draw > REDRAWS_OF_THE_SAMPLER:
        return RandomSampler(seed=seed)
    if study.search.sampler == "tpe":
        return TPESampler(seed=seed)
    grid = study.grid()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return PartialFixedSampler(grid[number % len(grid)], RandomSampler(seed=seed))


def pruner_for(settings: SearchSettings, *, max_epochs: int) -> BasePruner:
    """The study's pruner. `max_epochs` is given, not "auto": each worker would fix it from what it sees first."""
    if settings.pruner == "none":
        return NopPruner()
    return HyperbandPruner(min_resource=1, max_resource=max_epochs, reduction_factor=3)
