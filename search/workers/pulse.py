"""The pulse of a worker process: it writes a byte a second to a pipe, as long as its interpreter runs.

A process may stand still as a whole: stopped, or in a call that keeps Python's lock. Then no thread of it can notice
that its trial hangs (search.workers.lease_renewal), but its fleet misses the pulse.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress

_SECONDS = 1.0

#: The longest time between two looks of a fleet that counts as silence (seconds): it may have slept itself.
_LONGEST_LOOK = 5.0


def give_pulse(descriptor: int) -> None:
    """Starts a thread that writes to the pipe until the process ends or nobody reads any more."""
    os.set_blocking(descriptor, False)

    def beat() -> None:
        with suppress(BrokenPipeError):
            while True:
                with suppress(BlockingIOError):  # the pipe is full: its reader is away
                    os.write(descriptor, b".")
                time.sleep(_SECONDS)

    threading.Thread(target=beat, name="pulse", daemon=True).start()


class Pulse:
    """The reading end of a worker's pulse."""

    def __init__(self) -> None:
        """Makes the pipe; `for_worker` is the end that the worker inherits."""
        self._ours, self.for_worker = os.pipe()
        os.set_blocking(self._ours, False)
        self._last_look, self._silent = time.monotonic(), 0.0

    def silent_seconds(self) -> float:
        """For how long no pulse came, by the looks taken so far."""
        now = time.monotonic()
        self._silent += min(now - self._last_look, _LONGEST_LOOK)
        self._last_look = now
        with suppress(BlockingIOError):
            if os.read(self._ours, 65536):
                self._silent = 0.0
        return self._silent

    def hand_over(self) -> None:
        """Closes the worker's end here, once the worker has it."""
        os.close(self.for_worker)

    def close(self) -> None:
        os.close(self._ours)
