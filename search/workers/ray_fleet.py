"""The workers of a study on a Ray cluster: Ray places them, restarts them and makes room for more; see deploy/ray.md.

Each worker is a detached actor (search.workers.ray_worker) with its share of a GPU, named by study and slot. The
process that follows the search only asks the actors for reports: if it is lost, the next one finds the same actors by
name.
"""

from __future__ import annotations

import logging
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray
from ray._private.services import get_ray_address_from_environment
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RaySystemError, RayTaskError
from ray.util import list_named_actors

from features.errors import OffkeyError
from search.errors import MisuseError, StudyError
from search.storage.outages import StorageAway
from search.storage.stored_study import StoredStudy
from search.storage.study_ledger import StudyLedger
from search.storage.study_storage import StudyStorage
from search.workers.draining import TO_NEXT_BATCH
from search.workers.ray_worker import Orders, RayWorker, Report
from search.workers.trouble import Trouble, in_one_note

_NAMESPACE = "offkey"

#: The longest time for a cluster's port to answer (seconds). Ray itself would try for minutes.
_CONNECT_SECONDS = 10.0

#: The time between two questions to all actors (seconds).
_ASK_SECONDS = 1.0

#: An actor that has not answered for this long has no place, or its node is gone (seconds).
_ANSWER_SECONDS = 5.0

#: The time that actors get to drain (seconds): more than their workers get.
_DRAIN_SECONDS = TO_NEXT_BATCH + 5.0

#: The fleet gives up after this many actors gave up while no trial advanced.
_MOST_ERRORS = 3


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Connects to the cluster at `ray://host:10001` or `host:6379`, or to the one of this host (`auto`).

    Raises MisuseError if `address` is none of these, StudyError if Ray cannot be reached there or has another version.
    """
    try:
        # Resolves "auto" first: Ray itself waits for minutes where a cluster used to be.
        _knock(get_ray_address_from_environment(address, None) if address == "auto" else address)
        ray.init(address=address, namespace=_NAMESPACE, log_to_driver=False, logging_level=logging.CRITICAL)
    except (OSError, RuntimeError, ValueError, RayError) as error:
        raise StudyError(f"--on {address}: Ray cannot be used there: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    parts = urlsplit(address if "://" in address else f"gcs://{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if parts.scheme not in ("ray", "gcs") or host is None or port is None:
        raise MisuseError(f"--on must be ray://HOST:10001, HOST:6379 or auto, but got {address!r}")
    try:
        socket.create_connection((host, port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise StudyError(
            f"--on {address}: nothing answers there ({error.strerror or error}). `ray start --head` prints its address."
        ) from error


@dataclass
class RayFleet:
    """The workers of one study on the cluster that this process is connected to."""

    storage: StudyStorage
    stored: StoredStudy
    root: Path  # of the corpus, for nodes without an $OFFKEY_DATA
    workers: int
    gpus: float  # GPUs of each worker: at most 1, or 0 for the CPU
    artifacts: str | None = None
    verbose: bool = False  # whether workers write the debug log, too
    draining: bool = False
    interrupted: bool = False  # whether a worker left without giving its trial back
    stops_before: int = 0  # requests to stop before this fleet began
    _actors: dict[int, Any] = field(default_factory=dict)  # slot → handle
    _questions: dict[int, Any] = field(default_factory=dict)  # slot → the report to come
    _answered: dict[int, float] = field(default_factory=dict)  # slot → its last answer, or its start (monotonic)
    _asked: float = 0.0  # when all actors were last asked (monotonic)
    _notes: dict[int, str | None] = field(default_factory=dict)  # slot → the note of its actor's last report
    _starts: dict[int, float] = field(default_factory=dict)  # slot → when to start its next actor (monotonic)
    _troubles: dict[int, Trouble] = field(default_factory=dict)  # slot → its actors that gave up
    _progress: tuple[int, frozenset[str | None]] | None = None  # of the study when an actor last gave up
    _errors: Counter[int] = field(default_factory=Counter)  # slot → errors since then, without any progress

    @cached_property
    def ledger(self) -> StudyLedger:
        return StudyLedger(self.storage, self.stored)

    def start(self) -> None:
        """Starts an actor for each slot, and takes over actors that an earlier search left at work."""
        self.stops_before = self.ledger.stops()
        self.ledger.forgive(None)
        prefix = self._name("")
        with self._connection():
            there = [int(name.removeprefix(prefix)) for name in list_named_actors() if name.startswith(prefix)]
            for slot in sorted({*range(self.workers), *there}):
                self._start(slot)

    def was_stopped(self) -> bool:
        """Whether the study's workers were asked to leave since this fleet began (`offkey stop`)."""
        return self.ledger.is_stopped(stops_before=self.stops_before)

    @property
    def note(self) -> str | None:
        """A note on what keeps workers from working; None if nothing does."""
        waiting = len(self._waiting())
        kept = f"{waiting} of {len(self._actors)} workers wait for a place in the cluster" if waiting else None
        own = {slot: trouble.note(slot) for slot, trouble in self._troubles.items()}
        ending = in_one_note([self._notes.get(slot) or own.get(slot) for slot in sorted(self._notes.keys() | own)])
        return "; ".join(note for note in (kept, ending) if note is not None) or None

    def watch(self) -> bool:
        """Collects reports and replaces actors that gave up. Returns True while any actor runs or is to be started.

        Raises StudyError if the connection is lost, and the error of an actor if all give up while no trial advances.
        """
        if time.monotonic() - self._asked >= _ASK_SECONDS:
            self._asked = time.monotonic()
            with self._connection():
                self._collect()
                if not self.draining:
                    self._replace()
        return bool(self._actors or self._starts)

    @contextmanager
    def _connection(self) -> Iterator[None]:
        """Raises StudyError and forgets all actors if the connection to the cluster is lost."""
        try:
            yield
        except (ConnectionError, RaySystemError) as error:
            for known in (self._actors, self._questions, self._answered, self._notes, self._starts):
                known.clear()
            raise StudyError(
                f"The connection to the Ray cluster is lost: {error}. Workers that are there go on; "
                "the same command follows them again."
            ) from error

    def _replace(self) -> None:
        """Starts the actors that are due, or ends those that wait for a place if no worker is wanted any more."""
        due = [slot for slot, when in self._starts.items() if time.monotonic() >= when]
        waiting = self._waiting()
        if not due and not waiting:
            return
        is_wanted = self._is_wanted()
        for slot in due:
            del self._starts[slot]
            if is_wanted:
                self._start(slot)
        for slot in [] if is_wanted else waiting:
            self._end(slot)

    def _waiting(self) -> list[int]:
        """The slots whose actors do not answer, because they have no place."""
        now = time.monotonic()
        return [slot for slot, when in self._answered.items() if now - when > _ANSWER_SECONDS]

    def _collect(self) -> None:
        """Collects answers, asks again, ends actors whose worker has ended, and plans their successors."""
        if not self._questions:
            return
        answers, _ = ray.wait(list(self._questions.values()), num_returns=len(self._questions), timeout=0)
        slots = [slot for slot, question in self._questions.items() if question in answers]
        for slot, report in self._reports(slots).items():
            self._answered[slot] = time.monotonic()
            if report is None or report.ended:
                self.interrupted |= report is not None and report.interrupted
                self._end(slot)
                if not self.draining:  # a person ended it, or it ended before the budget was raised
                    self._starts.setdefault(slot, time.monotonic())
            else:
                self._questions[slot] = self._actors[slot].report.remote()
                self._notes[slot] = report.note
                if report.note is None and slot in self._troubles and self._troubles[slot].is_past:
                    del self._troubles[slot]

    def _reports(self, slots: list[int]) -> dict[int, Report | None]:
        """The reports of these slots' actors, by slot; None for an actor that is gone."""
        try:  # all in one message: each takes milliseconds from a client
            return dict(zip(slots, ray.get([self._questions[slot] for slot in slots]), strict=True))
        except RayError:  # at least one of them failed
            return {slot: self._report(slot) for slot in slots}

    def _report(self, slot: int) -> Report | None:
        try:
            report: Report = ray.get(self._questions[slot])
        except ActorUnavailableError:
            return Report(ended=False, interrupted=False)
        except RayActorError as error:
            if error.actor_init_failed:
                raise _not_installed(str(error).strip().splitlines()[-1]) from error
            return None
        except RayTaskError as error:
            # An actor that gave up has drained its fleet and holds no trial; after a bug nobody knows.
            if self.draining:
                return Report(ended=True, interrupted=not isinstance(error.cause, OffkeyError))
            self._give_up(slot, error)
            return None
        return report

    def _give_up(self, slot: int, error: RayTaskError) -> None:
        """Plans the successor of an actor that gave up. Raises its error if all give up while no trial advances."""
        cause = error.cause
        reason = str(cause) if isinstance(cause, OffkeyError) else f"{type(cause).__name__}: {cause}"
        self._troubles[slot] = Trouble.after(self._troubles.get(slot), reason)
        self._starts[slot] = self._troubles[slot].again
        try:
            with self.storage.impatient():
                progress = self.ledger.progress()
        except StorageAway:
            return  # whether trials advance is not known
        if progress != self._progress:
            self._progress = progress
            self._errors.clear()
        self._errors[slot] += 1
        at_work = self._actors.keys() - self._errors.keys() - set(self._waiting())
        if self._errors.total() >= _MOST_ERRORS and not at_work and self._is_wanted():
            self._end(slot)
            raise (cause if isinstance(cause, OffkeyError) else error) from None

    def _is_wanted(self) -> bool:
        """Whether the study needs another worker."""
        try:
            with self.storage.impatient():
                return self.ledger.outlook(stops_before=self.stops_before) == "open"
        except StorageAway:
            return True

    def stop(self) -> None:
        """Drains the actors, waits for those that have a place, and ends those that have not left in time."""
        self.draining = True
        self._starts.clear()
        with self._connection():
            for actor in self._actors.values():
                actor.drain.remote()
            deadline = time.monotonic() + _DRAIN_SECONDS
            while self._actors and time.monotonic() < deadline:
                for slot in self._waiting():
                    self._end(slot)
                self.watch()
                time.sleep(_ASK_SECONDS / 4)
        self.interrupted |= bool(self._actors)
        self.kill()

    def kill(self) -> None:
        """Ends every remaining actor at once; its trial goes on from its last checkpoint when the lease has run out."""
        with self._connection():
            for slot in list(self._actors):
                self._end(slot)

    def _start(self, slot: int) -> None:
        orders = Orders(
            self.storage.url,
            self.stored.name,
            slot,
            str(self.root),
            self.artifacts,
            device="cuda" if self.gpus else "cpu",
            stops_before=self.stops_before,
            verbose=self.verbose,
        )
        actor = ray.remote(RayWorker).options(
            name=self._name(slot),
            get_if_exists=True,
            lifetime="detached",
            num_cpus=1,
            num_gpus=self.gpus,
            max_restarts=-1,
            max_task_retries=-1,  # a question to a restarting actor waits for it
        )
        try:
            self._actors[slot] = actor.remote(orders)
        except ImportError as error:  # raised on the cluster's head when this process is a Ray client
            raise _not_installed(f"{type(error).__name__}: {error}") from error
        self._questions[slot] = self._actors[slot].report.remote()
        self._answered[slot] = time.monotonic()

    def _end(self, slot: int) -> None:
        """Ends an actor for good: Ray does not restart it."""
        ray.kill(self._actors[slot])
        for known in (self._actors, self._questions, self._answered, self._notes):
            known.pop(slot, None)

    def _name(self, slot: int | str) -> str:
        return f"{self.stored.uid}-{slot}"


def _not_installed(reason: str) -> StudyError:
    return StudyError(f"Ray cannot start workers ({reason}). The cluster's head and nodes need Offkey, as it is here.")
