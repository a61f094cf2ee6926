"""Workers, their hosts, disks and databases under faults of every kind, and what is left of their studies.

    python -m benchmarks.chaos [--faults 1000]

Eight workers, four on each of two hosts that are only names here, do quick trials on SQLite and on PostgreSQL while
faults hit them at random: with random settings, and with TPE and Hyperband. A trial's curve depends on its number
alone, so that a trial lost, doubled, or continued wrongly would show. Studies follow one another until there were that
many faults.

Of each study are counted: trials beyond or short of the budget, trials that are still running, curves other than an
undisturbed run's, and trials that were written off. No trial is at fault here, so that none may be.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import secrets
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import psutil
from rich.console import Console
from rich.table import Table
from sqlalchemy import select, text

from benchmarks.chaos_worker import WORKERS_OF_A_HOST, work
from benchmarks.sides import machine_line
from features.clips.synthetic_corpus import make_corpus
from features.store.files import frames_folder
from search.evaluation.metrics import mean_auc
from search.preparation.prepared import prepare
from search.storage.outages import PATIENCE
from search.storage.stored_study import StoredStudy, create_or_join
from search.storage.study_ledger import StudyLedger
from search.storage.study_storage import StudyStorage
from search.storage.tables import TrialRow
from search.study.study_file import study_of_tree
from search.validation.split import blind
from search.workers.trouble import Trouble
from tests.support import quick
from tests.support.servers import PostgresServer, Standby

EPOCHS = 5

#: So many trials at the end of a study are spared new faults.
_LAST = 2

#: What each worker needs, loaded once: a worker that starts must not take most of a core from the others.
_PRELOADED = [
    work.__module__, "librosa.core", "librosa.filters", "psutil", "rich.console", "rich.table", "yaml",
    "search.preparation.prepared", "tests.support.servers",
]  # fmt: skip

#: Exit codes of workers that are part of a fault: killed, hung, or failed with an error.
_EXPECTED = (0, -signal.SIGKILL, 75, 1)


@dataclass
class Chaos:
    """One study under faults."""

    url: str
    root: Path  # of a corpus
    folder: Path  # for what faults say to workers, and for checkpoints
    workers: int
    trials: int
    lease: float  # seconds
    pause: float  # of an epoch (seconds)
    server: PostgresServer | None = None
    standby: Standby | None = None
    sampler: str = "random"
    pruner: str = "none"
    seed: int = 0
    stall: float = 2.0  # after so many leases without a sign of life a trial hangs
    mean_gap: float = 1.0  # between two faults (seconds)
    longest: float = 600.0  # seconds
    faults: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    takeovers: int = 0
    wrong: list[str] = field(default_factory=list)
    _ends: list[threading.Timer] = field(default_factory=list)  # of faults that last for a time
    _processes: list[Any] = field(default_factory=list)
    _owners: dict[int, str] = field(default_factory=dict)  # slot → its worker's name in the ledger
    _troubles: dict[int, Trouble] = field(default_factory=dict)  # slot → deaths since one of its workers ended a trial
    _starts: dict[int, float] = field(default_factory=dict)  # slot → when its next worker starts (monotonic)
    _asked_to_leave: set[int] = field(default_factory=set)  # slots

    def run(self) -> None:
        """Runs the study to its budget; `wrong` says what should not have been."""
        self._random = random.Random(self.seed)
        for name in ("faults", "artifacts"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        storage, stored = self._study()
        self._ledger = ledger = StudyLedger(storage, stored)
        kinds, weights = zip(*self._kinds(), strict=True)
        began = time.monotonic()
        self._processes = [self._start(slot) for slot in range(self.workers)]
        try:
            next_fault = began + self._random.expovariate(1 / self.mean_gap)
            while ledger.unfinished():
                now = time.monotonic()
                if now - began > self.longest:
                    ended, _ = ledger.progress()
                    self.wrong.append(f"{ended} of {self.trials} trials after {self.longest:.0f} s")
                    break
                self._replace_the_dead()
                spared = now - began > self.longest / 2  # a slow machine gets to the end, too
                # Where most are away already, more faults would show no more. Where the last trials are alone, nothing
                # tells a host's fault from theirs.
                is_due = now >= next_fault and not spared and 2 * self._alive() >= self.workers
                if is_due and self.trials - ledger.progress()[0] > _LAST:
                    self._random.choices(kinds, weights)[0]()
                    next_fault = time.monotonic() + self._random.expovariate(1 / self.mean_gap)
                time.sleep(0.05)
            self.seconds = time.monotonic() - began
            self._end_faults()
            for process in self._processes:
                process.join(timeout=60)
                if process.exitcode not in _EXPECTED:
                    self.wrong.append(f"a worker ended with {process.exitcode}")
        finally:
            self._end_faults()
            for process in self._processes:
                process.kill()
                process.join()
        self._check(storage, stored)

    def _alive(self) -> int:
        return sum(process.exitcode is None for process in self._processes)

    def _kinds(self) -> list[tuple[Callable[[], None], int]]:
        """The faults, and how often each comes."""
        anywhere = [
            (self._kill, 6), (self._suspend, 4), (self._hang, 2), (self._break, 1), (self._damage, 1),
            (self._take_artifacts_away, 1), (self._fill_the_disk, 1), (self._set_the_clock_back, 1), (self._sleep, 1),
            (self._kill_a_supervisor, 1),
        ]  # fmt: skip
        servers = [(self._restart, 1), (self._crash, 1), (self._stop_the_server, 1)] if self.server else []
        return [*anywhere, *servers, *([(self._fail_over, 1)] if self.standby else [])]

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
            search={
                "trials": self.trials,
                "pruner": self.pruner,
                "sampler": self.sampler,
                "stall_minutes": self.stall * self.lease / 60,
            },
        )
        prepared = prepare(study_of_tree(tree, origin="chaos"), default_root=None)
        self._corpus = blind(prepared.corpus, prepared.study.first_recipe().validation)
        storage = StudyStorage(self.url, create=True, patience=PATIENCE)
        place = str(self.folder / "artifacts")
        truth = prepared.validation_data.truth
        return storage, create_or_join(storage, prepared.study, prepared.corpus, truth, artifacts=place)

    def _start(self, slot: int) -> Any:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_PRELOADED)
        environment = dict(os.environ) | {"OFFKEY_CHAOS": str(self.folder / "faults")}
        self._owners[slot] = f"host-{slot // WORKERS_OF_A_HOST}:{slot}:{secrets.token_hex(3)}"
        arguments = {"owner": self._owners[slot], "slot": slot, "lease": self.lease, "pause": self.pause}
        process = context.Process(target=work, args=(environment, self.url, "chaos"), kwargs=arguments, daemon=True)
        process.start()
        return process

    def _replace_the_dead(self) -> None:
        """Replaces workers that ended, after pauses that grow, as a fleet does."""
        for slot, process in enumerate(self._processes):
            if process.exitcode is None or (process.exitcode == 0 and slot not in self._asked_to_leave):
                continue
            if slot in self._asked_to_leave:
                self._starts.setdefault(slot, time.monotonic() + self.lease / 2)
            if slot not in self._starts:
                if process.exitcode not in _EXPECTED:
                    self.wrong.append(f"a worker ended with {process.exitcode}")
                before = None if self._ledger.has_ended_any(self._owners[slot]) else self._troubles.get(slot)
                self._troubles[slot] = Trouble.after(before, "it ended")
                self._starts[slot] = self._troubles[slot].again
            if time.monotonic() >= self._starts[slot]:
                del self._starts[slot]
                self._asked_to_leave.discard(slot)
                self._processes[slot] = self._start(slot)

    def _end_faults(self) -> None:
        """Ends the faults that still last."""
        for timer in self._ends:
            if timer.is_alive():
                timer.cancel()
                timer.function()

    def _for(self, leases: tuple[float, float], end: Callable[[], object]) -> None:
        """Ends a fault after so many leases, drawn between these.

        In a thread of its own: the one that makes faults may wait for a database that a stopped worker keeps locked.
        """

        def in_time() -> None:
            with suppress(ProcessLookupError):
                end()

        timer = threading.Timer(self._random.uniform(*leases) * self.lease, in_time)
        timer.daemon = True
        timer.start()
        self._ends.append(timer)

    def _kill(self) -> None:
        if self._signal(signal.SIGKILL) is not None:
            self.faults["worker killed"] += 1

    def _suspend(self) -> None:
        stopped = self._signal(signal.SIGSTOP)
        if stopped is not None:
            self.faults["worker suspended for 0.2 to 3 leases"] += 1
            self._for((0.2, 3.0), lambda: os.kill(stopped, signal.SIGCONT))

    def _kill_a_supervisor(self) -> None:
        """What it does to the workers of its host: each notices it, drains, and comes back with the next supervisor."""
        host = self._random.choice(range(0, self.workers, WORKERS_OF_A_HOST))
        for slot, process in enumerate(self._processes[host : host + WORKERS_OF_A_HOST], start=host):
            with suppress(ProcessLookupError):
                if process.exitcode is None:
                    self._asked_to_leave.add(slot)
                    os.kill(process.pid, signal.SIGTERM)
        self.faults["supervisor killed, whose workers drain"] += 1

    def _hang(self) -> None:
        hang = self.folder / "faults" / f"hang-{self._random.randrange(self.workers)}"
        hang.touch()
        self._for((2.0, 2.0), lambda: hang.unlink(missing_ok=True))  # if its worker was away
        self.faults["batch that never returns"] += 1

    def _break(self) -> None:
        broken = self.folder / "faults" / f"broken-{self._random.randrange(self.workers)}"
        broken.touch()
        self.faults["worker whose every batch raises, for 2 to 6 leases"] += 1
        self._for((2.0, 6.0), lambda: broken.unlink(missing_ok=True))

    def _damage(self) -> None:
        folders = list(frames_folder().iterdir()) if frames_folder().exists() else []
        stores = [folder for folder in folders if folder.is_dir() and folder.suffix != ".partial"]
        if stores:
            file = self._random.choice(stores) / self._random.choice(["frames.npy", "offsets.npy", "store.json"])
            with suppress(OSError):
                file.unlink() if self._random.random() < 0.5 else os.truncate(file, 40)
            self.faults["file of a frame store deleted or cut off"] += 1

    def _take_artifacts_away(self) -> None:
        place, away = self.folder / "artifacts", self.folder / "artifacts-away"
        if not away.exists() and place.exists():
            place.rename(away)
            self.faults["checkpoints away for 0.5 to 2 leases"] += 1
            self._for((0.5, 2.0), lambda: _bring_back(away, place))

    def _fill_the_disk(self) -> None:
        full = self.folder / "faults" / "full"
        full.touch()
        self.faults["disk full for 0.5 to 2 leases"] += 1
        self._for((0.5, 2.0), lambda: full.unlink(missing_ok=True))

    def _set_the_clock_back(self) -> None:
        """As after the database's clock was two hours ahead: what it wrote then lies in the future."""
        hours = 7200
        with suppress(Exception):  # the database may be away at this moment: then nothing has happened
            self._execute(f"UPDATE offkey_trials SET lease_until = lease_until + {hours} WHERE state = 'running'")
            self._execute(f"UPDATE offkey_studies SET last_seen = last_seen + {hours}")
            self.faults["clock set back by two hours"] += 1

    def _execute(self, statement: str) -> None:
        storage = StudyStorage(self.url)
        try:
            with storage.engine.begin() as connection:
                connection.execute(text(statement))
        finally:
            storage.engine.dispose()

    def _sleep(self) -> None:
        for process in self._processes:
            with suppress(ProcessLookupError, psutil.NoSuchProcess):
                os.kill(process.pid, signal.SIGSTOP)
        time.sleep(3 * self.lease)
        for process in self._processes:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)
        self.faults["everything asleep for 3 leases"] += 1

    def _restart(self) -> None:
        if self.server is None:
            return
        self.server.restart("fast")
        self.faults["server restarted"] += 1

    def _crash(self) -> None:
        if self.server is None:
            return
        self.server.restart("immediate")
        self.faults["server crashed and restarted"] += 1

    def _stop_the_server(self) -> None:
        if self.server is None:
            return
        self.server.stop()
        back = time.monotonic() + self._random.uniform(0.5, 2.0) * self.lease
        while time.monotonic() < back:  # whoever trains on meanwhile is not spared
            self._random.choice([self._kill, self._suspend])()
            time.sleep(self.mean_gap / 2)
        self.server.start()
        self.faults["server away for 0.5 to 2 leases"] += 1

    def _fail_over(self) -> None:
        """Once in a study: the primary is lost, and its standby only reads until it is promoted."""
        if self.server is None or self.standby is None:
            return
        self.server.stop()
        time.sleep(self._random.uniform(0.5, 2.0) * self.lease)
        self.standby.promote()
        self.server = None
        self.faults["standby promoted"] += 1

    def _signal(self, number: signal.Signals) -> int | None:
        """Sends a signal to one of the processes that run and are not stopped; returns its PID, None without one."""
        for process in self._random.sample(self._processes, len(self._processes)):
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                if process.exitcode is None and psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
                    os.kill(process.pid, number)
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
            ended = {"complete": "COMPLETE", "pruned": "PRUNED"}.get(state)
            curve = self._undisturbed(trial.number, stored)
            if ended is None or trial.state.name != ended:
                self.wrong.append(f"trial {number} is {state} and {trial.state.name} ({reason})")
            elif trial.intermediate_values != dict(list(curve.items())[: len(trial.intermediate_values)]):
                self.wrong.append(f"trial {number} has the curve {trial.intermediate_values}, not {curve}")
            elif state == "complete" and trial.value != curve[EPOCHS]:
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


def _bring_back(away: Path, place: Path) -> None:
    """Brings a folder back; what was written in its place meanwhile goes into it."""
    while away.exists():
        with suppress(OSError):  # a worker writes there at this moment
            for file in place.iterdir() if place.exists() else ():
                os.replace(file, away / file.name)
            if place.exists():
                place.rmdir()  # not while a worker writes there
            away.rename(place)


#: How the settings of a study are chosen, and which trials are stopped.
SEARCHES = (("random", "none"), ("tpe", "hyperband"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=1000, help="in all")
    asked = parser.parse_args()
    sides: dict[str, list[Chaos]] = {"SQLite": [], "PostgreSQL": []}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["OFFKEY_CACHE"] = f"{folder}/cache"
        make_corpus(Path(folder, "corpus"), train_clips=6, test_clips=6, seconds=1.0)
        common: dict[str, Any] = {"root": Path(folder, "corpus"), "workers": 8, "trials": 100, "lease": 3.0}
        seed = 0
        while sum(chaos.faults.total() for chaosses in sides.values() for chaos in chaosses) < asked.faults:
            for name, chaosses in sides.items():
                sampler, pruner = SEARCHES[seed // 2 % len(SEARCHES)]
                own = Path(folder, str(seed))
                settings = {**common, "folder": own, "seed": seed, "sampler": sampler, "pruner": pruner}
                settings |= {"pause": 0.5, "mean_gap": 0.6, "longest": 1200.0}
                if name == "SQLite":
                    own.mkdir()
                    chaosses.append(Chaos(f"sqlite:///{own}/chaos.db", **settings))
                    chaosses[-1].run()
                else:
                    with PostgresServer() as server, Standby(server) as standby:
                        url = standby.url_of_both(server.new_database())
                        chaosses.append(Chaos(url, server=server, standby=standby, **settings))
                        chaosses[-1].run()
                seed += 1
    return _show(sides)


def _show(sides: dict[str, list[Chaos]]) -> int:
    trials = sum(chaos.trials for chaos in next(iter(sides.values())))
    title = f"8 workers on 2 hosts in name, {trials} trials each, half by TPE with Hyperband ({machine_line()})"
    table = Table("", *sides, title=title, title_justify="left")
    faults = {name: sum((chaos.faults for chaos in chaosses), Counter()) for name, chaosses in sides.items()}
    for kind in sorted(set().union(*faults.values())):
        table.add_row(kind, *(str(of_side[kind]) for of_side in faults.values()))
    table.add_row("faults in all", *(str(of_side.total()) for of_side in faults.values()))
    table.add_row(
        "trials taken over by another worker", *(str(sum(c.takeovers for c in side)) for side in sides.values())
    )
    table.add_row("seconds", *(f"{sum(c.seconds for c in side):.0f}" for side in sides.values()))
    wrong = {name: [line for chaos in side for line in chaos.wrong] for name, side in sides.items()}
    table.add_row("lost, doubled, wrong or written off", *(str(len(lines)) for lines in wrong.values()))
    console = Console(width=110)
    console.print(table)
    for line in [line for lines in wrong.values() for line in lines][:40]:
        console.print(line, style="red")
    return int(any(wrong.values()))


if __name__ == "__main__":
    sys.exit(main())
