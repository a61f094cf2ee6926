"""Optimism and seeds: how far a detector's metrics may lie from those on other clips, or with other seeds.

optimism : validation AUC − test AUC, over the machine IDs that both have.
seeds    : how the AUC of one model varies with its seed, over the members of an ensemble that differ in nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from models.scoring.scores import Scores
from search.evaluation.confidence import interval_of, interval_of_independent
from search.evaluation.interval import Interval
from search.evaluation.metrics import id_aucs, mean_auc
from search.evaluation.truth import Truth


@dataclass(frozen=True)
class Optimism:
    """Validation AUC − test AUC."""

    difference: float
    interval: Interval | None  # None where there are too few clips

    @property
    def may_be_chance(self) -> bool:
        return self.interval is None or self.interval.includes(0)


def optimism_of(validation: Scores, validation_data: Truth, test: Scores, held_out: Truth) -> Optimism | None:
    """The optimism, from the scores of the validation clips and those of the held-out test clips.

    None if no machine ID has normal clips and anomalies in both.
    """
    common = id_aucs(validation, validation_data).keys() & id_aucs(test, held_out).keys()
    if not common:
        return None
    (validation, validation_data), (test, held_out) = (
        (scores[np.isin(truth.ids, list(common))], truth.of_ids(common))
        for scores, truth in ((validation, validation_data), (test, held_out))
    )
    validated, tested = mean_auc(validation, validation_data), mean_auc(test, held_out)
    of_validation, of_test = interval_of(validation, validation_data), interval_of(test, held_out)
    interval = None
    if of_validation is not None and of_test is not None:
        interval = interval_of_independent(validated, of_validation, tested, of_test)
    return Optimism(validated - tested, interval)


@dataclass(frozen=True)
class Spread:
    """The AUC of each seed's model alone, in the order of the seeds."""

    aucs: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.aucs))

    @property
    def deviation(self) -> float:
        """The standard deviation; these seeds are a sample of all seeds (n − 1)."""
        return float(np.std(self.aucs, ddof=1))


@dataclass(frozen=True)
class SeedSpread:
    """How one recipe's AUC varies with its seed."""

    seeds: tuple[int, ...]
    validation: Spread
    test: Spread | None  # None where no ID has both labels among the test clips
    seed_matters: bool  # whether the models' scores differ at all: those of a model that draws nothing do not


def varying(seeds: Mapping[str, SeedSpread]) -> dict[str, SeedSpread]:
    """Return the recipes whose models differ: only these have a spread."""
    return {name: spread for name, spread in seeds.items() if spread.seed_matters}
