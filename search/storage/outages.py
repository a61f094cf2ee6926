"""Waits for a database that is away, or raises StorageAway where the caller has better things to do."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from features.signs_of_life import sign_of_life
from search.storage import database

_log = logging.getLogger(__name__)

#: How long a worker waits for a database that is away (seconds): longer than a server's restart or an upgrade takes.
PATIENCE = 900.0

#: How long a search that starts waits for a server that is away (seconds): as long as its restart takes.
_START_PATIENCE = 60.0

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0

T = TypeVar("T")


class StorageAway(Exception):
    """The database does not answer now, and the caller asked not to wait for it."""


#: Tells the user that a search which starts waits for a server; None where no search starts.
_tell: ContextVar[Callable[[str], object] | None] = ContextVar("how to tell of an outage at the start", default=None)


@contextmanager
def waiting_at_the_start(tell: Callable[[str], object]) -> Iterator[None]:
    """Within this context, storages that are opened wait a minute for a server that is away, and tell the user.

    Elsewhere they do not: a mistyped URL is reported at once.
    """
    before = _tell.set(tell)
    try:
        yield
    finally:
        _tell.reset(before)


class Patience:
    """Repeats database calls while the database is away, for up to `patience` seconds."""

    def __init__(self, shown_url: str, patience: float | None) -> None:
        """Without `patience`, a search that starts waits a minute, anything else not at all."""
        self.shown_url, self._tell = shown_url, _tell.get()
        self.patience = patience if patience is not None else 0.0 if self._tell is None else _START_PATIENCE
        self._impatient = threading.local()
        self._outage = ""  # the database's last error message, while it is away
        self._next_try = 0.0  # when the next impatient call may try during an outage (monotonic)
        self._back_since = -math.inf  # when the last outage ended (monotonic)

    def through_outages(self, action: Callable[[], T]) -> T:
        """Returns what `action` returns. Repeats it with growing pauses while the database is away."""
        began, pause = time.monotonic(), _FIRST_PAUSE
        while True:
            impatient = getattr(self._impatient, "now", False)
            if impatient and time.monotonic() < self._next_try:
                raise StorageAway(self._outage)
            try:
                result = action()
            except (SQLAlchemyError, StorageInternalError) as error:
                if not database.is_away(error):
                    raise
                if not impatient and time.monotonic() - began >= self.patience:
                    raise
                self._note_outage(database.reason_of(error), tell=not impatient)
                if impatient:
                    raise StorageAway(self._outage) from error
                sign_of_life()  # whoever waits for a database does not hang
                # Jitter, so that the workers of a fleet do not all come back at the same moment.
                time.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                if self._outage:
                    _log.warning("%s is back", self.shown_url)
                    self._outage, self._next_try, self._back_since = "", 0.0, time.monotonic()
                return result

    @property
    def seconds_since_outage(self) -> float:
        """How long the database has been back, as far as this process knows."""
        return time.monotonic() - self._back_since

    def _note_outage(self, reason: str, *, tell: bool) -> None:
        # One attempt may take as long as a connection's timeout (5 s): training must not wait that long each epoch.
        self._next_try = time.monotonic() + _LONGEST_PAUSE
        if not self._outage:
            in_a_line = f"{self.shown_url} is away ({reason.splitlines()[0]}): waiting for it"
            _log.warning("%s", in_a_line)
            if tell and self._tell is not None:
                self._tell(in_a_line)
        self._outage = reason

    @contextmanager
    def impatient(self) -> Iterator[None]:
        """Within this context, calls of this thread raise StorageAway instead of waiting."""
        before = getattr(self._impatient, "now", False)
        self._impatient.now = True
        try:
            yield
        finally:
            self._impatient.now = before
