"""One worker of a study on a Ray cluster: an actor that supervises one worker process, with a fleet of one.

Ray starts the actor, and restarts it on another node when its node is lost. The actor itself handles no trials: only
its process does.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import ray

from features.cache import cache_folder
from features.errors import OffkeyError
from search.storage.database import storage_errors
from search.storage.outages import PATIENCE
from search.storage.stored_study import load_stored
from search.storage.study_ledger import StudyLedger
from search.storage.study_storage import StudyStorage
from search.workers.devices import Slot
from search.workers.fleet import Fleet

#: The time between two checks of the process (seconds).
_CHECK_SECONDS = 0.5

#: How long an actor that has ended answers with its reason before it gives its place back (seconds).
_ANSWER_SECONDS = 5.0


@dataclass(frozen=True)
class Orders:
    """The arguments of an actor, which Ray sends from host to host."""

    url: str = field(repr=False)  # may hold a password
    study: str
    slot: int
    root: str  # of the corpus, for nodes without an $OFFKEY_DATA
    artifacts: str | None
    device: str  # "cpu" or "cuda"
    stops_before: int  # requests to stop that the worker does not obey: they were there before it
    verbose: bool = False  # whether the worker writes the debug log, too


@dataclass(frozen=True)
class Report:
    """An actor's report on its worker."""

    ended: bool
    interrupted: bool  # whether it left without giving its trial back
    note: str | None = None  # on what keeps it from working


class RayWorker:
    """The actor: a worker process on the node where Ray puts it, from the actor's start to the study's end."""

    def __init__(self, orders: Orders) -> None:
        """Starts the work. Ray calls this again wherever it restarts the actor, even if nobody follows the search."""
        self._orders = orders
        self._leave = threading.Event()
        self._fleet: Fleet | None = None
        self._error: BaseException | None = None
        self._ended = False
        threading.Thread(target=self._work, name="work", daemon=True).start()

    def report(self) -> Report:
        """Reports on the worker. Raises the error that ended it, if there is one."""
        if self._error is not None:
            raise self._error
        if self._fleet is None:
            return Report(self._ended, interrupted=False)
        note = self._fleet.note
        return Report(self._ended, self._fleet.interrupted, note and f"On {socket.gethostname()}: {note}")

    def drain(self) -> None:
        """Asks the worker to give its trial back and leave."""
        self._leave.set()

    def _work(self) -> None:
        try:
            with storage_errors(self._orders.url):
                self._supervise_a_process()
        except OffkeyError as error:
            self._error = type(error)(f"On {socket.gethostname()}: {error}")
        except BaseException as error:  # the next caller of `report` sees it, with its traceback
            self._error = error
        finally:
            self._ended = True
            time.sleep(_ANSWER_SECONDS)
            ray.kill(ray.get_runtime_context().current_actor)  # for good: returning would leave the place taken

    def _supervise_a_process(self) -> None:
        orders = self._orders
        storage = StudyStorage(orders.url, patience=PATIENCE)
        stored = load_stored(storage, orders.study)
        if StudyLedger(storage, stored).outlook(stops_before=orders.stops_before) != "open":
            return  # the actor got its place after the study's end
        self._fleet = Fleet(
            storage,
            stored,
            Path(os.environ.get("OFFKEY_DATA") or orders.root),
            [Slot(orders.device, None)],  # Ray has set CUDA_VISIBLE_DEVICES
            cache_folder() / "logs" / stored.name,
            orders.artifacts,
            first=orders.slot,
            forgives=False,
            stops_before=orders.stops_before,
            verbose=orders.verbose,
        )
        self._fleet.start()
        try:
            while self._fleet.watch() and not self._leave.wait(_CHECK_SECONDS):
                storage.engine.dispose()  # the server has one connection for each worker process, none for its actor
        finally:
            self._fleet.stop()
