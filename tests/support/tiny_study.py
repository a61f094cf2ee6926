"""A study so small that a trial takes a fraction of a second."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial
from sqlalchemy import select

from search.artifacts.checkpoints import Checkpoints
from search.preparation.prepared import prepare
from search.storage.stored_study import StoredStudy, create_or_join
from search.storage.study_ledger import StudyLedger
from search.storage.study_storage import StudyStorage
from search.storage.tables import TrialRow
from search.study.study_file import study_of_tree
from search.workers.trial_work import draw
from search.workers.worker import Worker
from tests.support.quick import QuickTraining


@dataclass(frozen=True)
class TinyStudy:
    """A stored study, with its ledger and workers."""

    url: str
    root: Path
    storage: StudyStorage
    stored: StoredStudy

    @property
    def ledger(self) -> StudyLedger:
        return self.ledger_over(self.storage)

    def ledger_over(self, storage: StudyStorage) -> StudyLedger:
        """The study's ledger over another connection."""
        return StudyLedger(storage, self.stored)

    def rows(self) -> list[Any]:
        """The trials' rows in the ledger, by number."""
        own = select(TrialRow.__table__).where(TrialRow.study_id == self.stored.study_id).order_by(TrialRow.number)
        with self.storage.engine.connect() as connection:
            return list(connection.execute(own))

    def worker(self, *, lease: float = 30.0, quick: bool = False) -> Worker:
        """Another worker, with a connection of its own; a `quick` one has instant trainings."""
        storage = StudyStorage(self.url, lease=lease, patience=60.0)
        prepared = prepare(self.stored.study(), default_root=None)
        return Worker(
            storage,
            self.stored,
            self.stored.validation_data(prepared.corpus),
            Checkpoints(self.stored.artifacts, self.stored.uid),
            train=QuickTraining if quick else None,
            show=draw,
        )


def made(url: str, root: Path, *, trials: int = 3, **changes: Any) -> TinyStudy:
    """Makes a stored study on this corpus: 3 epochs, h_dim open, no pruner; `changes` replace top-level blocks."""
    tree = {
        "study": "tiny",
        "corpus": {"root": str(root)},
        "features": {"n_mels": 32},
        "model": {"family": "vae", "context": 3, "h_dim": {"low": 8, "high": 64}, "z_dim": 4},
        "training": {"learning_rate": 0.01, "batch_size": 16, "epochs": 3, "threads": 1},
        "baseline": {"h_dim": 16},
        "search": {"trials": trials, "pruner": "none"},
        **changes,
    }
    prepared = prepare(study_of_tree(tree, origin="tiny"), default_root=None)
    storage = StudyStorage(url, create=True)
    stored = create_or_join(storage, prepared.study, prepared.corpus, prepared.validation_data.truth)
    return TinyStudy(url, root, storage, stored)


def whole_copy(study: TinyStudy, file: Path) -> Path:
    """A copy of a study's SQLite database, for a test to write to."""
    with study.storage.engine.connect() as connection:
        connection.exec_driver_sql("VACUUM INTO ?", (str(file),))
    return file


def trials_of(study: TinyStudy) -> list[FrozenTrial]:
    """All trials of the study, as they stand."""
    study.storage.engine.dispose()  # after a server's restart
    return optuna.load_study(study_name=study.stored.name, storage=study.storage).get_trials()


def curves(trials: list[FrozenTrial]) -> list[tuple[int, dict[str, object], dict[int, float]]]:
    """The numbers of trials, their settings and their learning curves."""
    return [(trial.number, trial.params, trial.intermediate_values) for trial in trials]
