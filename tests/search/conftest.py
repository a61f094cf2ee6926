"""A study so small that a trial takes a fraction of a second, on SQLite or on a real PostgreSQL server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.quick import QuickTraining
from benchmarks.servers import PostgresServer
from search.checkpoints import Checkpoints
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

    def worker(self, *, lease: float = 30.0, quick: bool = False) -> Worker:
        """Another worker, with a connection of its own; a quick one does not really train."""
        storage = StudyStorage(self.url, lease=lease, patience=60.0)
        prepared = prepare(self.stored.study(), default_root=None)
        return Worker(
            storage,
            self.stored,
            blind(prepared.corpus, self.stored.validation),
            Checkpoints(self.stored.artifacts, self.stored.uid),
            train=QuickTraining if quick else None,
        )


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server for all tests of this process; each makes a database of its own."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def storage_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty storage: SQLite, or what `on_both_databases` asks for."""
    if getattr(request, "param", "sqlite") == "sqlite":
        return f"sqlite:///{tmp_path / 'tiny.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture
def tiny_study(storage_url: str, corpus_root: Path) -> Callable[..., TinyStudy]:
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
        prepared = prepare(study_of_tree(tree, origin="tiny"), default_root=None)
        storage = StudyStorage(storage_url, create=True)
        return TinyStudy(storage_url, corpus_root, storage, create_or_join(storage, prepared.study, prepared.corpus))

    return make
