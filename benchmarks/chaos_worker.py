"""A worker of benchmarks.chaos: quick trials in a real process, which can be made to hang, to fail, or to lack files.

Faults reach it as files in the folder of the chaos, which it looks at in each batch:

    hang-SLOT     the next batch never ends
    broken-SLOT   each batch raises an error of the GPU, in whatever process of the slot
    full          no checkpoint can be written: the disk is full

It opens a real frame store for each trial, and keeps real checkpoints.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import sklearn.metrics  # noqa: F401  imported before the fork
from optuna.artifacts import FileSystemArtifactStore

from features.clips.corpus import Corpus
from features.store.building import open_store
from search.sampling import samplers  # noqa: F401  imported before the fork
from search.storage.slots import host_of
from search.study.recipe import Recipe
from search.workers.draining import drain_on_signals, leave_in_time
from search.workers.worker import join
from tests.support.quick import QuickTraining

WORKERS_OF_A_HOST = 4


class ChaosTraining(QuickTraining):
    """A quick training with a frame store, at which faults take place."""

    def __init__(self, recipe: Recipe, corpus: Corpus, device: str, *, faults: Path, slot: int) -> None:
        super().__init__(recipe, corpus, device)
        open_store(corpus.clips, recipe.features)
        self._faults, self._slot = faults, slot

    def run_epoch(self, before_batch: Callable[[], None]) -> None:
        def before() -> None:
            before_batch()
            if (self._faults / f"broken-{self._slot}").exists():
                raise RuntimeError("CUDA error: unspecified launch failure")
            hang = self._faults / f"hang-{self._slot}"
            if hang.exists():
                hang.unlink()
                threading.Event().wait()

        super().run_epoch(before)


def work(
    environment: dict[str, str], url: str, name: str, *, owner: str, slot: int, lease: float, pause: float
) -> None:
    """Works on a stored study until its budget is met; `pause` is how long each epoch takes (seconds)."""
    os.environ |= environment
    logging.basicConfig(level=logging.CRITICAL)
    faults = Path(environment["OFFKEY_CHAOS"])
    os.environ["OFFKEY_HOST"] = host_of(owner)
    write = FileSystemArtifactStore.write

    def written(self: FileSystemArtifactStore, artifact_id: str, content_body: BinaryIO) -> None:
        if (faults / "full").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, artifact_id, content_body)

    FileSystemArtifactStore.write = written  # type: ignore[method-assign]
    stop = threading.Event()
    drain_on_signals(stop)
    worker = join(url, name, lease=lease, stop=stop)
    leave_in_time(stop, worker.release)
    worker.owner = owner
    QuickTraining.pause = pause / QuickTraining.batches
    train: Any = partial(ChaosTraining, faults=faults, slot=slot)
    worker.train, worker.show = train, None
    worker.run()
