"""One worker: claims trials of a study and works on them until the budget is met or it is asked to stop.

A worker imports no torch until it has a trial.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING, Any

import optuna
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from features.clips.corpus import Corpus, read_corpus
from features.errors import OffkeyError, StoreError
from search.artifacts.checkpoints import Checkpoints, steps_of
from search.dashboard.note import write_note
from search.errors import StorageError
from search.evaluation.truth import Scores
from search.storage import ledger, optuna_rows
from search.storage.ledger import Claim, LeaseLost
from search.storage.outages import PATIENCE, StorageAway
from search.storage.stored_study import StoredStudy, load_stored, require_same, was_deleted
from search.storage.study_storage import StudyStorage
from search.study.identity import surroundings
from search.validation.views import Steering
from search.workers.lease import Work
from search.workers.placement import device_name, memory_used

if TYPE_CHECKING:
    from search.dashboard.exhibits import Exhibit
    from search.sampling.suggestions import Suggestions
    from search.study.recipe import Recipe
    from search.training.trained import Train, Trained, TrainedModel

_log = logging.getLogger(__name__)

#: Seconds to the second look for a trial while others hold all that are left; the pause grows to a third of a lease.
_POLL_SECONDS = 1.0


Show = Callable[["TrainedModel", Scores], Iterable["Exhibit"]]


def draw(model: TrainedModel, scores: Scores) -> Iterable[Exhibit]:
    """Pictures and sounds of a model with these scores of its validation clips."""
    from search.dashboard.exhibits import exhibits_of  # here: what draws pictures takes a while to load

    return exhibits_of(model, scores)


class Drained(Exception):
    """The worker was asked to stop: the trial is given back unfinished."""


@dataclass
class Worker:
    """One process's work on one study."""

    storage: StudyStorage
    stored: StoredStudy
    steering: Steering
    checkpoints: Checkpoints
    device: str = "cpu"
    stop: threading.Event = field(default_factory=threading.Event)
    owner: str = field(default_factory=lambda: ledger.new_owner(os.getpid()))
    train: Train | None = None  # instead of the real training
    show: Show | None = None  # what a leading trial shows of itself, if anything
    claim: Claim | None = None  # while there is one
    began: float = 0.0  # by the database's clock

    def run(self) -> None:
        """Works until no trial is left, or `stop` is set. Raises StudyError if the study is deleted meanwhile."""
        first = self.stored.tree.get("baseline", {})
        self.began = self.began or self.storage.transact(ledger.now)
        had_trials, pause = False, _POLL_SECONDS
        while not self.stop.is_set():
            claim = self.storage.claim(self.stored.study_id, self.owner, first=first, there_since=self.began)
            if claim is not None:
                self._work_on(claim)
                had_trials, pause = True, _POLL_SECONDS
                continue
            outlook = self.storage.transact(lambda s: ledger.outlook(s, self.stored.study_id, since=self.began))
            if outlook == "deleted":
                raise was_deleted(self.stored.name)
            if outlook == "over":
                for ended in self.storage.transact(lambda s: ledger.uncleared(s, self.stored.study_id)):
                    self._remove_checkpoints(ended)  # whose worker was lost right after it
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

    def _work_on(self, claim: Claim) -> None:
        self.claim = claim
        with self._lease_kept(claim) as work:
            try:
                if claim.attempts > ledger.MAX_ATTEMPTS:
                    self.storage.give_up(claim)
                    _log.warning("trial %d: given up, it lost %d workers", claim.number, ledger.MAX_ATTEMPTS)
                else:
                    self._run_trial(claim, work)
                self.claim = None
                self._remove_checkpoints(claim)
            except Drained:
                self.release()
            except LeaseLost:
                self.storage.forget(claim)
                _log.warning("trial %d: dropped, another worker has taken it over", claim.number)
                if self.storage.transact(lambda session: ledger.is_ended(session, claim)):
                    self._remove_checkpoints(claim)  # what was written too late for the successor to see
            except Exception as error:
                self._abandon(claim, error)
                raise
        self.claim = None

    def _remove_checkpoints(self, claim: Claim) -> None:
        try:
            self.checkpoints.remove(trial=claim.number, token=claim.token)
        except StoreError as error:
            _log.warning("trial %d: its checkpoints were left behind: %s", claim.number, error)
        else:
            self.storage.transact(lambda session: ledger.clear(session, claim))

    def release(self) -> None:
        """Gives the trial at work back, unfinished."""
        claim = self.claim
        if claim is not None:
            try:
                self.storage.release(claim)
            except LeaseLost:
                self.storage.forget(claim)
            else:
                _log.info("trial %d: given back unfinished", claim.number)

    def _abandon(self, claim: Claim, error: Exception) -> None:
        """Ends the lease of a worker that is about to fail, so that nobody has to wait for it to run out."""
        try:
            with self.storage.impatient():
                self.storage.transact(
                    lambda session: ledger.abandon(session, claim, f"{type(error).__name__}: {error}"[:1000])
                )
        except (LeaseLost, StorageAway, StorageError, SQLAlchemyError, StorageInternalError) as later:
            _log.warning("trial %d: its lease was not ended (%s), it runs out", claim.number, later)

    def _run_trial(self, claim: Claim, work: Work) -> None:
        from search.errors import TrialFailure
        from search.training.objective import objective, train_for_real

        _log.info("trial %d: claimed, attempt %d", claim.number, claim.attempts)
        checkpoint = None if claim.checkpoint is None else self.checkpoints.read(claim.checkpoint)
        if checkpoint is not None:
            assert claim.checkpoint is not None
            self.storage.rewind(claim, steps=steps_of(claim.checkpoint))
        if checkpoint is None and claim.token > 1:
            # Parameters that its last worker had not all suggested are suggested anew: a sampler's later numbers
            # depend on its earlier ones.
            settled = self.storage.transact(lambda session: ledger.is_settled(session, claim))
            self.storage.start_over(claim, parameters=not settled)
        trial = self._suggestions.settled_trial(claim)
        epochs: list[Scores] = []
        models: list[TrainedModel] = []

        def before_batch() -> None:
            work.batches += 1
            if work.lost.is_set():
                raise LeaseLost
            if self.stop.is_set():
                raise Drained

        def after_epoch(training: Trained) -> None:
            if training.step is not None:
                truth = self.steering.truth.first(len(epochs[-1]))
                self._suggestions.note_for_pruner(claim, training.step, epochs[-1], truth)
            if not self.storage.has_unsent_reports(claim):
                last = self.storage.checkpoint_in_ledger(claim)
                entry = self.checkpoints.write(training, trial=claim.number, token=claim.token, beside=last)
                if entry is not None and entry != last:
                    self.storage.keep_checkpoint(claim, entry)
                    if training.step is None:  # no report takes it along
                        self.storage.enter_checkpoint(claim)

        def train(recipe: Recipe, corpus: Corpus, device: str) -> TrainedModel:
            models.clear()  # a device may hold one and not two
            models.append((self.train or train_for_real)(recipe, corpus, device))
            return models[0]

        try:
            worth = objective(
                trial,
                self._suggestions.study,
                self.steering,
                device=self.device,
                train=train,
                checkpoint=checkpoint,
                before_batch=before_batch,
                after_epoch=after_epoch,
                on_scores=epochs.append,
            )
        except optuna.TrialPruned:
            value = self.steering.figure(self.stored.objectives[0], epochs[-1])
            self.storage.finish(
                claim, "pruned", values=[value], scores=epochs[-1], attributes=self._attributes(work, epochs[-1])
            )
            _log.info("trial %d: pruned, %s %.4f", claim.number, self.stored.metric_name, value)
        except TrialFailure as failure:
            attributes = self._attributes(work) | {"failure": str(failure)}
            self.storage.finish(claim, "failed", values=None, reason=str(failure), attributes=attributes)
            _log.warning("trial %d: failed: %s", claim.number, failure)
        else:
            values = worth if isinstance(worth, tuple) else (worth,)
            leads = self._leads(trial, values[0])
            self.storage.finish(
                claim,
                "complete",
                values=values,
                scores=epochs[-1],
                attributes=self._attributes(work, epochs[-1]),
                exhibits=self._exhibits(claim, models[0], epochs[-1]) if leads and self.show is not None else None,
            )
            _log.info("trial %d: complete, %s %.4f", claim.number, self.stored.metric_name, values[0])
            if leads:
                self._write_note()

    @cached_property
    def _suggestions(self) -> Suggestions:
        from search.sampling.suggestions import Suggestions  # a worker that waits for a trial stays small

        return Suggestions(self.storage, self.stored)

    def _write_note(self) -> None:
        """Whatever goes wrong costs a line in the log, never the worker."""
        try:
            write_note(self.storage, self.stored, self._suggestions.optuna_study())
        except Exception:
            _log.exception("the study's note could not be written")

    def _attributes(self, work: Work, scores: Scores | None = None) -> dict[str, Any]:
        from search.workers.trial_work import attributes_of

        truth = None if scores is None else self.steering.truth.first(len(scores))
        return attributes_of(work.seconds, self.device, scores, truth)

    def _leads(self, trial: optuna.Trial, value: float) -> bool:
        if any(excess > 0 for excess in trial.constraints.values()):
            return False
        best = self.storage.transact(lambda session: optuna_rows.best_value(session, self.stored.study_id))
        return best is None or value > best

    def _exhibits(self, claim: Claim, model: TrainedModel, scores: Scores) -> dict[str, str]:
        """Uploads a leading trial's exhibits: with folds, those of the last one's model.

        Whatever goes wrong costs a line in the log, never the trial: a place that takes none, a recording that was
        moved away, a GPU without room for a reconstruction.
        """
        from search.dashboard.exhibits import upload

        try:
            assert self.show is not None
            exhibits = self.show(model, scores[self.steering.truth.last_fold])
            return upload(exhibits, self.checkpoints.place, uid=self.stored.uid, number=claim.number)
        except (OffkeyError, OSError) as error:
            _log.warning("trial %d: has no pictures: %s", claim.number, error)
        except Exception:
            _log.exception("trial %d: has no pictures", claim.number)
        return {}

    @contextmanager
    def _lease_kept(self, claim: Claim) -> Iterator[Work]:
        """Renews the lease from a thread, and finds out there when it is lost."""
        work, done = Work(), threading.Event()

        def renew() -> None:
            began, batches = time.monotonic(), 0
            pause = self.storage.lease / 3
            while not done.wait(pause):
                pause = self.storage.lease / 3
                now = time.monotonic()
                rate, began, batches = (work.batches - batches) / (now - began), now, work.batches
                vitals = {"device": device_name(self.device), "rate": rate, "memory": memory_used(self.device)}
                try:
                    with self.storage.impatient():
                        self.storage.transact(lambda session: self._renew(session, claim, vitals))  # noqa: B023
                except LeaseLost:
                    work.lost.set()
                    return
                except StorageAway:
                    pause = min(pause, _POLL_SECONDS)  # to be there before anybody who waits for a trial
                except (SQLAlchemyError, StorageInternalError, StorageError) as error:
                    _log.warning("trial %d: its lease could not be renewed, trying again: %s", claim.number, error)

        thread = threading.Thread(target=renew, name="lease", daemon=True)
        thread.start()
        try:
            yield work
        finally:
            done.set()
            thread.join()

    def _renew(self, session: Session, claim: Claim, vitals: dict[str, Any]) -> None:
        # First, since it may wait for the study's row: the lease begins after that.
        ledger.sign_of_life(session, self.stored.study_id, self.storage.lease)
        ledger.renew(session, claim, self.storage.lease, **vitals)
        if ledger.out_of_time(session, self.stored.study_id):
            self.stop.set()
        if ledger.is_stopped(session, self.stored.study_id, since=self.began):
            self.stop.set()


def join(
    url: str,
    name: str,
    *,
    root: str | None = None,
    device: str = "cpu",
    artifacts: str | None = None,
    lease: float = ledger.LEASE_SECONDS,
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
        began = storage.transact(ledger.now)
    stored = load_stored(storage, name)
    whole = read_corpus(Path(root or stored.root)).for_study(stored.machines)
    require_same(stored, {**stored.identity, **surroundings(whole)})
    checkpoints = Checkpoints(artifacts or stored.artifacts, stored.uid)
    return Worker(
        storage,
        stored,
        stored.steering(whole),
        checkpoints,
        device=device,
        stop=stop or threading.Event(),
        show=draw,
        began=began,
    )
