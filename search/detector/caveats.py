"""Sentences that qualify a detector's metrics: what a reader must know before comparing or quoting them.

optimism : validation AUC − test AUC, over the machine IDs that both have. The search chose the best of many trials by
           its validation AUC, which is therefore too high. The two AUCs are measured on different clips, so this is not
           a paired difference.
seeds    : how the AUC of one model varies with its seed, over the members of an ensemble that differ in nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import TYPE_CHECKING

from search.study.objectives import IN_WORDS

if TYPE_CHECKING:
    from search.detector.detector import Detector

#: The name of the difference, validation minus test.
OPTIMISM = "optimism of the search"

#: For a search that was validated on synthetic faults.
NOT_COMPARABLE = (
    "The validation AUC is measured on synthetic faults and the test AUC on recorded ones: their difference is not the "
    "search's optimism"
)

#: For a search that was validated on other machine IDs than the test, and on some others.
OTHER_MACHINES = (
    "The validation clips and the test clips are of different machine IDs: the difference of their AUCs is not the "
    "search's optimism"
)
SOME_MACHINES = "Validation minus test covers only the machine IDs that both have: {}"

#: What the spread over seeds shows, and what it does not show.
SPREAD = (
    "Each seed's model is measured alone on the same clips; its initial weights, noise and order of clips are its own. "
    "The spread shows how much the training varies by chance, not what other clips or settings would give"
)

#: For models whose seeds change nothing.
NO_SPREAD = (
    "The {count} models of {name} score every clip alike: nothing in them depends on the seed, so that they show no "
    "spread and one of them would do"
)


def sentences_beside(detector: Detector) -> Iterator[str]:
    """What the metrics alone do not show, in sentences without their full stops."""
    validation, value, test_value = detector.recipe.validation, detector.value, detector.test_value
    metric = validation.objectives[0]
    if validation.uses_proxies:
        if detector.test is not None:
            yield NOT_COMPARABLE
    else:
        if detector.test is not None:
            yield from _machines_compared(set(detector.validation.per_id), set(detector.test.per_id))
        if metric != "auc":
            on_test = "not defined on these clips" if test_value is None else f"{test_value:.3f}"
            name = IN_WORDS[metric]
            yield f"The search's objective is another metric, {name}: validation {value:.3f}, test {on_test}"
    if validation.folds is not None:
        yield (
            f"The validation AUC is that of {validation.folds} models, each trained without the clips of its fold; the "
            "test AUC is that of the detector, trained on all of them"
        )
    for name, spread in detector.seeds.items():
        if not spread.seed_matters:
            yield NO_SPREAD.format(count=len(spread.seeds), name=name)
    for part, metrics in (("Validation", detector.validation), ("Test", detector.test)):
        if metrics is not None and metrics.why_no_interval:
            yield f"{part} AUC: {metrics.why_no_interval}"
    if detector.optimism is not None and detector.optimism.may_be_chance:
        why = (
            "there are too few clips for an interval"
            if detector.optimism.interval is None
            else "its interval includes 0"
        )
        yield f"Validation minus test may be chance: {why}"
    if detector.test is not None:
        yield detector.test_evaluations.in_words


def _machines_compared(validation: Set[str], test: Set[str]) -> Iterator[str]:
    """Which machine IDs the optimism covers, if not every one."""
    if not validation & test:
        yield OTHER_MACHINES
    elif validation != test:
        yield SOME_MACHINES.format(", ".join(sorted(validation & test)))
