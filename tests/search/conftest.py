"""A study so small that a trial takes a fraction of a second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from search.preparation import prepare
from search.split import blind
from search.storage import StudyStorage
from search.stored_study import StoredStudy, create_or_join
from search.study_file import study_of_tree
from search.worker import Worker


@dataclass(frozen=True)
class TinyStudy:
    """A stored study, and what it takes to work on it."""

    url: str
    root: Path
    storage: StudyStorage
    stored: StoredStudy

    def worker(self, *, lease: float = 30.0) -> Worker:
        """Another worker, with a connection of its own."""
        storage = StudyStorage(self.url)
        prepared = prepare(self.stored.study(), default_root=None)
        return Worker(storage, self.stored, blind(prepared.corpus, self.stored.validation), lease=lease)


@pytest.fixture
def tiny_study(tmp_path: Path, corpus_root: Path) -> Callable[..., TinyStudy]:
    """Makes a stored study: 3 epochs, h_dim open, no pruner; `changes` replace top-level blocks."""

    def make(*, trials: int = 3, **changes: Any) -> TinyStudy:
        tree = {
            "study": "tiny",
            "corpus": {"root": str(corpus_root)},
            "features": {"n_mels": 32},
            "model": {"family": "vae", "context": 3, "h_dim": {"low": 8, "high": 64}, "z_dim": 4},
            "training": {"learning_rate": 0.01, "batch_size": 16, "epochs": 3, "threads": 1},
            "baseline": {"h_dim": 16},
            "search": {"trials": trials, "pruner": "none"},
            **changes,
        }
        url = f"sqlite:///{tmp_path / 'tiny.db'}"
        prepared = prepare(study_of_tree(tree, origin="tiny"), default_root=None)
        storage = StudyStorage(url, create=True)
        return TinyStudy(url, corpus_root, storage, create_or_join(storage, prepared.study, prepared.corpus))

    return make
