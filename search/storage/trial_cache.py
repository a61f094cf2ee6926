"""A worker's cache of trials: each trial is read once after it has ended.

Like search.storage.study_storage it depends on Optuna's internals: Optuna's cache reads trials in
`_read_trials_from_remote_storage`, with the storage's `_get_trials`, into its
`_StudyInfo` (tests/search/storage/test_scale.py fails if that changes).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from optuna.storages._cached_storage import _CachedStorage, _StudyInfo
from optuna.trial import TrialState

from search.storage.study_storage import EVERY_STATE, StudyStorage


class Cache(_CachedStorage):
    """Optuna's cache of finished trials over a `StudyStorage`, with fewer and smaller reads.

    Pruners ask for a running trial's system attributes after each epoch: Optuna's own cache reads the whole trial for
    them, this one the attributes alone. Each read of the study's trials includes the running trials of all workers:
    Optuna's own cache reads their reports too, which may be most of the data.
    """

    _backend: StudyStorage

    def __init__(self, backend: StudyStorage, *, curves: Collection[TrialState] = EVERY_STATE) -> None:
        """`curves` are the states of the trials that are read with their reports."""
        super().__init__(backend)
        self._curves = curves
        self._as_read = False
        self._ids: dict[str, int] = {}

    def get_trial_system_attrs(self, trial_id: int) -> dict[str, Any]:
        attributes: dict[str, Any] = self._backend.get_trial_system_attrs(trial_id)
        return attributes

    def get_study_id_from_name(self, study_name: str) -> int:
        if study_name not in self._ids:
            self._ids[study_name] = super().get_study_id_from_name(study_name)
        return self._ids[study_name]

    @contextmanager
    def as_read(self) -> Iterator[None]:
        """Within this context, trials are not read again: a sampler asks for them several times in one suggestion."""
        self._as_read = True
        try:
            yield
        finally:
            self._as_read = False

    def _read_trials_from_remote_storage(self, study_id: int) -> None:
        with self._lock:
            known = self._studies.setdefault(study_id, _StudyInfo())
            if self._as_read:
                return
            unfinished, last = known.unfinished_trial_ids, known.last_finished_trial_id
            trials = self._backend._get_trials(study_id, None, unfinished, last, curves=self._curves)
            self._add_trials_to_cache(study_id, trials)
            ended = {trial._trial_id for trial in trials if trial.state.is_finished()}
            known.unfinished_trial_ids = (unfinished | {trial._trial_id for trial in trials}) - ended
            known.last_finished_trial_id = max({last, *ended})
