"""The worker processes of one host: started, watched, replaced when they die, drained on request.

Processes are started afresh, never forked: a database connection does not survive a fork.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from search.errors import StudyError
from search.storage.ledger import new_owner
from search.storage.outages import StorageAway
from search.storage.stored_study import StoredStudy
from search.storage.study_ledger import StudyLedger
from search.storage.study_storage import StudyStorage
from search.workers.devices import Slot
from search.workers.draining import TO_NEXT_BATCH

_log = logging.getLogger(__name__)

#: The fleet gives up after this many workers ended with an error, or were killed, while no trial advanced.
_MOST_ERRORS, _MOST_KILLS = 3, 10

#: A worker that died is replaced after a pause that doubles with each death in its slot (seconds).
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 60.0

#: The time that workers get to leave (seconds): less than the ten seconds after which `docker stop` kills.
_DRAIN_SECONDS = TO_NEXT_BATCH + 3.0

#: The longest part of a worker's last message that is shown in a line (characters).
_LONGEST_REASON = 300


@dataclass(frozen=True)
class Trouble:
    """Consecutive deaths of the workers of one slot, none of which had ended a trial."""

    deaths: int
    reason: str  # of the last death, in a line
    again: float  # when the next worker is started (monotonic)

    @classmethod
    def after(cls, before: Trouble | None, reason: str) -> Trouble:
        """Adds one death, which happened now."""
        deaths = 1 if before is None else before.deaths + 1
        pause = min(_FIRST_PAUSE * 2 ** min(deaths - 1, 30), _LONGEST_PAUSE)  # 2 ** 1024 would overflow a float
        return cls(deaths, textwrap.shorten(reason, _LONGEST_REASON, placeholder=" …"), time.monotonic() + pause)

    @property
    def is_past(self) -> bool:
        """Whether the next worker has run for a minute: a worker that cannot work usually ends before."""
        return time.monotonic() >= self.again + _LONGEST_PAUSE

    def note(self, worker: int) -> str | None:
        """A note for the user on the worker with this number; None after a single death."""
        return None if self.deaths == 1 or self.is_past else f"worker {worker} keeps ending: {self.reason}"


def in_one_note(notes: Sequence[str | None]) -> str | None:
    """The first of the notes, and how many more there are; None without notes."""
    given = [note for note in notes if note is not None]
    return f"{given[0]} (and {len(given) - 1} more)" if len(given) > 1 else next(iter(given), None)


@dataclass
class Fleet:
    """The workers of one study on this host, one for each slot."""

    storage: StudyStorage
    stored: StoredStudy
    root: Path  # of the corpus, on this host
    slots: Sequence[Slot]
    log_folder: Path
    artifacts: str | None = None  # where checkpoints go; None: where the study says
    first: int = 0  # the number of the first slot's worker
    verbose: bool = False  # whether workers write the debug log, too
    draining: bool = False
    interrupted: bool = False  # whether a worker left without giving its trial back
    began: float = 0.0  # by the database's clock; 0: the time of the call to `start`
    _workers: dict[int, _Started] = field(default_factory=dict)  # slot → process
    _starts: dict[int, float] = field(default_factory=dict)  # slot → when to start its next worker (monotonic)
    _troubles: dict[int, Trouble] = field(default_factory=dict)  # slot → deaths since one of its workers ended a trial
    _progress: tuple[int, frozenset[str | None]] | None = None  # of the study when a worker last died
    _errors: int = 0  # since then, without any progress
    _kills: int = 0

    @cached_property
    def ledger(self) -> StudyLedger:
        return StudyLedger(self.storage, self.stored)

    def start(self) -> None:
        """Starts one process for each slot. Raises StudyError if the log folder cannot be created."""
        try:
            self.log_folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StudyError(f"The log folder {self.log_folder} cannot be made: {error.strerror}") from error
        self.began = self.began or self.storage.now()
        for slot in range(len(self.slots)):
            self._start(slot)

    def was_stopped(self) -> bool:
        """Whether the study's workers were asked to leave since this fleet began (`offkey stop`)."""
        return self.ledger.is_stopped(since=self.began)

    @property
    def note(self) -> str | None:
        """A note on what keeps workers from working; None if nothing does."""
        return in_one_note([trouble.note(self.first + slot) for slot, trouble in self._troubles.items()])

    def watch(self) -> bool:
        """Replaces workers that died and frees their trials. Returns True while any worker runs or is to be started.

        Raises StudyError with the end of a log if workers keep dying and no trial advances in between.
        """
        for slot, worker in list(self._workers.items()):
            code = worker.process.poll()
            if code is not None:
                del self._workers[slot]
                self._handle_death(slot, worker, code)
        for slot, when in list(self._starts.items()):
            if time.monotonic() >= when:
                del self._starts[slot]
                if self._is_wanted():
                    self._start(slot)
        return bool(self._workers or self._starts)

    def _is_wanted(self) -> bool:
        """Whether a worker that died is to be replaced."""
        try:
            with self.storage.impatient():
                return not self.was_stopped()
        except StorageAway:
            return True  # the replacement waits for the database like the other workers

    def _handle_death(self, slot: int, worker: _Started, code: int) -> None:
        """Frees a dead worker's trial and plans its replacement."""
        _log.debug("worker %d: process %d ended with code %d", self.first + slot, worker.process.pid, code)
        progress, is_over = self._progress, False
        try:
            with self.storage.impatient():
                if self.draining:
                    self.interrupted |= self.ledger.set_free(worker.owner)
                else:
                    self.ledger.expire(worker.owner)
                progress = self.ledger.progress()
                if self.ledger.has_ended_any(worker.owner):
                    self._troubles.pop(slot, None)
                is_over = self.ledger.outlook(since=self.began) != "open"
        except StorageAway as away:
            _log.warning("the lease of %s was not ended (%s), it runs out", worker.owner, away)
            self.interrupted = True  # it may have left without giving its trial back: nobody knows
        if code == 0 or self.draining:
            self._troubles.pop(slot, None)
            return
        reason = _reason(worker.log) if code > 0 else f"killed by signal {-code}"
        trouble = Trouble.after(self._troubles.get(slot), reason)
        self._troubles[slot] = trouble
        if is_over and trouble.deaths > _MOST_ERRORS:
            return  # the other workers have finished the study
        if progress != self._progress:
            self._progress, self._errors, self._kills = progress, 0, 0
        self._errors, self._kills = self._errors + (code > 0), self._kills + (code < 0)
        if self._errors >= _MOST_ERRORS or self._kills >= _MOST_KILLS:
            self.stop()
            last = _last_lines(worker.log)
            raise StudyError(f"Workers keep ending and no trial advances. {worker.log} says:\n{last}")
        self._starts[slot] = trouble.again

    def drain(self) -> None:
        """Asks every worker to give its trial back and leave."""
        self.draining = True
        self._starts.clear()
        for worker in self._workers.values():
            worker.process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """Drains the workers, waits for them, and kills those that have not left in time."""
        self.drain()
        deadline = time.monotonic() + _DRAIN_SECONDS
        for worker in self._workers.values():
            try:
                worker.process.wait(timeout=max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                break
        self.kill()

    def kill(self) -> None:
        """Ends every remaining worker at once; its trial goes on from its last checkpoint."""
        for worker in self._workers.values():
            if worker.process.poll() is None:
                worker.process.kill()
            worker.process.wait()
        self.watch()

    def _start(self, slot: int) -> None:
        number = self.first + slot
        owner = new_owner(number)
        log = self.log_folder / f"worker-{number}.log"
        options = ["--set", f"corpus.root={self.root}"]
        options += ["--device", self.slots[slot].device, "--owner", owner, "--parent", str(os.getpid())]
        options += ["--began", str(self.began)]
        options += [] if self.artifacts is None else ["--artifacts", self.artifacts]
        options += ["--verbose"] if self.verbose else []
        with log.open("ab") as file:
            process = subprocess.Popen(
                # -P: Python must not import a models.py of the user's folder in place of ours.
                [sys.executable, "-P", "-m", "search.cli", "worker", self.stored.name, *options],
                # The URL may hold a password, and every user of the host can see arguments.
                env=os.environ
                | {"OFFKEY_STORAGE": self.storage.url}
                | self.slots[slot].environment(workers=len(self.slots)),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,  # Ctrl-C reaches the fleet alone, which then drains its workers
            )
        self._workers[slot] = _Started(process=process, owner=owner, log=log)
        _log.debug("worker %d: process %d on %s, its log is %s", number, process.pid, self.slots[slot].device, log)


@dataclass(frozen=True)
class _Started:
    process: subprocess.Popen[bytes]
    owner: str
    log: Path


def _reason(log: Path) -> str:
    """The last error in a worker's log, which may have several lines; without one, the last line."""
    lines = _last_lines(log, 30).splitlines() or ["it logged nothing"]
    first = max((number for number, line in enumerate(lines) if line.startswith("error: ")), default=len(lines) - 1)
    return "\n".join(lines[first:]).removeprefix("error: ")


def _last_lines(log: Path, count: int = 8) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-count:])
