"""The variants of one trial: scored after a judged step, kept as evidence, and one of them taken."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from models.scoring.scores import Scores
from search.study.recipe import Recipe
from search.study.variants import Variant
from search.training.choice import Table, choose
from search.training.protocols import Evidence, TrialTraining, VariantScores
from search.validation.views import ValidationData

_log = logging.getLogger(__name__)


class VariantChoice:
    """Scores the variants of a training at each judged step, and takes one."""

    def __init__(
        self,
        variants: Sequence[Variant],
        validation_data: ValidationData,
        objective: str,
        evidence: Evidence,
        *,
        reports_folds_alone: bool = False,
    ) -> None:
        self._variants, self._validation_data, self._objective = variants, validation_data, objective
        self._reports_folds_alone = reports_folds_alone
        self._evidence = evidence
        # Trials of `search.first` may have closed some of the settings: then their variants are others.
        named = json.dumps([dict(variant.values) for variant in variants], sort_keys=True)
        self._digest = hashlib.sha256(named.encode()).hexdigest()[:8]
        self._tables = {step: _table(values) for step, values in evidence.own().items()}
        self._taken = variants[0]
        self.curve: dict[int, float] = {}  # the value of the variant that is taken, at each judged step

    @property
    def recipes(self) -> list[Recipe]:
        """The recipes of the variants, which share a training."""
        return [variant.recipe for variant in self._variants]

    @property
    def taken(self) -> Recipe:
        """The recipe of the variant that was taken at the last step that was judged."""
        return self._taken.recipe

    @property
    def values(self) -> Mapping[str, Any]:
        """The parameters of this variant."""
        return self._taken.values

    @property
    def is_open(self) -> bool:
        """Whether there is a choice."""
        return len(self._variants) > 1

    def is_judged(self, step: int, *, is_last: bool) -> bool:
        """Whether validation clips are scored after this step: it costs a pass, and with a choice many densities.

        Each fold of a cross-validation is: the clips of its view have their scores anyway.
        """
        has_folds = len(self._validation_data.views) > 1
        return is_last or has_folds or self._evidence.judges(step, has_choice=self.is_open)

    def scores(self, training: TrialTraining) -> Scores:
        """Return the scores of the validation clips under the variant that the trial takes.

        Raises UnservedError, TrialFailure or FloatingPointError if the training gives no detector.
        """
        if not self.is_open:
            self._evidence.take(self._variants[0].values, {})
            return training.validation_scores()
        assert training.step is not None
        scores = training.scores_of_variants(self.recipes)
        chosen = scores[self.choose(scores, training.step)]
        assert not isinstance(chosen, Exception)
        self._evidence.take(self.values, self.curve)
        return chosen

    def choose(self, scores: Sequence[VariantScores], step: int) -> int:
        """Take a variant by the scores of each of them at a step; return its position.

        Keeps the variants' values as evidence. Raises the first variant's reason if none has scores.
        """
        table = self._table_of(scores)
        for variant, reason in zip(self._variants, scores, strict=True):
            if isinstance(reason, Exception):
                _log.info("no detector with %s: %s", dict(variant.values), reason)
        values = [None if math.isnan(value) else value for value in table.tolist()]
        self._evidence.keep(step, values, self._digest)
        self._tables[step] = table
        others = [_table(other) for other in self._evidence.others(self._digest)]
        position = choose(table, others, [variant.changes for variant in self._variants])
        self._taken = self._variants[position]
        # A trial that reports each fold alone keeps its reports: the tables are of all folds so far.
        if not self._reports_folds_alone:
            judged = sorted(self._tables.items())
            self.curve = {earlier: float(values[position]) for earlier, values in judged if earlier <= step}
        return position

    def _table_of(self, scores: Sequence[VariantScores]) -> Table:
        """Return the value of each variant, (variants,). Raises the first variant's reason if none has scores."""
        has_scores = [not isinstance(one, Exception) for one in scores]
        if not any(has_scores):
            raise next(one for one in scores if isinstance(one, Exception))
        table = np.full(len(scores), np.nan)
        table[has_scores] = self._validation_data.metric_of_each(
            self._objective, np.array([one for one in scores if not isinstance(one, Exception)])
        )
        return table


class NoEvidence:
    """The evidence of a trial that stands alone: every step is judged, and no other training counts."""

    def of_machine(self, machine: str) -> NoEvidence:
        return NoEvidence()

    def judges(self, step: int, *, has_choice: bool) -> bool:
        return True

    def others(self, variants: str) -> Sequence[Sequence[float | None]]:
        return ()

    def own(self) -> Mapping[int, Sequence[float | None]]:
        return {}

    def keep(self, step: int, values: Sequence[float | None], variants: str) -> None:
        return None

    def take(self, values: Mapping[str, Any], curve: Mapping[int, float]) -> None:
        return None


def _table(values: Sequence[float | None]) -> Table:
    return np.array(values, dtype=np.float64)  # None becomes NaN
