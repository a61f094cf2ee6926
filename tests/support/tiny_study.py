"""A study so small that a trial takes a fraction of a second."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from search.artifacts.checkpoints import Checkpoints
from search.preparation.prepared import prepare
from search.storage.stored_study import StoredStudy
from search.storage.study_storage import StudyStorage
from search.workers.worker import Worker, draw
from tests.support.quick import QuickTraining


@dataclass(frozen=True)
class TinyStudy:
    """A stored study, and what it takes to work on it."""

    url: str
    root: Path
    storage: StudyStorage
    stored: StoredStudy

    def worker(self, *, lease: float = 30.0, quick: bool = False) -> Worker:
        """Another worker, with a connection of its own; a quick one does not really train."""
        storage = StudyStorage(self.url, lease=lease, patience=60.0)
        prepared = prepare(self.stored.study(), default_root=None)
        return Worker(
            storage,
            self.stored,
            self.stored.steering(prepared.corpus),
            Checkpoints(self.stored.artifacts, self.stored.uid),
            train=QuickTraining if quick else None,
            show=draw,
        )


def trials_of(study: TinyStudy) -> list[FrozenTrial]:
    """All trials of the study, as they stand."""
    study.storage.engine.dispose()  # after a server's restart
    return optuna.load_study(study_name=study.stored.name, storage=study.storage).get_trials()
