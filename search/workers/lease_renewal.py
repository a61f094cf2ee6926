"""A trial's lease: a thread renews it while the worker is at work."""

from __future__ import annotations

import logging
import threading
import time

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from search.errors import StorageError
from search.storage.hold import Hold
from search.storage.ledger import LeaseLost
from search.storage.outages import StorageAway
from search.workers.devices import device_name, memory_used

_log = logging.getLogger(__name__)

#: Seconds to the next try while the database is away; a third of a lease if that is less.
_RETRY_SECONDS = 1.0


class Lease:
    """The state that a trial's two threads share: one works on the trial, the other renews its lease.

    lost    : set once another worker holds the trial
    batches : the number of batches begun so far, which the worker counts
    """

    def __init__(self, hold: Hold, *, device: str, there_since: float, stop: threading.Event) -> None:
        """The lease sets `stop` if the study's hours are used up, or if workers that have been there since
        `there_since` (by the database's clock) are asked to leave."""
        self.lost = threading.Event()
        self.batches = 0
        self._hold, self._device, self._there_since, self._stop = hold, device, there_since, stop
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _keep(self) -> None:
        """Renews the lease until the work is done or the lease is lost."""
        began, batches = time.monotonic(), 0
        pause = self._hold.lease / 3
        while not self._done.wait(pause):
            pause = self._hold.lease / 3
            now = time.monotonic()
            rate, began, batches = (self.batches - batches) / (now - began), now, self.batches
            vitals = {"device": device_name(self._device), "rate": rate, "memory": memory_used(self._device)}
            try:
                if not self._hold.renew(there_since=self._there_since, **vitals):
                    self._stop.set()
            except LeaseLost:
                self.lost.set()
                return
            except StorageAway:
                pause = min(pause, _RETRY_SECONDS)  # to renew before a waiting worker takes the trial over
            except (SQLAlchemyError, StorageInternalError, StorageError) as error:
                _log.warning("trial %d: its lease could not be renewed, trying again: %s", self._hold.number, error)
