"""The worker processes of one host: started, watched, replaced when they die, drained on request.

Processes are started afresh, never forked: a database connection does not survive a fork.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from search.errors import StudyError
from search.storage.claims import host_name, new_owner, own_slot
from search.storage.lease_rules import KILLED_FOR_MEMORY, MOST_LOST
from search.storage.outages import StorageAway
from search.storage.slots import slot_of
from search.storage.stored_study import StoredStudy
from search.storage.study_ledger import StudyLedger
from search.storage.study_storage import StudyStorage
from search.training.memory_share import share_of_memory
from search.workers.devices import Slot
from search.workers.draining import TO_NEXT_BATCH
from search.workers.killed_for_memory import MemoryWatch
from search.workers.lease_renewal import STALLED
from search.workers.pulse import Pulse
from search.workers.trouble import Trouble, in_one_note

_log = logging.getLogger(__name__)

#: A slot retires after this many workers in a row that ended with an error before they had a trial.
_MOST_STARTS = 3

#: A worker without a pulse is killed after this many leases; so is one that is still there so long after the study's
#: end.
_LEASES_OF_SILENCE = 3

#: The signals of a process that crashed by its own doing. Others come from outside.
_CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)

#: The time that workers get to leave (seconds): less than the ten seconds after which `docker stop` kills.
_DRAIN_SECONDS = TO_NEXT_BATCH + 3.0

#: The time that a killed process gets to end (seconds).
_KILL_SECONDS = 10.0


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
    forgives: bool = False  # what failed on this host before: a person starts this fleet, perhaps after mending it
    verbose: bool = False  # whether workers write the debug log, too
    draining: bool = False
    interrupted: bool = False  # whether a worker left without giving its trial back
    stops_before: int | None = None  # requests to stop before this fleet began; None: before the call to `start`
    _workers: dict[int, _Started] = field(default_factory=dict)  # slot → process
    _starts: dict[int, float] = field(default_factory=dict)  # slot → when to start its next worker (monotonic)
    _troubles: dict[int, Trouble] = field(default_factory=dict)  # slot → deaths since one of its workers ended a trial
    _progress: tuple[int, frozenset[str | None]] | None = None  # of the study when a worker last died
    _kills: int = 0  # since then, without any progress
    _memory: MemoryWatch = field(default_factory=MemoryWatch)
    _next_look: float = 0.0  # when to ask next whether the study is over (monotonic)
    _over_since: float | None = None  # since when it is, as far as is known (monotonic)

    @cached_property
    def ledger(self) -> StudyLedger:
        return StudyLedger(self.storage, self.stored)

    def start(self) -> None:
        """Starts one process for each slot. Raises StudyError if the log folder cannot be created."""
        try:
            self.log_folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StudyError(f"The log folder {self.log_folder} cannot be made: {error.strerror}") from error
        if self.stops_before is None:
            self.stops_before = self.ledger.stops()
        if self.forgives:
            self.ledger.forgive(host_name())
        for slot in range(len(self.slots)):
            self._start(slot)

    def was_stopped(self) -> bool:
        """Whether the study's workers were asked to leave since this fleet began (`offkey stop`)."""
        return self.ledger.is_stopped(stops_before=self.stops_before or 0)

    @property
    def note(self) -> str | None:
        """A note on what keeps workers from working; None if nothing does."""
        return in_one_note([trouble.note(self.first + slot) for slot, trouble in self._troubles.items()])

    def watch(self) -> bool:
        """Replaces workers that died and frees their trials. Returns True while any worker runs or is to be started.

        Raises StudyError with the end of a log if workers keep dying and no trial advances in between.
        """
        self._memory.look()
        self._end_those_that_stand_still()
        for slot, worker in list(self._workers.items()):
            code = worker.code()
            if code is not None:
                del self._workers[slot]
                self._handle_death(slot, worker, code)
        for slot, when in list(self._starts.items()):
            if time.monotonic() >= when:
                del self._starts[slot]
                if self._is_wanted():
                    self._start(slot)
        return bool(self._workers or self._starts)

    def _end_those_that_stand_still(self) -> None:
        """Kills workers without a pulse, and those that do not leave although the study is over."""
        longest = _LEASES_OF_SILENCE * self.storage.lease
        has_long_ended = self._is_over_for(longest)
        for worker in self._workers.values():
            if has_long_ended:
                worker.kill("it was still there long after the study's end")
            elif worker.pulse.silent_seconds() > longest:
                worker.kill(f"its process stood still for {longest:.0f} s")

    def _is_over_for(self, seconds: float) -> bool:
        """Whether no trial has been left for so long, by the looks taken so far."""
        now = time.monotonic()
        if now >= self._next_look and not self.draining:
            self._next_look = now + self.storage.lease
            with suppress(StorageAway), self.storage.impatient():
                is_over = self.ledger.outlook(stops_before=self.stops_before or 0) != "open"
                self._over_since = (self._over_since or now) if is_over else None
        return self._over_since is not None and now - self._over_since > seconds

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
        reason, failed = worker.end(code, killed_for_memory=self._memory.has_killed())
        progress, is_over, tries = self._progress, False, None
        is_at_fault = had_trial = False
        try:
            with self.storage.impatient():
                if self.draining:
                    self.interrupted |= self.ledger.set_free(worker.owner)
                elif failed and code < 0:  # one that ended by itself has said so
                    had_trial = self.ledger.fail(worker.owner, reason, of_a_place=code == -signal.SIGBUS)
                else:
                    self.ledger.expire(worker.owner)
                progress = self.ledger.progress()
                if self.ledger.has_ended_any(worker.owner):
                    self._troubles.pop(slot, None)
                known = self.ledger.failing_slot(worker.owner)
                tries = 0 if known is None else known.failures
                is_at_fault = known is not None and known.is_at_fault(alone=self._is_alone(worker))
                is_over = self.ledger.outlook(stops_before=self.stops_before or 0) in ("over", "too late", "stopped")
        except StorageAway as away:
            _log.warning("the lease of %s was not ended (%s), it runs out", worker.owner, away)
            self.interrupted = True  # it may have left without giving its trial back: nobody knows
        if code == 0 or self.draining:
            self._troubles.pop(slot, None)
            return
        has_hung = code == STALLED or worker.killed is not None
        trouble = Trouble.after(
            self._troubles.get(slot), reason, failed=failed, tries=tries, had_trial=had_trial, has_hung=has_hung
        )
        self._troubles[slot] = trouble
        if is_over:  # the other workers have finished the study
            if trouble.deaths <= _MOST_STARTS and worker.killed is None:
                self._starts[slot] = trouble.again
            return
        if progress != self._progress:
            self._progress, self._kills = progress, 0
        self._kills += not failed
        if is_at_fault or trouble.starts >= _MOST_STARTS:
            self._troubles[slot] = trouble.retired()
            _log.warning("worker %d has retired: %s", self.first + slot, reason)
        else:
            self._starts[slot] = trouble.again
        # A trial that gets its workers killed is given up before the fleet gives up.
        if self._kills > MOST_LOST * len(self.slots) or not (self._workers or self._starts):
            self.stop()
            raise StudyError(self._why_it_ends(worker, has_retired=is_at_fault))

    def _is_alone(self, worker: _Started) -> bool:
        """Whether no other slot is at work, here or elsewhere."""
        return all(slot_of(owner) == slot_of(worker.owner) for owner in self.ledger.at_work())

    def _why_it_ends(self, last: _Started, *, has_retired: bool) -> str:
        name = self.stored.name
        what = "All workers here have retired" if has_retired else "Workers here keep ending and get no trial on"
        return (
            f"{what}. {last.log} says:\n{_last_lines(last.log)}\n"
            "Mend that, then give the same command again: the trials wait. "
            f"`offkey retry {name} --failed` puts back those that were given up."
        )

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
        for slot, worker in list(self._workers.items()):
            with suppress(subprocess.TimeoutExpired):  # one that waits for a disk that is gone cannot be killed
                worker.process.wait(timeout=_KILL_SECONDS)
            del self._workers[slot]
            code = worker.process.poll()
            self._handle_death(slot, worker, -signal.SIGKILL if code is None else code)

    def _start(self, slot: int) -> None:
        number = self.first + slot
        owner = new_owner(own_slot(number))
        log = self.log_folder / f"worker-{number}.log"
        options = ["--set", f"corpus.root={self.root}"]
        options += ["--device", self.slots[slot].device, "--owner", owner, "--parent", str(os.getpid())]
        options += ["--stops-before", str(self.stops_before)]
        memory = share_of_memory(workers=len(self.slots)) if self.slots[slot].device == "cpu" else None
        options += [] if memory is None else ["--memory", str(memory)]
        options += [] if self.artifacts is None else ["--artifacts", self.artifacts]
        options += ["--verbose"] if self.verbose else []
        pulse = Pulse()
        options += ["--pulse", str(pulse.for_worker)]
        with log.open("ab") as file:
            begins = file.tell()
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
                pass_fds=[pulse.for_worker],
                start_new_session=True,  # Ctrl-C reaches the fleet alone, which then drains its workers
            )
        pulse.hand_over()
        self._workers[slot] = _Started(process, owner, log, begins, pulse)
        _log.debug("worker %d: process %d on %s, its log is %s", number, process.pid, self.slots[slot].device, log)


@dataclass
class _Started:
    """A worker's process."""

    process: subprocess.Popen[bytes]
    owner: str
    log: Path
    log_begins: int  # at this byte of the log, which earlier workers of the slot have begun
    pulse: Pulse
    killed: str | None = None  # why the fleet has killed it
    _killed_at: float = 0.0

    def kill(self, why: str) -> None:
        """Kills the process, once."""
        if self.killed is None:
            self.killed, self._killed_at = why, time.monotonic()
            self.process.kill()

    def code(self) -> int | None:
        """The exit code; None while the process runs. One that cannot be killed counts as killed."""
        code = self.process.poll()
        if code is None and self.killed is not None and time.monotonic() - self._killed_at > _KILL_SECONDS:
            return -signal.SIGKILL
        return code

    def end(self, code: int, *, killed_for_memory: bool) -> tuple[str, bool]:
        """Closes the pulse. Returns why the process ended, and whether that tells against its trial or its slot.

        A kill from outside does not; one by the kernel does, if it has killed a process for memory just now.
        """
        self.pulse.close()
        if self.killed is not None:
            return self.killed, True
        if code >= 0:
            return (_reason(self.log, since=self.log_begins) if code else ""), code > 0
        if code == -signal.SIGKILL and killed_for_memory:
            return f"{KILLED_FOR_MEMORY}, as the host's had run out", True
        return f"killed by signal {-code}", -code in _CRASHES


def _reason(log: Path, *, since: int) -> str:
    """The last error in a worker's part of the log, which may have several lines; without one, the last line."""
    lines = _last_lines(log, 30, since=since).splitlines() or ["it logged nothing"]
    first = max((number for number, line in enumerate(lines) if line.startswith("error: ")), default=len(lines) - 1)
    return "\n".join(lines[first:]).removeprefix("error: ")


def _last_lines(log: Path, count: int = 8, *, since: int = 0) -> str:
    """The last lines of a log from this byte on; empty if it cannot be read."""
    try:
        text = log.read_bytes()[since:].decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-count:])
