"""One worker: claims trials of a study and works on them until the budget is met or it is asked to stop.

A worker imports no torch until it has a trial.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import optuna
from sqlalchemy.exc import SQLAlchemyError

from features.corpus import Corpus, read_corpus
from features.store import cache_folder
from search import ledger
from search.evaluation import Scores, mean_auc
from search.ledger import Claim, LeaseLost
from search.split import blind
from search.storage import StudyStorage
from search.stored_study import StoredStudy, load_stored, require_same, surroundings

if TYPE_CHECKING:
    from search.study_file import Study

_log = logging.getLogger("offkey.worker")

#: Seconds between looks for a trial while others hold all that are left.
_POLL_SECONDS = 1.0

#: The name of the constraint that tells the sampler of settings that failed.
FAILED = "failed"


class Drained(Exception):
    """The worker was asked to stop: the trial is given back unfinished."""


@dataclass
class Worker:
    """One process's work on one study."""

    storage: StudyStorage
    stored: StoredStudy
    corpus: Corpus  # blinded
    device: str = "cpu"
    lease: float = ledger.LEASE_SECONDS
    stop: threading.Event = field(default_factory=threading.Event)
    owner: str = field(default_factory=lambda: f"{socket.gethostname()}:{os.getpid()}")

    def run(self) -> None:
        """Works until no trial is left, or `stop` is set."""
        first = self.stored.tree.get("baseline", {})
        while not self.stop.is_set():
            claim = self.storage.claim(self.stored.study_id, self.owner, first=first, lease=self.lease)
            if claim is not None:
                self._work_on(claim)
            elif self._is_over():
                return
            else:
                # A worker that holds one of the last trials may be lost. Slept, not waited for: a signal that
                # arrives inside Event.wait finds the event's lock taken.
                time.sleep(_POLL_SECONDS)

    def _is_over(self) -> bool:
        with self.storage.engine.connect() as connection:
            return not ledger.unfinished(connection, self.stored.study_id) or ledger.out_of_time(
                connection, self.stored.study_id
            )

    def _work_on(self, claim: Claim) -> None:
        with self._lease_kept(claim) as lost:
            try:
                try:
                    self._run_trial(claim, lost)
                except Drained:
                    self.storage.release(claim)
                    _log.info("trial %d: given back unfinished", claim.number)
            except LeaseLost:
                self.storage.forget(claim)
                _log.warning("trial %d: dropped, another worker has taken it over", claim.number)

    def _run_trial(self, claim: Claim, lost: threading.Event) -> None:
        import torch

        from search.objective import objective
        from search.training import TrialFailure

        trial = self._trial_of(claim)
        checkpoint = checkpoint_path(self.stored, claim.number)
        epochs: list[Scores] = []

        def before_batch() -> None:
            if lost.is_set():
                raise LeaseLost
            if self.stop.is_set():
                raise Drained

        _log.info("trial %d: claimed, attempt %d", claim.number, claim.attempts)
        try:
            value = objective(
                trial,
                self._study,
                self.corpus,
                device=torch.device(self.device),
                checkpoint=checkpoint,
                before_batch=before_batch,
                on_scores=epochs.append,
            )
        except optuna.TrialPruned:
            value = mean_auc(epochs[-1], self.stored.truth)
            self.storage.finish(claim, "pruned", value=value, scores=epochs[-1])
            _log.info("trial %d: pruned, AUC %.4f", claim.number, value)
        except TrialFailure as failure:
            trial.set_constraint(FAILED, 1.0)
            self.storage.finish(claim, "failed", value=None, reason=str(failure))
            _log.warning("trial %d: failed: %s", claim.number, failure)
        else:
            self.storage.finish(claim, "complete", value=value, scores=epochs[-1])
            _log.info("trial %d: complete, AUC %.4f", claim.number, value)
        checkpoint.unlink(missing_ok=True)

    @cached_property
    def _study(self) -> Study:
        return self.stored.study()

    @cached_property
    def _optuna_study(self) -> optuna.Study:
        from search.sampling import pruner_for

        pruner = pruner_for(self._study.search, max_epochs=self._study.max_epochs)
        return optuna.load_study(study_name=self.stored.name, storage=self.storage, pruner=pruner)

    def _trial_of(self, claim: Claim) -> optuna.Trial:
        """The trial as its last worker left it: what was suggested is suggested again, reports go on."""
        from search.sampling import sampler_for

        self._optuna_study.sampler = sampler_for(self._study, claim.number)
        self._optuna_study.get_trials(deepcopy=False)  # Optuna's cache takes parameters only of trials it has read
        return optuna.Trial(self._optuna_study, claim.trial_id)

    @contextmanager
    def _lease_kept(self, claim: Claim) -> Iterator[threading.Event]:
        """Renews the lease from a thread; the event is set when it turns out to be lost."""
        lost, done = threading.Event(), threading.Event()

        def renew() -> None:
            while not done.wait(self.lease / 3):
                try:
                    with self.storage.engine.begin() as connection:
                        ledger.renew(connection, claim, self.lease)
                        ledger.sign_of_life(connection, self.stored.study_id, self.lease)
                        if ledger.out_of_time(connection, self.stored.study_id):
                            self.stop.set()
                except LeaseLost:
                    lost.set()
                    return
                except SQLAlchemyError as error:
                    _log.warning("trial %d: its lease could not be renewed, trying again: %s", claim.number, error)

        thread = threading.Thread(target=renew, name="lease", daemon=True)
        thread.start()
        try:
            yield lost
        finally:
            done.set()
            thread.join()


def checkpoint_path(stored: StoredStudy, number: int) -> Path:
    """Where this host keeps a trial's checkpoint."""
    return cache_folder() / "checkpoints" / stored.uid / f"{number}.pt"


def join(url: str, name: str, *, root: str | None = None, device: str = "cpu") -> Worker:
    """A worker on a stored study, with the clips below `root` (default: where the study's maker had them).

    Raises StudyError naming what differs if data or versions are not those of the study.
    """
    storage = StudyStorage(url)
    stored = load_stored(storage, name)
    whole = read_corpus(Path(root or stored.root)).of_machines(stored.machines)
    whole.require_readable()
    require_same(stored, {**stored.identity, **surroundings(whole)})
    return Worker(storage, stored, blind(whole, stored.validation), device=device)


def drain_on_signals(worker: Worker) -> None:
    """SIGTERM and Ctrl-C give the worker's trial back at the next batch, unfinished; a second one ends it at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        if worker.stop.is_set():
            os._exit(128 + number)
        worker.stop.set()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)


def drain_without(parent: int, worker: Worker) -> None:
    """Drains the worker when the process that started it is gone, so that no fleet is left behind."""

    def watch() -> None:
        while os.getppid() == parent:
            if worker.stop.wait(_POLL_SECONDS):
                return
        worker.stop.set()

    threading.Thread(target=watch, name="parent", daemon=True).start()
