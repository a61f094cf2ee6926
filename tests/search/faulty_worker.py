"""Run as a process by test_worker.py: a worker that stops itself with a real signal at a named moment."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from search import ledger
from search import worker as worker_module
from search.storage import StudyStorage
from search.training import Training
from search.worker import Worker, drain_on_signals, join


def _hit(signal_name: str) -> None:
    os.kill(os.getpid(), getattr(signal, signal_name))


def _after(owner: Any, name: str, act: Callable[[], None]) -> None:
    original = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
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


def main(url: str, name: str, moment: str, signal_name: str, lease: str) -> None:
    def act() -> None:
        _hit(signal_name)

    in_second_epoch = {"when": lambda training, *args: training.epoch == 1}
    moments: dict[str, Callable[[], None]] = {
        "inside the claim": lambda: _after(ledger, "add_trial", act),
        "after the claim": lambda: _before(Worker, "_work_on", act),
        "after the suggestions": lambda: _before(Training, "run_epoch", act),
        "in the second epoch": lambda: _before(Training, "run_epoch", act, **in_second_epoch),
        "between report and checkpoint": lambda: _before(Training, "save", act),
        "inside the checkpoint": lambda: _before(os, "replace", act),
        "after the checkpoint": lambda: _after(Training, "save", act),
        "before the value": lambda: _before(StudyStorage, "finish", act),
        "between ledger and value": lambda: _before(StudyStorage, "set_trial_state_values", act),
        "after the value": lambda: _after(StudyStorage, "finish", act),
        "before the drain's release": lambda: _before(StudyStorage, "release", act),
        "inside the drain's release": lambda: _after(ledger, "release", act),
    }
    moments[moment]()
    worker = join(url, name)
    worker.lease = float(lease)
    drain_on_signals(worker)
    if "drain" in moment:
        _before(Training, "run_epoch", lambda: _hit("SIGTERM"), **in_second_epoch)
    assert worker_module.Worker is type(worker)
    worker.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
