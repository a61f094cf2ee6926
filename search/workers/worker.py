"""One worker: it claims trials of a study and works on them until the budget is met or it is asked to stop.

A worker does not import torch until it has a trial.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from features.clips.corpus import read_corpus
from features.errors import OffkeyError, StoreError
from features.signs_of_life import heard_by
from search.artifacts.checkpoints import Checkpoints
from search.dashboard.note import write_note
from search.errors import StorageError
from search.storage.claims import LeaseLost, new_owner, own_slot
from search.storage.hold import Hold
from search.storage.lease_rules import LEASE_SECONDS
from search.storage.ledger import Leftover
from search.storage.outages import PATIENCE, StorageAway
from search.storage.stored_study import StoredStudy, load_stored, require_same, was_deleted
from search.storage.study_ledger import StudyLedger
from search.storage.study_storage import StudyStorage
from search.study.identity import surroundings
from search.validation.views import ValidationData
from search.workers.devices import device_name
from search.workers.draining import Drained
from search.workers.lease_renewal import Lease
from search.workers.trial_work import Show, TrialWork, draw

if TYPE_CHECKING:
    from search.sampling.early_end import EarlyEnd
    from search.sampling.suggestions import Suggestions
    from search.training.protocols import Train

_log = logging.getLogger(__name__)

#: The first pause between two claims while other workers hold all remaining trials (seconds). It grows to a third of a
#: lease.
_POLL_SECONDS = 1.0

#: Errors of a disk, a network, the recordings or the database: no trial is at fault.
_OF_PLACES = (OffkeyError, OSError, SQLAlchemyError, StorageInternalError, StorageAway)


@dataclass
class Worker:
    """The work of one process on one study."""

    storage: StudyStorage
    stored: StoredStudy
    validation_data: ValidationData
    checkpoints: Checkpoints
    device: str = "cpu"
    stop: threading.Event = field(default_factory=threading.Event)
    owner: str = ""  # its name in the ledger; default: one of its device
    train: Train | None = None  # instead of the real training
    show: Show | None = None  # draws a leading trial's exhibits, if there are any
    hold: Hold | None = None  # on the trial at work, if there is one
    leave: Callable[[int], object] = os._exit  # ends the process of a trial that hangs
    stops_before: int | None = None  # requests to stop before this worker came; None: before the call to `run`

    def __post_init__(self) -> None:
        self.owner = self.owner or new_owner(own_slot(device_name(self.device)))

    @cached_property
    def ledger(self) -> StudyLedger:
        return StudyLedger(self.storage, self.stored)

    @cached_property
    def suggestions(self) -> Suggestions:
        from search.sampling.suggestions import Suggestions  # a worker that waits for a trial stays small

        return Suggestions(self.storage, self.stored)

    @cached_property
    def _early_end(self) -> EarlyEnd:
        from search.sampling.early_end import EarlyEnd

        return EarlyEnd(self.stored, self.ledger)

    def run(self) -> None:
        """Works until no trial is left, or `stop` is set. Raises StudyError if the study is deleted meanwhile."""
        first = self.stored.tried_first
        if self.stops_before is None:
            self.stops_before = self.ledger.stops()
        had_trials, pause = False, _POLL_SECONDS
        while not self.stop.is_set():
            hold = self.ledger.claim(self.owner, first=first, stops_before=self.stops_before)
            if hold is not None:
                self.work_on(hold)
                had_trials, pause = True, _POLL_SECONDS
                continue
            outlook = self.ledger.outlook(stops_before=self.stops_before)
            if outlook == "deleted":
                raise was_deleted(self.stored.name)
            if outlook == "too late":
                _log.info("no trial is expected to end within what is left of the study's hours: leaving")
            if outlook in ("over", "too late"):
                for left in self.ledger.uncleared():
                    self._remove_checkpoints(left)  # the worker that ended this trial was lost right afterwards
                if had_trials:  # a worker that never had a trial would import torch just for the note
                    self._write_note()
                return
            if outlook == "stopped":
                self.stop.set()
            else:  # another worker may be lost, and its trial come free
                self._rest(pause)
                pause = min(2 * pause, self.storage.lease / 3)

    def _rest(self, seconds: float) -> None:
        """Waits for half of `seconds` to all of them, so that workers that began to wait together ask one by one."""
        until = time.monotonic() + SystemRandom().uniform(seconds / 2, seconds)
        # sleep, not Event.wait: a signal that arrives inside Event.wait finds the event's lock taken.
        while not self.stop.is_set() and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _POLL_SECONDS))

    def work_on(self, hold: Hold) -> None:
        """Trains a claimed trial, and ends it or gives it back."""
        self.hold = hold
        with self._lease(hold) as lease, heard_by(lease):
            try:
                if hold.is_to_be_given_up():
                    hold.give_up()
                    _log.warning("trial %d: given up, it lost %d workers", hold.number, hold.attempts - 1)
                elif self._trial_work(hold, lease).run():
                    self._write_note()
                self._end_if_enough()
                self.hold = None
                self._remove_checkpoints(hold)
            except Drained:
                self.release()
            except LeaseLost:
                hold.forget()
                _log.warning("trial %d: dropped, another worker has taken it over", hold.number)
                if hold.is_ended():
                    self._remove_checkpoints(hold)  # those written too late for the next holder to remove
            except Exception as error:
                self._fail(hold, error)
                raise
        self.hold = None

    def _lease(self, hold: Hold) -> Lease:
        limits = self.stored.search
        return Lease(
            hold,
            device=self.device,
            stops_before=self.stops_before or 0,
            stop=self.stop,
            stall_minutes=limits.longest_silence,
            trial_minutes=limits.trial_minutes,
            leave=self.leave,
        )

    def _end_if_enough(self) -> None:
        """Ends the study if its trials show that enough is known, and if it is to end itself then."""
        if self.stored.may_end_itself and self.ledger.exists():
            self._early_end.end_if_enough(self.suggestions.optuna_study().get_trials(deepcopy=False))

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

    def _fail(self, hold: Hold, error: Exception) -> None:
        """Gives the trial of a worker that is about to fail back, so that no other worker has to wait for it."""
        try:
            of_a_place = isinstance(error, _OF_PLACES)
            hold.fail(f"{type(error).__name__}: {error}"[:1000], of_a_place=of_a_place)
        except (LeaseLost, StorageAway, StorageError, SQLAlchemyError, StorageInternalError) as later:
            _log.warning("trial %d: its lease was not ended (%s), it runs out", hold.number, later)

    def _write_note(self) -> None:
        """Writes the dashboard's note on the study. Any error is logged; it never stops the worker."""
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
    stops_before: int | None = None,
) -> Worker:
    """Creates a worker for a stored study.

    root      : the folder of the clips (default: the study's own)
    artifacts : the folder or bucket of the checkpoints (default: the study's own)
    stops_before : the worker obeys an `offkey stop` after so many of them (default: one that comes from now on)

    Raises StudyError, which names every difference, if data or versions are not those of the study.
    """
    storage = StudyStorage(url, lease=lease, patience=patience)
    stored = load_stored(storage, name)
    if stops_before is None:  # before the recordings are read, which may take minutes: a stop in between counts
        stops_before = StudyLedger(storage, stored).stops()
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
        stops_before=stops_before,
    )
