"""A trial's lease: a thread renews it while its worker gets on.

A trial that gives no sign of life for `search.stall_minutes` hangs: for example in a call to the GPU that never
returns, or in reading from a server that is gone. Its worker gives the trial back, and its process ends. The same
happens to a trial that exceeds `search.trial_minutes` and reaches no batch at which it could end by itself.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from search.errors import StorageError
from search.storage.claims import LeaseLost
from search.storage.hold import Hold
from search.storage.optuna_rows import FAILURE
from search.storage.outages import StorageAway
from search.study.search_settings import STALL_MINUTES
from search.workers.devices import device_name, memory_used

_log = logging.getLogger(__name__)

#: Seconds to the next try while the database is away; a third of a lease if that is less.
_RETRY_SECONDS = 1.0

#: A step that is known to be slow, such as fitting a density, may take so many times as long as others.
SLOWER = 6

#: The exit code of a worker whose trial hung.
STALLED = 75


class Lease:
    """The state that a trial's two threads share: one works on the trial, the other renews its lease.

    lost    : set once another worker holds the trial
    batches : the number of batches begun so far, which the worker counts

    It listens to the trial's signs of life (features.signs_of_life). Until the first one, the trial is in a slow step:
    it imports, and reads the study.
    """

    def __init__(
        self,
        hold: Hold,
        *,
        device: str,
        stops_before: int,
        stop: threading.Event,
        stall_minutes: float = STALL_MINUTES,
        trial_minutes: float | None = None,
        leave: Callable[[int], object] = os._exit,
    ) -> None:
        """The lease sets `stop` if the study's hours are used up, or if workers are asked to leave after
        `stops_before` such requests. It calls `leave` with an exit code if the trial hangs.
        """
        self.lost = threading.Event()
        self.batches = 0
        self._hold, self._device, self._stops_before, self._stop = hold, device, stops_before, stop
        self._stall_minutes, self._trial_minutes, self._leave = stall_minutes, trial_minutes, leave
        self._signs, self._slow_steps, self._at_places = 0, 1, 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def sign(self) -> None:
        if self._signs == 0:
            self._slow_steps -= 1
        self._signs += 1

    def begin_slow_step(self) -> None:
        self._slow_steps += 1

    def end_slow_step(self) -> None:
        self._slow_steps -= 1

    def begin_work_of_a_place(self) -> None:
        self._at_places += 1

    def end_work_of_a_place(self) -> None:
        self._at_places -= 1

    def _keep(self) -> None:
        """Renews the lease until the work is done, or the trial hangs."""
        began, batches, signs, silent = time.monotonic(), 0, 0, 0.0
        pause = self._hold.lease / 3
        while not self._done.wait(pause):
            now = time.monotonic()
            # A host that slept has done no work in that time.
            silent = silent + min(now - began, 2 * self._hold.lease) if self._signs == signs else 0.0
            rate, began, batches = (self.batches - batches) / (now - began), now, self.batches
            signs, pause = self._signs, self._hold.lease / 3
            if (reason := self._why_to_end(silent)) is not None:
                self._end(reason)
                return
            # Without a lease the thread watches on: the process is of no use as long as its trial hangs.
            if not self.lost.is_set():
                pause = self._renew(rate) or pause

    def _renew(self, rate: float) -> float | None:
        """Renews the lease. Returns the seconds to the next try, if it is to come soon."""
        try:
            vitals = {"device": device_name(self._device), "rate": rate, "memory": memory_used(self._device)}
            if not self._hold.renew(stops_before=self._stops_before, **vitals):
                self._stop.set()
        except LeaseLost:
            self.lost.set()
        except StorageAway:
            return min(self._hold.lease / 3, _RETRY_SECONDS)  # to renew before a waiting worker takes the trial over
        except (SQLAlchemyError, StorageInternalError, StorageError, MemoryError) as error:
            _log.warning("trial %d: its lease could not be renewed, trying again: %s", self._hold.number, error)
        return None

    def _why_to_end(self, silent: float) -> str | None:
        """Why the trial is not to go on after so many silent seconds; None if it is."""
        minutes = self._stall_minutes * (SLOWER if self._slow_steps > 0 else 1)
        if silent >= 60 * minutes:
            return f"it hung: no sign of life for {minutes:g} minutes (search.stall_minutes: {self._stall_minutes:g})"
        return None if self.lost.is_set() else over_time(self._hold, self._trial_minutes, grace=self._hold.lease)

    def _end(self, reason: str) -> None:
        """Gives the trial to other workers, or ends it, and ends this process: a thread alone cannot be ended."""
        # As the last line of the log, where the fleet looks for the reason.
        sys.stderr.write(f"error: trial {self._hold.number}: {reason}. This worker ends.\n")
        try:
            if not self.lost.is_set():
                self.lost.set()  # the other thread writes no more
                self._give_back(reason)
        finally:
            self._leave(STALLED)

    def _give_back(self, reason: str) -> None:
        try:
            if over_time(self._hold, self._trial_minutes) is None:
                self._hold.fail(reason, of_a_place=self._at_places > 0)
            else:
                self._hold.finish("failed", values=None, reason=reason, attributes={FAILURE: reason})
        except LeaseLost:
            _log.info("trial %d: another worker had it already", self._hold.number)
        except (StorageAway, SQLAlchemyError, StorageInternalError, StorageError) as error:
            _log.warning("trial %d: its lease was not ended (%s), it runs out", self._hold.number, error)


@contextmanager
def ending_if_it_hangs(what: str, *, leave: Callable[[int], object] = os._exit) -> Iterator[None]:
    """Ends this process if this context takes longer than any step of a trial may. `what` happens in it, for people."""
    minutes = STALL_MINUTES * SLOWER

    def end() -> None:
        sys.stderr.write(f"error: {what} hangs: it has taken {minutes:g} minutes. This worker ends.\n")
        leave(STALLED)

    timer = threading.Timer(60 * minutes, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def over_time(hold: Hold, minutes: float | None, *, grace: float = 0.0) -> str | None:
    """Why the trial is to end, if it has been worked on for longer than that and `grace` seconds; None if it is not."""
    if minutes is None or hold.seconds <= 60 * minutes + grace:
        return None
    return f"took longer than search.trial_minutes: {minutes:g}"
