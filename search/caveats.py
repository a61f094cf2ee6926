"""What stands beside a detector's figures, so that nobody takes them for more than they are.

optimism : validation AUC − test AUC, over the machine IDs that both have: how much the search flatters itself. The two
           are of different clips, so that it is no paired difference.
seeds    : how the AUC of one model varies with its seed, over the members of an ensemble that differ in nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from search.evaluation import Bootstrap, Scores, Truth, id_aucs, mean_auc
from search.steering import IN_WORDS

if TYPE_CHECKING:
    from search.final import Detector

OPTIMISM = "how much the search flatters itself"

#: Of a search that went by made faults.
NOT_COMPARABLE = (
    "The validation AUC is of made faults and the test AUC of recorded ones: their difference says nothing of how much "
    "the search flatters itself"
)

#: Of a search that went by other machine IDs, and where it went by some others.
OTHER_MACHINES = (
    "Validation and test are of different machine IDs: their difference says nothing of how much the search flatters "
    "itself"
)
SOME_MACHINES = "The difference of validation and test is of the machine IDs that both have: {}"

#: What the spread over seeds is of, and what it is not.
SPREAD = (
    "This is each seed's model alone, its weights, noise and order drawn anew, on the same clips: it tells how much is "
    "chance of the training, and not what other clips or settings would give"
)


@dataclass(frozen=True)
class Optimism:
    """Validation AUC − test AUC."""

    difference: float
    interval: tuple[float, float]  # 95 %

    @property
    def may_be_chance(self) -> bool:
        low, high = self.interval
        return low <= 0 <= high


def optimism_of(validation: Scores, steering: Truth, test: Scores, held_out: Truth) -> Optimism | None:
    """From the scores of the clips that steered the search, and of those that were held out.

    None if no machine ID has both labels in both.
    """
    common = id_aucs(validation, steering).keys() & id_aucs(test, held_out).keys()
    if not common:
        return None
    (validation, steering), (test, held_out) = (
        (scores[np.isin(truth.ids, list(common))], truth.of_ids(common))
        for scores, truth in ((validation, steering), (test, held_out))
    )
    resampled = Bootstrap(steering).aucs(validation)
    # Moved by one: both are drawn from the same random numbers, and the n-th of each would be no independent pair.
    resampled -= np.roll(Bootstrap(held_out).aucs(test), 1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Optimism(mean_auc(validation, steering) - mean_auc(test, held_out), (float(low), float(high)))


@dataclass(frozen=True)
class Spread:
    """The AUC of each seed's model alone, in the order of the seeds."""

    aucs: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.aucs))

    @property
    def deviation(self) -> float:
        """The standard deviation of the seeds that it was tried with as a sample of all seeds."""
        return float(np.std(self.aucs, ddof=1))


@dataclass(frozen=True)
class SeedSpread:
    """How one recipe's figures vary with its seed."""

    seeds: tuple[int, ...]
    validation: Spread
    test: Spread | None  # None where no ID has both labels among the held-out clips


def sentences_beside(detector: Detector) -> Iterator[str]:
    """What the figures alone do not say, in sentences without their full stops."""
    validation, value, test_value = detector.recipe.validation, detector.value, detector.test_value
    metric = validation.objectives[0]
    if validation.goes_by_proxies:
        if detector.test is not None:
            yield NOT_COMPARABLE
    else:
        if detector.test is not None:
            yield from _machines_compared(set(detector.validation.per_id), set(detector.test.per_id))
        if metric != "auc":
            on_test = "these clips do not tell it" if test_value is None else f"{test_value:.3f}"
            yield f"The search went by another figure, {IN_WORDS[metric]}: validation {value:.3f}, test {on_test}"
    if validation.folds is not None:
        yield (
            f"The validation AUC is of {validation.folds} models, each trained without the clips of its fold, and the "
            "test AUC of the detector, trained on all"
        )
    if detector.optimism is not None and detector.optimism.may_be_chance:
        yield "The difference of validation and test may be chance: its interval includes 0"
    if detector.test is not None:
        yield detector.looks.in_words


def _machines_compared(validation: Set[str], test: Set[str]) -> Iterator[str]:
    """Which machine IDs the optimism is of, where that is not every one."""
    if not validation & test:
        yield OTHER_MACHINES
    elif validation != test:
        yield SOME_MACHINES.format(", ".join(sorted(validation & test)))
