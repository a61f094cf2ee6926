"""Asks a worker process to leave: by SIGTERM, Ctrl-C, or the end of the process that started it.

The worker gives its trial back at the next batch and ends with exit code 0. A worker that reaches no batch within 5 s,
because it builds features or waits for the storage, is made to leave.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable

_log = logging.getLogger(__name__)

#: The longest time to a worker's next batch, and then to give its trial back (seconds).
TO_NEXT_BATCH, _TO_RELEASE = 5.0, 2.0

_POLL_SECONDS = 1.0


class Drained(Exception):
    """The worker was asked to stop: it gives its trial back unfinished."""


def drain_on_signals(stop: threading.Event) -> None:
    """Lets SIGTERM and Ctrl-C set `stop`; a second Ctrl-C ends the process at once.

    A second SIGTERM does not: schedulers send one to each process of a job, and the fleet sends one too.
    """
    # A thread receives the signals: Python would run a handler only between two steps of the main thread, which may be
    # in a long step, or in the middle of another handler.
    received, arriving = os.pipe()
    os.set_blocking(arriving, False)
    signal.set_wakeup_fd(arriving, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: None)

    def listen() -> None:
        interrupted = False
        while True:
            (number,) = os.read(received, 1)
            if number == signal.SIGINT and interrupted:
                os._exit(128 + number)
            interrupted |= number == signal.SIGINT
            stop.set()

    threading.Thread(target=listen, name="signals", daemon=True).start()


def drain_without(parent: int, stop: threading.Event) -> None:
    """Sets `stop` when the process that started this one (`parent`) is gone, so that no worker is left behind."""

    def watch() -> None:
        while os.getppid() == parent:
            if stop.wait(_POLL_SECONDS):
                return
        stop.set()

    threading.Thread(target=watch, name="parent", daemon=True).start()


def leave_in_time(stop: threading.Event, release: Callable[[], None]) -> None:
    """Gives the trial back and ends the process 5 s after `stop`, if the process has not ended by then."""

    def leave() -> None:
        stop.wait()
        time.sleep(TO_NEXT_BATCH)
        _log.warning("not at a batch after %.0f s: leaving now", TO_NEXT_BATCH)
        # If the storage is what the worker waits for, this times out, and the lease runs out by itself.
        releasing = threading.Thread(target=release, name="release", daemon=True)
        releasing.start()
        releasing.join(_TO_RELEASE)
        os._exit(0)

    threading.Thread(target=leave, name="leave", daemon=True).start()
