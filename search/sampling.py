"""Samplers and pruners of a study.

A sampler is made anew for each trial and seeded by (study seed, trial number): parallel workers never share a
random stream, and a study that was stopped and goes on draws what it would have drawn.
"""

from __future__ import annotations

import warnings

from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner
from optuna.samplers import BaseSampler, PartialFixedSampler, RandomSampler, TPESampler

from search.recipe import SearchSettings
from search.study_file import Study


def sampler_for(study: Study, number: int) -> BaseSampler:
    """The sampler of the trial with this number."""
    seed = (study.search.seed * 1_000_003 + number) % 2**32
    if study.search.sampler == "tpe":
        return TPESampler(seed=seed)
    if study.search.sampler == "random":
        return RandomSampler(seed=seed)
    grid = study.grid()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return PartialFixedSampler(grid[number % len(grid)], RandomSampler(seed=seed))


def pruner_for(settings: SearchSettings, *, max_epochs: int) -> BasePruner:
    """The study's pruner. `max_epochs` is given, not "auto": each worker would fix it from what it sees first."""
    if settings.pruner == "none":
        return NopPruner()
    return HyperbandPruner(min_resource=1, max_resource=max_epochs, reduction_factor=3)
