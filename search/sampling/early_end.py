"""A study that ends itself: asks the rule (search.sampling.enough) after each trial, and enters its answer once.

Workers that are at work then finish their trials, and no worker begins another one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from search.evaluation.noise import noise_of
from search.sampling.enough import Values, may_be_enough, prospect
from search.storage.early_end import Enough
from search.storage.stored_study import StoredStudy
from search.storage.study_ledger import StudyLedger
from search.study.search_settings import keeps_to_limits

_log = logging.getLogger(__name__)


class EarlyEnd:
    """Asks for one worker whether its study knows enough."""

    def __init__(self, stored: StoredStudy, ledger: StudyLedger) -> None:
        self._stored, self._ledger = stored, ledger
        self._families = stored.study().space.families
        self._noise = cache(self._noise_of)

    def end_if_enough(self, trials: Sequence[FrozenTrial]) -> None:
        """Ends the study if its trials, as they stand now, show that enough is known."""
        ended = sorted((trial for trial in trials if trial.state.is_finished()), key=lambda trial: trial.number)
        if not may_be_enough(len(ended), self._stored.budget - len(ended)):  # a budget never falls
            return
        _, _, budget, has_ended = self._ledger.snapshot()
        remaining = budget - len(ended)
        if has_ended is not None or remaining < 1 or not may_be_enough(len(ended), remaining):
            return
        numbers = [trial.number for trial in ended]
        first = {number for number in self._stored.tried_first if number < budget}
        if not first <= set(numbers):
            return
        values = np.array([_value(trial) for trial in ended])
        found = prospect(
            values,
            np.array([number not in first for number in numbers]),
            np.array([self._family_of(trial) for trial in ended]),
            lambda place: self._noise(numbers[place]),
            remaining=remaining,
            count=len(self._families),
        )
        if found is None or not found.is_enough:
            return
        best = numbers[int(np.nanargmax(values))]
        enough = Enough(trials=len(ended), budget=budget, best=best, margin=found.margin, expected=found.expected)
        if self._ledger.end_early(enough):
            _log.info("%s", enough.in_words(self._stored.metric_name))

    def _family_of(self, trial: FrozenTrial) -> int:
        family = trial.params.get("family")
        if len(self._families) == 1:
            return 0
        return self._families.index(family) if family in self._families else -1

    def _noise_of(self, number: int) -> Values | None:
        scores = self._ledger.scores([number]).get(number)
        if scores is None:
            return None
        noise = noise_of(scores, self._stored.truth, metric=self._stored.metric)
        return None if noise is None else np.array(noise)


def _value(trial: FrozenTrial) -> float:
    """The value of a complete trial that keeps to the study's limits; NaN for others."""
    is_complete = trial.state == TrialState.COMPLETE and keeps_to_limits(trial)
    return float(trial.values[0]) if is_complete and trial.values else float("nan")
