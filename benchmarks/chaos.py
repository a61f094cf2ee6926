"""Workers that are killed, stopped and cut off from their database all the time, and what is left of their study.

    python -m benchmarks.chaos

Eight workers do 200 quick trials on SQLite and on PostgreSQL while faults hit them at random. Every value is known in
advance (a trial's curve depends on its number alone), so that a trial lost, doubled, or continued wrongly would show.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import psutil
import sklearn.metrics  # noqa: F401  imported before the fork
from rich.console import Console
from rich.table import Table
from sqlalchemy import select

from benchmarks.sides import machine_line
from features.clips.synthetic_corpus import make_corpus
from search.evaluation.metrics import mean_auc
from search.preparation.prepared import prepare
from search.sampling import samplers  # noqa: F401  imported before the fork
from search.storage.outages import PATIENCE
from search.storage.stored_study import StoredStudy, create_or_join
from search.storage.study_ledger import StudyLedger
from search.storage.study_storage import StudyStorage
from search.storage.tables import TrialRow
from search.study.study_file import study_of_tree
from search.validation.split import blind
from search.workers import worker
from tests.support import quick
from tests.support.servers import PostgresServer

EPOCHS = 5

#: No trial is to be given up: faults hit a trial more often here than trials elsewhere that kill their workers.
_ATTEMPTS = 100


@dataclass
class Chaos:
    """One study under faults."""

    url: str
    root: Path  # of a corpus
    workers: int
    trials: int
    lease: float  # seconds
    pause: float  # of an epoch (seconds)
    server: PostgresServer | None = None
    seed: int = 0
    mean_gap: float = 1.0  # between two faults (seconds)
    longest: float = 600.0  # seconds
    faults: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    takeovers: int = 0
    wrong: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Runs the study to its budget; `wrong` says what should not have been."""
        random_ = random.Random(self.seed)
        storage, stored = self._study()
        ledger = StudyLedger(storage, stored)
        faults = [self._kill, self._stop] + ([self._restart_fast, self._crash, self._away] if self.server else [])
        weights = [6, 4, 1, 1, 1][: len(faults)]
        began, processes = time.monotonic(), [self._start() for _ in range(self.workers)]
        try:
            with _continued_later() as continue_later:
                next_fault = began + random_.expovariate(1 / self.mean_gap)
                while ledger.unfinished():
                    if time.monotonic() - began > self.longest:
                        ended, _ = ledger.progress()
                        self.wrong.append(f"{ended} of {self.trials} trials after {self.longest:.0f} s")
                        break
                    for index, process in enumerate(processes):
                        if process.exitcode not in (None, 0):
                            if process.exitcode != -signal.SIGKILL:
                                self.wrong.append(f"a worker ended with {process.exitcode}")
                            processes[index] = self._start()
                    spared = time.monotonic() - began > self.longest / 2  # a slow machine gets to the end, too
                    if time.monotonic() >= next_fault and not spared:
                        random_.choices(faults, weights)[0](random_, processes, continue_later)
                        next_fault = time.monotonic() + random_.expovariate(1 / self.mean_gap)
                    time.sleep(0.05)
            self.seconds = time.monotonic() - began
            for process in processes:
                process.join(timeout=60)
                if process.exitcode not in (0, -signal.SIGKILL):
                    self.wrong.append(f"a worker ended with {process.exitcode}")
        finally:
            for process in processes:
                process.kill()
                process.join()
        self._check(storage, stored)

    def _study(self) -> tuple[StudyStorage, StoredStudy]:
        tree = quick.quick_study(
            str(self.root),
            name="chaos",
            training={
                "epochs": EPOCHS,
                "threads": 1,
                "precision": "float32",
                "learning_rate": {"low": 1e-5, "high": 1e-1, "log": True},
            },
            search={"trials": self.trials, "pruner": "none", "sampler": "random"},
        )
        prepared = prepare(study_of_tree(tree, origin="chaos"), default_root=None)
        self._corpus = blind(prepared.corpus, prepared.study.first_recipe().validation)
        storage = StudyStorage(self.url, create=True, patience=PATIENCE)
        return storage, create_or_join(storage, prepared.study, prepared.corpus, prepared.validation_data.truth)

    def _start(self) -> Any:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        process = context.Process(
            target=_work, args=(dict(os.environ), self.url, "chaos", self.lease, self.pause), daemon=True
        )
        process.start()
        return process

    def _kill(self, random_: random.Random, processes: list[Any], later: Callable[[int, float], None]) -> None:
        self._signal(random_, processes, signal.SIGKILL)

    def _stop(self, random_: random.Random, processes: list[Any], later: Callable[[int, float], None]) -> None:
        stopped = self._signal(random_, processes, signal.SIGSTOP)
        if stopped is not None:
            later(stopped, random_.uniform(0.2, 3.0) * self.lease)

    def _restart_fast(self, random_: random.Random, processes: list[Any], later: Callable[[int, float], None]) -> None:
        assert self.server is not None
        self.server.restart("fast")
        self.faults["server restarted (fast)"] += 1

    def _crash(self, random_: random.Random, processes: list[Any], later: Callable[[int, float], None]) -> None:
        assert self.server is not None
        self.server.restart("immediate")
        self.faults["server crashed and restarted"] += 1

    def _away(self, random_: random.Random, processes: list[Any], later: Callable[[int, float], None]) -> None:
        assert self.server is not None
        self.server.stop()
        back = time.monotonic() + random_.uniform(0.5, 2.0) * self.lease
        while time.monotonic() < back:  # whoever trains on meanwhile is not spared
            random_.choice([self._kill, self._stop])(random_, processes, later)
            time.sleep(self.mean_gap / 2)
        self.server.start()
        self.faults["server away for 0.5 to 2 leases"] += 1

    def _signal(self, random_: random.Random, processes: list[Any], number: signal.Signals) -> int | None:
        """Sends a signal to one of the processes that run and are not stopped; returns its PID, None without one."""
        for process in random_.sample(processes, len(processes)):
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                if process.exitcode is None and psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
                    os.kill(process.pid, number)
                    self.faults[number.name if number == signal.SIGKILL else "SIGSTOP, SIGCONT later"] += 1
                    return int(process.pid)
        return None

    def _check(self, storage: StudyStorage, stored: StoredStudy) -> None:
        columns = (TrialRow.number, TrialRow.state, TrialRow.token, TrialRow.reason)
        with storage.engine.connect() as connection:
            rows = connection.execute(select(*columns).order_by(TrialRow.number)).all()
        trials = optuna.load_study(study_name="chaos", storage=storage).get_trials()
        self.takeovers = sum(token - 1 for _, _, token, _ in rows)
        if [trial.number for trial in trials] != list(range(self.trials)):
            self.wrong.append(f"trial numbers: {[trial.number for trial in trials]}")
        if len(rows) != self.trials:
            self.wrong.append(f"{len(rows)} rows in the ledger for a budget of {self.trials}")
        for trial, (number, state, _, reason) in zip(trials, rows, strict=False):
            if state != "complete" or trial.state.name != "COMPLETE":
                self.wrong.append(f"trial {number} is {state} and {trial.state.name} ({reason})")
            elif trial.intermediate_values != (curve := self._undisturbed(trial.number, stored)):
                self.wrong.append(f"trial {number} has the curve {trial.intermediate_values}, not {curve}")
            elif trial.value != curve[EPOCHS]:
                self.wrong.append(f"trial {number} has the value {trial.value}, not its last epoch's")

    def _undisturbed(self, number: int, stored: StoredStudy) -> dict[int, float]:
        """The curve of a trial that nothing happens to."""
        recipe = stored.study().first_recipe()
        settings = recipe.training.model_copy(update={"seed": number})
        training = quick.QuickTraining(recipe.model_copy(update={"training": settings}), self._corpus, "cpu")
        curve = {}
        while training.epoch < EPOCHS:
            training.run_epoch(lambda: None)
            curve[training.epoch] = mean_auc(training.validation_scores(), stored.truth)
        return curve


def _work(environment: dict[str, str], url: str, name: str, lease: float, pause: float) -> None:
    os.environ |= environment
    logging.basicConfig(level=logging.CRITICAL)
    worker.MAX_ATTEMPTS = _ATTEMPTS  # type: ignore[attr-defined]
    quick.work(url, name, lease=lease, pause=pause)


@contextmanager
def _continued_later() -> Iterator[Callable[[int, float], None]]:
    """Sends SIGCONT to stopped processes when their time has come, and to all of them in the end."""
    import threading

    timers = []

    def wake(pid: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def later(pid: int, seconds: float) -> None:
        timer = threading.Timer(seconds, wake, args=(pid,))
        timer.start()
        timers.append((timer, pid))

    try:
        yield later
    finally:
        for timer, pid in timers:
            timer.cancel()
            wake(pid)


def main() -> int:
    table = Table("", "SQLite", "PostgreSQL", title=f"8 workers, 200 trials ({machine_line()})", title_justify="left")
    with tempfile.TemporaryDirectory() as folder, PostgresServer() as server:
        os.environ["OFFKEY_CACHE"] = f"{folder}/cache"
        make_corpus(Path(folder, "corpus"), train_clips=6, test_clips=6, seconds=1.0)
        # Pauses are such that each database sees at least fifty faults before its 200 trials are done.
        common: dict[str, Any] = {"root": Path(folder, "corpus"), "workers": 8, "trials": 200, "lease": 3.0}
        sides = [
            Chaos(f"sqlite:///{folder}/chaos.db", pause=0.3, mean_gap=1.2, **common),
            Chaos(server.new_database(), pause=0.3, mean_gap=1.2, server=server, **common),
        ]
        for side in sides:
            side.run()
    for kind in sorted(set().union(*(side.faults for side in sides))):
        table.add_row(kind, *(str(side.faults[kind]) for side in sides))
    table.add_row("faults in all", *(str(side.faults.total()) for side in sides))
    table.add_row("trials taken over by another worker", *(str(side.takeovers) for side in sides))
    table.add_row("seconds", *(f"{side.seconds:.0f}" for side in sides))
    table.add_row("lost, doubled or wrong", *(str(len(side.wrong)) for side in sides))
    console = Console(width=110)
    console.print(table)
    for side in sides:
        for line in side.wrong[:20]:
            console.print(line, style="red")
    return int(any(side.wrong for side in sides))


if __name__ == "__main__":
    sys.exit(main())
