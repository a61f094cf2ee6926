"""A worker's hold on a trial: all that a worker may do with the trial that it has claimed.

Every write is fenced: it raises LeaseLost and changes nothing once another worker has taken the trial over. A report
does not wait for a database that is away: the hold keeps it and sends it before the next write, so that training goes
on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from models.scoring.combination import Scales
from models.scoring.scores import Scores
from search.storage import ledger, optuna_rows, slots, study_rows
from search.storage.claims import Claim, LeaseLost
from search.storage.lease_rules import KILLED_FOR_MEMORY, LOST, MOST_FAILURES, MOST_LOST
from search.storage.outages import StorageAway
from search.storage.study_storage import StudyStorage
from search.study.taken_variant import TakenVariant

_log = logging.getLogger(__name__)


class Hold:
    """A trial that this worker has claimed, until the trial is ended, given back or lost.

    trial_id   : Optuna's ID of the trial, unique in the database
    number     : the trial's number in its study
    token      : the fencing token, which grows with each claim of the trial
    attempts   : workers since the last checkpoint, this one included
    failures   : of the workers before this one, those that failed
    checkpoint : the ledger's entry of the checkpoint to resume at; None if there is none
    remaining  : what was left of the budget, if the trial began with this claim
    """

    def __init__(self, storage: StudyStorage, claim: Claim) -> None:
        """Registers the hold as the trial's guard in the storage."""
        self.trial_id, self.number, self.token = claim.trial_id, claim.number, claim.token
        self.attempts, self.failures, self.checkpoint = claim.attempts, claim.failures, claim.checkpoint
        self.remaining = claim.remaining
        self._may_be_at_fault = claim.may_be_at_fault  # until this slot has got a trial on
        self._began = time.monotonic()
        self._storage, self._claim = storage, claim
        self._unsent: dict[int, float] = {}  # epoch → reported value
        self._with_reports: dict[str, Any] = {}  # the ledger's columns to write together with them
        self._entered: str | None = None  # the checkpoint in the ledger, if this hold entered it
        self._is_unsure = False  # whether the ledger may refer to the kept checkpoint, or to the one before
        storage.guards[self.trial_id] = self

    @property
    def lease(self) -> float:
        """How long the hold lasts without a renewal (seconds)."""
        return self._storage.lease

    @property
    def patience(self) -> float:
        """How long the trial waits for a database, or another place that it depends on, while it is away (seconds)."""
        return self._storage.patience

    @property
    def seconds(self) -> float:
        """How long workers have worked on the trial, this one included, as far as the storage knows.

        The storage learns it with each renewal, and when the trial is given back or ended: what a killed worker did
        since its last renewal does not count.
        """
        return self._claim.seconds + time.monotonic() - self._began

    def renew(self, *, stops_before: int, **vitals: Any) -> bool:
        """Extends the lease and enters the worker's `vitals`. Returns whether the worker may go on.

        It may not if the study's hours are used up, or if workers were asked to leave since there had been
        `stops_before` requests to. Does not wait for a database that is away: raises StorageAway.
        """
        study, lease = self._claim.study, self._storage.lease

        def write(session: Session) -> bool:
            # First, because it may wait for the study's row: the lease begins after that.
            study_rows.sign_of_life(session, study, lease)
            ledger.renew(session, self._claim, lease, **vitals)
            self._note_seconds(session)
            is_over = study_rows.out_of_time(session, study)
            return not study_rows.is_stopped(session, study, stops_before=stops_before) and not is_over

        with self._storage.impatient():
            return self._storage.transact(write)

    def is_settled(self) -> bool:
        """Whether the trial has all its parameters."""
        return self._storage.transact(lambda session: ledger.is_settled(session, self._claim))

    def settle(self, digest: str, *, may_repeat: bool) -> int | None:
        """Enters the trial's parameters by their digest. Returns how many trials had the same parameters before.

        Returns None and enters nothing if another trial had them and they may not be repeated.
        """
        repeat = 0
        while True:
            try:
                return self._storage.transact(
                    lambda session, n=repeat: ledger.settle(session, self._claim, digest, first=n)  # type: ignore[misc]
                )
            except IntegrityError:
                if not may_repeat:
                    return None
                counted = self._storage.transact(
                    lambda session: ledger.count_settled(session, self._claim.study, digest)
                )
                repeat = max(repeat + 1, counted)

    def start_over(self, *, parameters: bool) -> None:
        """Deletes the trial's reports; with `parameters`, its parameters too."""

        def wipe(session: Session) -> None:
            ledger.fence(session, self._claim, states=("running",), checkpoint=None)
            optuna_rows.forget_reports(session, self.trial_id)
            optuna_rows.forget_pruning(session, self.trial_id)
            if parameters:
                optuna_rows.forget_parameters(session, self.trial_id)

        self._storage.transact(wipe)

    def rewind(self, *, steps: int) -> None:
        """Deletes the reports after the first `steps` (those of the checkpoint): the training repeats them."""

        def wipe(session: Session) -> None:
            ledger.fence(session, self._claim, states=("running",))
            optuna_rows.forget_reports(session, self.trial_id, after=steps)

        self._storage.transact(wipe)

    def report(self, step: int, value: float) -> None:
        """Reports a value, or keeps the report until the database is back."""
        self._require_held()
        self._unsent[step] = value
        with suppress(StorageAway), self._storage.impatient():
            self._storage.through_outages(self._send_reports)

    def is_behind(self) -> bool:
        """Whether something waits for a database that is away: reports, or the entry of a checkpoint.

        A checkpoint written now would be ahead of the reports, or in place of the one that the ledger refers to.
        """
        self._require_held()
        if self._is_unsure:
            self.enter_checkpoint()
        return bool(self._unsent) or self._is_unsure

    def checkpoint_in_ledger(self) -> str | None:
        """The entry that the next worker would resume at; None if this hold has entered none."""
        self._require_held()
        return self._entered

    def keep_checkpoint(self, entry: str) -> None:
        """Keeps a checkpoint's entry, to be written to the ledger together with the trial's next report."""
        self._require_held()
        none_failed = {"attempts": 1, "failures": 0, "failed_on": None, "of_a_place": False, "reason": None}
        self._with_reports = {"checkpoint": entry, **none_failed}

    def enter_checkpoint(self) -> None:
        """Writes the kept entry to the ledger now, without a report. If the database is away, `is_behind` does."""
        self._require_held()
        self._is_unsure = True  # the commit may have happened although its answer was lost
        with suppress(StorageAway), self._storage.impatient():
            self._storage.transact(self.write_reports)
            self._note_entered()

    def finish(
        self,
        state: ledger.FinalState,
        *,
        values: Sequence[float] | None,
        reason: str | None = None,
        scores: Scores | None = None,
        attributes: Mapping[str, Any] | None = None,
        exhibits: Mapping[str, str] | None = None,
        scales: Scales | None = None,
        parameters: Mapping[str, tuple[Any, BaseDistribution]] | None = None,
        curve: Mapping[int, float] | None = None,
        variant: TakenVariant | None = None,
    ) -> None:
        """Ends the trial for Optuna and for the ledger in one transaction.

        `attributes` are the user attributes that the dashboard lists, `exhibits` the system attributes of the trial's
        artifacts, `scales` the scale of its scores in an ensemble. `parameters` are values that were chosen after the
        training, with their ranges, and `curve` the trial's value at each step under them, in place of its reports;
        `variant` says from how many combinations they were chosen.

        A trial whose own settings made it fail becomes PRUNED for Optuna, with a violated constraint: samplers learn
        from that, and they ignore the state FAIL.
        """
        blob = None if scores is None else scores.astype(np.float64).tobytes()
        ended = TrialState.COMPLETE if state == "complete" else TrialState.PRUNED

        def chosen(session: Session) -> None:
            optuna_rows.set_parameters(session, self.trial_id, parameters or {})
            for step, value in (curve or {}).items():
                optuna_rows.report(session, self.trial_id, step, value)

        in_words, kept = ({}, {}) if variant is None else (variant.user_attributes, variant.system_attributes)
        user = {**(attributes or {}), **in_words}
        system = {**(exhibits or {}), **({} if scales is None else {optuna_rows.SCALES: scales}), **kept}
        self._end(state, ended, values, user=user, system=system, also=chosen, reason=reason, scores=blob)

    def is_to_be_given_up(self) -> bool:
        """Whether the trial has lost too many workers to be tried again."""
        return self.failures >= MOST_FAILURES or self.attempts > MOST_LOST

    def give_up(self) -> None:
        """Ends a trial that has lost too many workers."""
        last, failed_on, _ = self._storage.transact(lambda session: ledger.last_failure(session, self._claim))
        hosts = f" on {len(failed_on)} hosts" if len(failed_on) > 1 else ""
        error = f"; the last error was: {last}" if last else ""
        reason = f"{LOST} {self.attempts - 1} times{hosts}{error}"
        needs_too_much = last is not None and last.startswith(KILLED_FOR_MEMORY)
        if needs_too_much or self.failures < MOST_FAILURES:
            # The sampler learns from it: what so many processes that were ended from outside have in common is the
            # trial. A container, for example, is ended with its search if a trial needs more memory than it has.
            self.finish("failed", values=None, reason=reason, attributes={optuna_rows.FAILURE: reason})
        else:
            self._end("failed", TrialState.FAIL, None, reason=reason)

    def _end(
        self,
        state: ledger.FinalState,
        ended: TrialState,
        values: Sequence[float] | None,
        *,
        user: Mapping[str, Any] | None = None,
        system: Mapping[str, Any] | None = None,
        also: Callable[[Session], None] = lambda session: None,
        **columns: Any,
    ) -> None:
        """Ends the trial with these user and system attributes, and writes `columns` to the ledger's row.

        `also` adds to the transaction.
        """

        def write(session: Session) -> None:
            ledger.fence(session, self._claim, state=state, **columns)
            if state in ("complete", "pruned"):
                self._note_getting_on(session)
            if state == "failed" and ended == TrialState.PRUNED:
                self._storage.mark_failed(session, self.trial_id)
            optuna_rows.set_attributes(session, self.trial_id, user=user, system=system)
            also(session)

        def end() -> None:
            self._require_held()
            self._send_reports()
            self._with_reports = {}
            if not self._storage.end_trial(self.trial_id, ended, values, first=write):
                # The fence let this write pass: an earlier try ended the trial, and its answer was lost on the way.
                _log.info("trial %d: had ended already", self.number)

        self._storage.through_outages(end)
        self.forget()

    def release(self) -> None:
        """Gives the trial back unfinished."""

        def give_back(session: Session) -> None:
            ledger.release(session, self._claim)
            self._note_seconds(session)
            optuna_rows.trial(session, self.trial_id).state = TrialState.WAITING

        self._storage.through_outages(self._send_reports)
        self._storage.transact(give_back)
        self.forget()

    def fail(self, reason: str, *, of_a_place: bool = False) -> None:
        """Gives the trial back because its worker failed at it; another one may try it.

        of_a_place : it was an error of a disk, a network or the recordings (see search.storage.ledger.fail)

        Does not wait for a database that is away: raises StorageAway.
        """

        def give_back(session: Session) -> None:
            ledger.fail(session, self._claim, reason, lease=self.lease, of_a_place=of_a_place)
            self._note_seconds(session)
            optuna_rows.trial(session, self.trial_id).state = TrialState.WAITING

        with self._storage.impatient():
            self._storage.transact(give_back)
        self.forget()

    def is_ended(self) -> bool:
        """Whether the trial has ended, whichever worker ended it."""
        return self._storage.transact(lambda session: ledger.is_ended(session, self._claim))

    def forget(self) -> None:
        """Stops guarding a trial that this worker no longer holds."""
        if self._is_held():
            self._storage.guards.pop(self.trial_id, None)  # the thread that releases it on leaving may have come first

    def write_reports(self, session: Session) -> None:
        """Adds to a transaction the fence, the waiting reports, and the ledger's columns that belong to them."""
        ledger.fence(session, self._claim, **self._with_reports)
        if self._unsent or self._with_reports:
            self._note_getting_on(session)
        for step, value in self._unsent.items():
            optuna_rows.report(session, self.trial_id, step, value)

    def _send_reports(self) -> None:
        if self._unsent and self._is_held():
            with self._storage.transaction() as session:
                self.write_reports(session)
            self._unsent.clear()
            self._note_entered()

    def _note_getting_on(self, session: Session) -> None:
        """Enters that this slot gets trials on, if that was in doubt."""
        if self._may_be_at_fault:
            slots.note_epoch(session, self._claim.study, slots.slot_of(self._claim.owner))
            self._may_be_at_fault = False  # if the commit fails, the slot's next trial enters it

    def _note_seconds(self, session: Session) -> None:
        worked = {optuna_rows.SECONDS: round(self.seconds, 2)}
        optuna_rows.set_attributes(session, self.trial_id, user=worked, system=None)

    def _note_entered(self) -> None:
        self._is_unsure = False
        self._entered = self._with_reports.get("checkpoint", self._entered)

    def _is_held(self) -> bool:
        return self._storage.guards.get(self.trial_id) is self

    def _require_held(self) -> None:
        if not self._is_held():
            raise LeaseLost(f"the trial with the ID {self.trial_id} is not held here")
