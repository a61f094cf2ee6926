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

#: So many workers may end with an error, or be killed, before the fleet gives up, if no trial ends in between.
_MOST_ERRORS, _MOST_KILLS = 3, 10

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
    _deaths: int = 0  # since a trial last ended
    _ended_trials: int = 0

    def start(self) -> None:
        """Starts one process for each slot. Raises StudyError if their logs cannot be written."""
        try:
            self.log_folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StudyError(f"The log folder {self.log_folder} cannot be made: {error.strerror}") from error
        for slot in range(self.size):
            self._start(slot)

    def watch(self) -> bool:
        """Replaces workers that died and frees their trials; True while any worker runs.

        Raises StudyError with the end of a log if workers keep dying and no trial ends in between.
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
            ended = self._count_ended_trials()
            self._deaths = self._deaths + 1 if ended == self._ended_trials else 1
            self._ended_trials = ended
            if self._deaths >= (_MOST_ERRORS if code > 0 else _MOST_KILLS):
                self.stop()
                raise StudyError(
                    f"Workers keep ending and no trial does. {worker.log} says:\n{_last_lines(worker.log)}"
                )
            self._start(slot)
        return bool(self._workers)

    def _count_ended_trials(self) -> int:
        with self.storage.engine.connect() as connection:
            return ledger.ended_trials(connection, self.stored.study_id)

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
        self._workers[slot] = _Started(process=process, owner=owner, log=log)


@dataclass(frozen=True)
class _Started:
    process: subprocess.Popen[bytes]
    owner: str
    log: Path


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _last_lines(log: Path, count: int = 8) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-count:])
