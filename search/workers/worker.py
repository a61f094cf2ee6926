"""One worker: claims trials of a study and works on them until the budget is met or it is asked to stop.

A worker imports no torch until it has a trial.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from features.clips.corpus import read_corpus
from features.errors import StoreError
from search.artifacts.checkpoints import Checkpoints
from search.dashboard.note import write_note
from search.errors import StorageError
from search.storage.hold import Hold
from search.storage.ledger import LEASE_SECONDS, MAX_ATTEMPTS, LeaseLost, Leftover, new_owner
from search.storage.outages import PATIENCE, StorageAway
from search.storage.stored_study import StoredStudy, load_stored, require_same, was_deleted
from search.storage.study_ledger import StudyLedger
from search.storage.study_storage import StudyStorage
from search.study.identity import surroundings
from search.validation.views import ValidationData
from search.workers.draining import Drained
from search.workers.lease import Lease
from search.workers.trial_work import Show, TrialWork, draw

if TYPE_CHECKING:
    from search.sampling.suggestions import Suggestions
    from search.training.protocols import Train

_log = logging.getLogger(__name__)

#: Seconds to the second look for a trial while others hold all that are left; the pause grows to a third of a lease.
_POLL_SECONDS = 1.0


@dataclass
class Worker:
    """One process's work on one study."""

    storage: StudyStorage
    stored: StoredStudy
    validation_data: ValidationData
    checkpoints: Checkpoints
    device: str = "cpu"
    stop: threading.Event = field(default_factory=threading.Event)
    owner: str = field(default_factory=lambda: new_owner(os.getpid()))
    train: Train | None = None  # instead of the real training
    show: Show | None = None  # what a leading trial shows of itself, if anything
    hold: Hold | None = None  # while there is one
    began: float = 0.0  # by the database's clock

    @cached_property
    def ledger(self) -> StudyLedger:
        return StudyLedger(self.storage, self.stored)

    @cached_property
    def suggestions(self) -> Suggestions:
        from search.sampling.suggestions import Suggestions  # a worker that waits for a trial stays small

        return Suggestions(self.storage, self.stored)

    def run(self) -> None:
        """Works until no trial is left, or `stop` is set. Raises StudyError if the study is deleted meanwhile."""
        first = self.stored.tree.get("baseline", {})
        self.began = self.began or self.storage.now()
        had_trials, pause = False, _POLL_SECONDS
        while not self.stop.is_set():
            hold = self.ledger.claim(self.owner, first=first, there_since=self.began)
            if hold is not None:
                self.work_on(hold)
                had_trials, pause = True, _POLL_SECONDS
                continue
            outlook = self.ledger.outlook(since=self.began)
            if outlook == "deleted":
                raise was_deleted(self.stored.name)
            if outlook == "over":
                for left in self.ledger.uncleared():
                    self._remove_checkpoints(left)  # whose worker was lost right after it
                if had_trials:  # else one that never needed torch would load it for this
                    self._write_note()
                return
            if outlook == "stopped":
                self.stop.set()
            else:  # a worker that holds one of the last trials may be lost
                self._rest(pause)
                pause = min(2 * pause, self.storage.lease / 3)

    def _rest(self, seconds: float) -> None:
        """Lets so much time pass, or as little as half of it: workers that began to wait at once do not ask at once."""
        until = time.monotonic() + SystemRandom().uniform(seconds / 2, seconds)
        # Slept, not waited for: a signal that arrives inside Event.wait finds the event's lock taken.
        while not self.stop.is_set() and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _POLL_SECONDS))

    def work_on(self, hold: Hold) -> None:
        """Trains a trial that was claimed, and ends it or gives it back."""
        self.hold = hold
        with Lease(hold, device=self.device, there_since=self.began, stop=self.stop) as lease:
            try:
                if hold.attempts > MAX_ATTEMPTS:
                    hold.give_up()
                    _log.warning("trial %d: given up, it lost %d workers", hold.number, MAX_ATTEMPTS)
                elif self._trial_work(hold, lease).run():
                    self._write_note()
                self.hold = None
                self._remove_checkpoints(hold)
            except Drained:
                self.release()
            except LeaseLost:
                hold.forget()
                _log.warning("trial %d: dropped, another worker has taken it over", hold.number)
                if hold.is_ended():
                    self._remove_checkpoints(hold)  # what was written too late for the successor to see
            except Exception as error:
                self._abandon(hold, error)
                raise
        self.hold = None

    def _trial_work(self, hold: Hold, lease: Lease) -> TrialWork:
        return TrialWork(
            hold,
            lease,
            self.ledger,
            self.stored,
            self.suggestions,
            self.validation_data,
            self.checkpoints,
            device=self.device,
            stop=self.stop,
            train=self.train,
            show=self.show,
        )

    def _remove_checkpoints(self, trial: Hold | Leftover) -> None:
        try:
            self.checkpoints.remove(trial=trial.number, token=trial.token)
        except StoreError as error:
            _log.warning("trial %d: its checkpoints were left behind: %s", trial.number, error)
        else:
            self.ledger.clear(trial.trial_id)

    def release(self) -> None:
        """Gives the trial at work back, unfinished."""
        hold = self.hold
        if hold is not None:
            try:
                hold.release()
            except LeaseLost:
                hold.forget()
            else:
                _log.info("trial %d: given back unfinished", hold.number)

    def _abandon(self, hold: Hold, error: Exception) -> None:
        """Ends the lease of a worker that is about to fail, so that nobody has to wait for it to run out."""
        try:
            hold.abandon(f"{type(error).__name__}: {error}"[:1000])
        except (LeaseLost, StorageAway, StorageError, SQLAlchemyError, StorageInternalError) as later:
            _log.warning("trial %d: its lease was not ended (%s), it runs out", hold.number, later)

    def _write_note(self) -> None:
        """Whatever goes wrong costs a line in the log, never the worker."""
        try:
            write_note(self.storage, self.stored, self.suggestions.optuna_study())
        except Exception:
            _log.exception("the study's note could not be written")


def join(
    url: str,
    name: str,
    *,
    root: str | None = None,
    device: str = "cpu",
    artifacts: str | None = None,
    lease: float = LEASE_SECONDS,
    patience: float = PATIENCE,
    stop: threading.Event | None = None,
    began: float | None = None,
) -> Worker:
    """A worker on a stored study, with the clips below `root` (default: where the study's maker had them), and
    checkpoints in `artifacts` (default: where its maker wanted them). It heeds an `offkey stop` from when it `began`
    (by the database's clock; default: now).

    Raises StudyError naming what differs if data or versions are not those of the study.
    """
    storage = StudyStorage(url, lease=lease, patience=patience)
    if began is None:  # before the recordings are read: that may take minutes, in which a stop may come
        began = storage.now()
    stored = load_stored(storage, name)
    whole = read_corpus(Path(root or stored.root)).for_study(stored.machines)
    require_same(stored, {**stored.identity, **surroundings(whole)})
    checkpoints = Checkpoints(artifacts or stored.artifacts, stored.uid)
    return Worker(
        storage,
        stored,
        stored.validation_data(whole),
        checkpoints,
        device=device,
        stop=stop or threading.Event(),
        show=draw,
        began=began,
    )
