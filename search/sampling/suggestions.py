"""Suggests the parameters of a worker's trials: ones that no other trial has, or a repeat."""

from __future__ import annotations

import hashlib
import json
import logging
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler

from models.scoring.scores import Scores
from search.evaluation.noise import noise_of
from search.evaluation.truth import Truth
from search.sampling.pruning import noise_key
from search.sampling.rungs import first_rung, is_rung
from search.sampling.samplers import REDRAWS_AT_RANDOM, REDRAWS_OF_THE_SAMPLER, curves_read, pruner_for, sampler_for
from search.sampling.stored_evidence import StoredEvidence
from search.storage.hold import Hold
from search.storage.outages import StorageAway
from search.storage.stored_study import StoredStudy
from search.storage.study_storage import StudyStorage
from search.storage.trial_cache import Cache
from search.study.portfolio import closed, place_in_first

if TYPE_CHECKING:
    from search.study.study import Study

_log = logging.getLogger(__name__)


class Suggestions:
    """The study's sampler and pruner, for the trials of one worker."""

    def __init__(self, storage: StudyStorage, stored: StoredStudy) -> None:
        self._storage, self._stored = storage, stored

    @cached_property
    def study(self) -> Study:
        return self._stored.study()

    @cached_property
    def _cache(self) -> Cache:
        return Cache(self._storage, curves=curves_read(self.study.search))

    @cached_property
    def pruner(self) -> BasePruner:
        study, name = self.study, self._stored.first_name
        return pruner_for(study.search, max_steps=study.max_steps, families=len(study.space.families), name=name)

    def optuna_study(self, sampler: BaseSampler | None = None) -> optuna.Study:
        """Optuna's view of the study, with finished trials cached."""
        name = self._stored.name
        return optuna.load_study(study_name=name, storage=self._cache, sampler=sampler, pruner=self.pruner)

    def settled_trial(self, hold: Hold) -> optuna.Trial:
        """Returns the trial with all its parameters: those that it has already, else suggested ones.

        A suggestion that another trial has is drawn again if the study wants fresh ones (`duplicates: fresh`) and its
        sampler can draw others; else the trial becomes a repeat.
        """
        study, search = self.study, self.study.search
        is_baseline = hold.number == 0 and bool(study.baseline)
        given = study.tried_first.get(hold.number)
        is_open = (study.space if given is None else closed(study.space, given)).has_trainings
        can_differ = search.sampler != "grid" and is_open and not is_baseline
        redraws = REDRAWS_OF_THE_SAMPLER + REDRAWS_AT_RANDOM if search.duplicates == "fresh" and can_differ else 0
        for draw in range(redraws + 1):
            trial = self._trial_of(hold, draw)
            with self._cache.as_read():
                self.study.space.suggest(trial)
            digest = hashlib.sha256(json.dumps(trial.params, sort_keys=True).encode()).hexdigest()[:40]
            repeat = hold.settle(digest, may_repeat=draw == redraws)
            if repeat is not None:
                break
            hold.start_over(parameters=True)
        if repeat and "repeat" not in trial.user_attrs:
            trial.set_user_attr("repeat", repeat)
        place = place_in_first(hold.number, study.baseline, search.first)
        if place is not None and "first" not in trial.user_attrs:
            trial.set_user_attr("first", place)
        _log.debug("trial %d: settings %s, tried %d times before", hold.number, trial.params, repeat)
        return trial

    def evidence(self, hold: Hold) -> StoredEvidence:
        """What the study knows of the variants of the trial's family."""
        return StoredEvidence(self._storage, self.optuna_study(), hold, max_steps=self.study.max_steps)

    def note_for_pruner(self, hold: Hold, step: int, scores: Scores, truth: Truth) -> None:
        """Stores the noise that the pruner needs at this step, before the step's report."""
        if self.study.search.pruner != "noise" or not is_rung(step, first=first_rung(self.study.max_steps)):
            return
        noise = noise_of(scores, truth, metric=self._stored.metric)
        if noise is not None:
            # Without noise the trial is not stopped at this rung.
            with suppress(StorageAway), self._storage.impatient():
                self._storage.set_trial_system_attr(hold.trial_id, noise_key(step), noise)

    def _trial_of(self, hold: Hold, draw: int) -> optuna.Trial:
        """The trial as its last worker left it: it keeps the parameters that it has, and its reports go on."""
        sampler = sampler_for(self.study, hold.number, draw=draw, remaining=hold.remaining)
        # A new Optuna study for each draw: its sampler sees only the trials that were there at its first suggestion.
        study = self.optuna_study(sampler)
        study.get_trials(deepcopy=False)  # Optuna's cache accepts parameters only for trials that it has read
        return _Trial(study, hold.trial_id, self._storage)


class _Trial(optuna.Trial):
    """A trial that is not pruned while the reports of the other trials cannot be read."""

    def __init__(self, study: optuna.Study, trial_id: int, storage: StudyStorage) -> None:
        super().__init__(study, trial_id)
        self._study_storage = storage

    def report(self, value: float, step: int) -> None:
        """Reports a value, also with several objectives, where Optuna itself refuses reports."""
        if len(self.study.directions) == 1:
            super().report(value, step)
        else:
            self.storage.set_trial_intermediate_value(self._trial_id, step, value)

    def should_prune(self) -> bool:
        if len(self.study.directions) > 1:
            return False
        try:
            with self._study_storage.impatient():
                return super().should_prune()
        except StorageAway:
            return False
