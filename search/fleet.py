"""The worker processes of one host: started, watched, replaced when they die, drained on request.

Processes are started afresh, never forked: a database connection does not survive a fork.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from search import ledger
from search.errors import StudyError
from search.storage import StudyStorage
from search.stored_study import StoredStudy

#: A worker that ends this soon after its start has not worked; after so many such ends the fleet gives up.
_QUICK_DEATH_SECONDS = 20.0
_QUICK_DEATHS = 3

_DRAIN_SECONDS = 30.0


@dataclass
class Fleet:
    """Workers of one study on this host, the cores divided between them."""

    storage: StudyStorage
    stored: StoredStudy
    root: Path  # of the corpus, on this host
    size: int
    log_folder: Path
    draining: bool = False
    _workers: dict[int, _Started] = field(default_factory=dict)  # slot → process
    _quick_deaths: int = 0

    def start(self) -> None:
        """Starts one process for each slot."""
        self.log_folder.mkdir(parents=True, exist_ok=True)
        for slot in range(self.size):
            self._start(slot)

    def watch(self) -> bool:
        """Replaces workers that died and frees their trials; True while any worker runs.

        Raises StudyError with the end of its log if workers keep dying as soon as they start.
        """
        for slot, worker in list(self._workers.items()):
            code = worker.process.poll()
            if code is None:
                continue
            del self._workers[slot]
            with self.storage.engine.begin() as connection:
                ledger.expire(connection, self.stored.study_id, worker.owner)
            if code == 0 or self.draining:
                continue
            # One that was killed is the machine's doing, and its trials' attempts are counted.
            quick = code > 0 and time.monotonic() - worker.started < _QUICK_DEATH_SECONDS
            self._quick_deaths = self._quick_deaths + 1 if quick else 0
            if self._quick_deaths >= min(_QUICK_DEATHS, self.size):
                self.stop()
                raise StudyError(f"Workers end as soon as they start. {worker.log} says:\n{_last_lines(worker.log)}")
            self._start(slot)
        return bool(self._workers)

    def drain(self) -> None:
        """Asks every worker to give its trial back and leave."""
        self.draining = True
        for worker in self._workers.values():
            worker.process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """Drains, waits, and kills what has not left by then."""
        self.drain()
        deadline = time.monotonic() + _DRAIN_SECONDS
        for worker in self._workers.values():
            try:
                worker.process.wait(timeout=max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                break
        self.kill()

    def kill(self) -> None:
        """Ends every worker that is left at once; its trial goes on from its last checkpoint."""
        for worker in self._workers.values():
            worker.process.kill()
            worker.process.wait()
        self.watch()

    def _start(self, slot: int) -> None:
        threads = str(max(1, cores() // self.size))
        log = self.log_folder / f"worker-{slot}.log"
        options = ["--storage", self.storage.url, "--set", f"corpus.root={self.root}", "--parent", str(os.getpid())]
        with log.open("ab") as file:
            process = subprocess.Popen(
                # -P: a models.py in the user's folder is not taken for ours.
                [sys.executable, "-P", "-m", "search.cli", "worker", self.stored.name, *options],
                env=os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,  # Ctrl-C is for the fleet, which drains its workers in order
            )
        owner = f"{socket.gethostname()}:{process.pid}"
        self._workers[slot] = _Started(process=process, owner=owner, log=log, started=time.monotonic())


@dataclass(frozen=True)
class _Started:
    process: subprocess.Popen[bytes]
    owner: str
    log: Path
    started: float


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _last_lines(log: Path, count: int = 8) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-count:])
