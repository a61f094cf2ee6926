"""Samplers and pruners of a study.

A sampler is made anew for each trial and seeded by (study seed, trial number): parallel workers never share a
random stream, and a study that was stopped and goes on draws what it would have drawn.
"""

from __future__ import annotations

from optuna.pruners import BasePruner, HyperbandPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler

from search.recipe import SearchSettings


def sampler_for(settings: SearchSettings, number: int) -> BaseSampler:
    """The sampler of the trial with this number."""
    seed = (settings.seed * 1_000_003 + number) % 2**32
    return RandomSampler(seed=seed) if settings.sampler == "random" else TPESampler(seed=seed)


def pruner_for(settings: SearchSettings, *, max_epochs: int) -> BasePruner:
    """The study's pruner. `max_epochs` is given, not "auto": each worker would fix it from what it sees first."""
    if settings.pruner == "none":
        return NopPruner()
    return HyperbandPruner(min_resource=1, max_resource=max_epochs, reduction_factor=3)
