"""What stands beside a detector's figures, so that nobody takes them for more than they are.

optimism : validation AUC − test AUC, over the machine IDs that both have: how much the search flatters itself. The two
           are of different clips, so that it is no paired difference.
seeds    : how the AUC of one model varies with its seed, over the members of an ensemble that differ in nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import TYPE_CHECKING

from search.study.objectives import IN_WORDS

if TYPE_CHECKING:
    from search.detector.detector import Detector

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


def sentences_beside(detector: Detector) -> Iterator[str]:
    """What the figures alone do not say, in sentences without their full stops."""
    validation, value, test_value = detector.recipe.validation, detector.value, detector.test_value
    metric = validation.objectives[0]
    if validation.uses_proxies:
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
        yield detector.test_evaluations.in_words


def _machines_compared(validation: Set[str], test: Set[str]) -> Iterator[str]:
    """Which machine IDs the optimism is of, where that is not every one."""
    if not validation & test:
        yield OTHER_MACHINES
    elif validation != test:
        yield SOME_MACHINES.format(", ".join(sorted(validation & test)))
