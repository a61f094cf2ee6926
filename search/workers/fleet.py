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
from search.workers.draining import TO_NEXT_BATCH
from search.workers.placement import Slot

_log = logging.getLogger(__name__)

#: So many workers may end with an error, or be killed, before the fleet gives up, if no trial gets on in between.
_MOST_ERRORS, _MOST_KILLS = 3, 10

#: A worker that died is replaced after a pause that doubles with each death in its slot (seconds).
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 60.0

#: What a fleet gives its workers to leave: less than the ten seconds after which `docker stop` kills.
_DRAIN_SECONDS = TO_NEXT_BATCH + 3.0

#: Of what a worker said last, in a line (characters).
_LONGEST_REASON = 300


@dataclass(frozen=True)
class Trouble:
    """What befell one slot: its workers died, one after the other, and none had ended a trial."""

    deaths: int
    reason: str  # of the last one, in a line
    again: float  # when the next is started (monotonic)

    @classmethod
    def after(cls, before: Trouble | None, reason: str) -> Trouble:
        """One more death, now."""
        deaths = 1 if before is None else before.deaths + 1
        pause = min(_FIRST_PAUSE * 2 ** min(deaths - 1, 30), _LONGEST_PAUSE)  # a float has room for some thousand
        return cls(deaths, textwrap.shorten(reason, _LONGEST_REASON, placeholder=" …"), time.monotonic() + pause)

    @property
    def is_past(self) -> bool:
        """Whether the next worker has been there for longer than one that cannot work is, as a rule."""
        return time.monotonic() >= self.again + _LONGEST_PAUSE

    def note(self, worker: int) -> str | None:
        """What to tell of it."""
        return None if self.deaths == 1 or self.is_past else f"worker {worker} keeps ending: {self.reason}"


def in_one_note(notes: Sequence[str | None]) -> str | None:
    """The first of the notes, and how many more there are."""
    told = [note for note in notes if note is not None]
    return f"{told[0]} (and {len(told) - 1} more)" if len(told) > 1 else next(iter(told), None)


@dataclass
class Fleet:
    """Workers of one study on this host, one for each slot."""

    storage: StudyStorage
    stored: StoredStudy
    root: Path  # of the corpus, on this host
    slots: Sequence[Slot]
    log_folder: Path
    artifacts: str | None = None  # where checkpoints go, if not where the study's maker wanted them
    first: int = 0  # the number of the first slot's worker
    verbose: bool = False  # whether workers write the debug log, too
    draining: bool = False
    interrupted: bool = False  # some worker left without giving its trial back
    began: float = 0.0  # by the database's clock; 0: when it is started
    _workers: dict[int, _Started] = field(default_factory=dict)  # slot → process
    _starts: dict[int, float] = field(default_factory=dict)  # slot → when to start its next worker (monotonic)
    _troubles: dict[int, Trouble] = field(default_factory=dict)  # slot → since a worker of its own ended a trial
    _progress: tuple[int, frozenset[str | None]] | None = None  # of the study when a worker last died
    _errors: int = 0  # since then, without any progress
    _kills: int = 0

    @cached_property
    def ledger(self) -> StudyLedger:
        return StudyLedger(self.storage, self.stored)

    def start(self) -> None:
        """Starts one process for each slot. Raises StudyError if their logs cannot be written."""
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
        """What keeps workers from working."""
        return in_one_note([trouble.note(self.first + slot) for slot, trouble in self._troubles.items()])

    def watch(self) -> bool:
        """Replaces workers that died and frees their trials; True while any worker runs or is to be started.

        Raises StudyError with the end of a log if workers keep dying and no trial gets on in between.
        """
        for slot, worker in list(self._workers.items()):
            code = worker.process.poll()
            if code is not None:
                del self._workers[slot]
                self._bury(slot, worker, code)
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
            return True  # which waits for it like the others

    def _bury(self, slot: int, worker: _Started, code: int) -> None:
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
            self.interrupted = True  # for all that can be known
        if code == 0 or self.draining:
            self._troubles.pop(slot, None)
            return
        reason = _reason(worker.log) if code > 0 else f"killed by signal {-code}"
        trouble = Trouble.after(self._troubles.get(slot), reason)
        self._troubles[slot] = trouble
        if is_over and trouble.deaths > _MOST_ERRORS:
            return  # others have done what there was to do
        if progress != self._progress:
            self._progress, self._errors, self._kills = progress, 0, 0
        self._errors, self._kills = self._errors + (code > 0), self._kills + (code < 0)
        if self._errors >= _MOST_ERRORS or self._kills >= _MOST_KILLS:
            self.stop()
            raise StudyError(f"Workers keep ending and no trial gets on. {worker.log} says:\n{_last_lines(worker.log)}")
        self._starts[slot] = trouble.again

    def drain(self) -> None:
        """Asks every worker to give its trial back and leave."""
        self.draining = True
        self._starts.clear()
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
                # -P: a models.py in the user's folder is not taken for ours.
                [sys.executable, "-P", "-m", "search.cli", "worker", self.stored.name, *options],
                # The URL may hold a password, and arguments are for everyone to see.
                env=os.environ
                | {"OFFKEY_STORAGE": self.storage.url}
                | self.slots[slot].environment(workers=len(self.slots)),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,  # Ctrl-C is for the fleet, which drains its workers in order
            )
        self._workers[slot] = _Started(process=process, owner=owner, log=log)
        _log.debug("worker %d: process %d on %s, its log is %s", number, process.pid, self.slots[slot].device, log)


@dataclass(frozen=True)
class _Started:
    process: subprocess.Popen[bytes]
    owner: str
    log: Path


def _reason(log: Path) -> str:
    """What the last worker said in its log: an error for the person who runs it may have several lines."""
    lines = _last_lines(log, 30).splitlines() or ["it said nothing"]
    first = max((number for number, line in enumerate(lines) if line.startswith("error: ")), default=len(lines) - 1)
    return "\n".join(lines[first:]).removeprefix("error: ")


def _last_lines(log: Path, count: int = 8) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-count:])
