"""A worker process that sends itself a real signal at a named moment of its first trial.

The processes are forked from one that has imported everything and holds no connection: an import takes seconds.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import sklearn.metrics  # noqa: F401  imported before the fork
import torch
from optuna.artifacts import FileSystemArtifactStore
from optuna.storages import RDBStorage

from search.artifacts.checkpoints import Checkpoints
from search.storage import claims, ledger, optuna_rows
from search.storage.hold import Hold
from search.storage.study_storage import StudyStorage
from search.training.loop import Training
from search.training.objective import train_for_real
from search.workers.draining import drain_on_signals
from search.workers.trial_work import TrialWork
from search.workers.worker import join
from tests.support.house import HOUSE
from tests.support.quick import QuickTraining, quicken

if TYPE_CHECKING:
    from tests.support.tiny_study import TinyStudy


#: The moments at which `arrange` can act, in the order in which a trial passes them.
MOMENTS = (
    "between ask and claim",
    "before the claim is committed",
    "after the claim",
    "between two suggestions",
    "after the suggestions",
    "in the second epoch",
    "inside the checkpoint",
    "between checkpoint and report",
    "inside the report",
    "after the report",
    "before the value",
    "between ledger and value",
    "after the value",
    "before the drain's release",
    "inside the drain's release",
)


def _after(owner: Any, name: str, act: Callable[[], None], *, when: Callable[..., bool] = lambda *a, **k: True) -> None:
    original = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if when(*args, **kwargs):
            act()
        return result

    setattr(owner, name, wrapped)


def _before(
    owner: Any, name: str, act: Callable[[], None], *, when: Callable[..., bool] = lambda *a, **k: True
) -> None:
    original = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if when(*args, **kwargs):
            act()
        return original(*args, **kwargs)

    setattr(owner, name, wrapped)


def _half_a_file(self: FileSystemArtifactStore, name: str, content: Any, act: Callable[[], None]) -> None:
    whole = content.read()
    path = self._get_filepath(name)
    path.write_bytes(whole[: len(whole) // 2])
    act()
    path.write_bytes(whole)


def arrange(moment: str, training: Any, hit: Callable[[int], None], number: int) -> None:
    """Arranges that `hit(number)` is called once, at this moment."""
    fired = threading.Event()

    def act() -> None:
        if not fired.is_set():
            fired.set()
            hit(number)

    second_epoch = {"when": lambda training, *args: training.epoch == 1}
    moments: dict[str, Callable[[], None]] = {
        "between ask and claim": lambda: _before(claims, "add_trial", act),
        "before the claim is committed": lambda: _after(claims, "add_trial", act),
        "after the claim": lambda: _before(TrialWork, "run", act),
        "between two suggestions": lambda: _after(RDBStorage, "_set_trial_param_without_commit", act),
        "after the suggestions": lambda: _before(Hold, "settle", act),
        "in the second epoch": lambda: _before(training, "run_epoch", act, **second_epoch),
        "inside the checkpoint": lambda: setattr(
            FileSystemArtifactStore, "write", lambda self, name, content: _half_a_file(self, name, content, act)
        ),
        "between checkpoint and report": lambda: _after(Checkpoints, "write", act),
        "inside the report": lambda: _before(optuna_rows, "report", act),
        "after the report": lambda: _after(StudyStorage, "set_trial_intermediate_value", act),
        "before the value": lambda: _before(Hold, "finish", act),
        "between ledger and value": lambda: _before(RDBStorage, "set_trial_state_values", act),
        "after the value": lambda: _after(Hold, "finish", act),
        "before the drain's release": lambda: _before(Hold, "release", act),
        "inside the drain's release": lambda: _after(ledger, "release", act),
    }
    assert tuple(moments) == MOMENTS
    moments[moment]()


def _run(
    environment: dict[str, str], folder: str, name: str, moment: str, number: int, lease: float, real: bool
) -> None:
    os.environ |= environment
    os.chdir(folder)
    torch.set_num_threads(1)
    torch.cpu.get_capabilities = dict  # type: ignore[assignment]  # as in the tests' own process: the same precision on every CPU
    stop = threading.Event()
    worker = join(os.environ["OFFKEY_STORAGE"], name, lease=lease, stop=stop)
    training: Any = Training if real else QuickTraining
    if real:
        worker.train = train_for_real
    else:
        quicken(worker)
    arrange(moment, training, lambda number: os.kill(os.getpid(), number), number)
    drain_on_signals(stop)
    if "drain" in moment:
        in_second_epoch = {"when": lambda training, *args: training.epoch == 1}
        _before(training, "run_epoch", lambda: os.kill(os.getpid(), signal.SIGTERM), **in_second_epoch)
    worker.run()


@contextmanager
def faulty(study: TinyStudy, moment: str, number: signal.Signals, *, lease: float, real: bool = False) -> Iterator[Any]:
    """A worker process that sends itself this signal at this moment of its first trial."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    environment = {"OFFKEY_STORAGE": study.url, "OFFKEY_CACHE": os.environ["OFFKEY_CACHE"]}
    process = context.Process(
        target=_run, args=(environment, os.getcwd(), study.stored.name, moment, int(number), lease, real)
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(HOUSE))  # of the process that they are forked from
        process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def wait_until_stopped(process: Any, *, seconds: float = 60) -> None:
    """Waits for a process that stops itself."""
    deadline = time.monotonic() + seconds
    while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
        assert time.monotonic() < deadline, "the process did not stop"
        time.sleep(0.02)
