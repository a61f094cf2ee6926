"""One study's part of the ledger: claims, failures, progress, requests to stop, rename and delete.

Each method is a transaction of its own, which waits while the database is away. A deleted study has no trials, admits
no worker and is not stopped, even if another study has its key by now (search.storage.study_rows).
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
from optuna.trial import TrialState
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from models.scoring.scores import Scores
from search.errors import StudyError
from search.storage import claims, ledger, optuna_rows, slots, study_rows
from search.storage.claims import Claim, LeaseLost
from search.storage.early_end import Enough
from search.storage.hold import Hold
from search.storage.ledger import Leftover, Outlook, Snapshot
from search.storage.slots import FailingSlot
from search.storage.stored_study import StoredStudy, was_deleted
from search.storage.study_rows import StudyKey
from search.storage.study_storage import StudyStorage, delete_study_rows
from search.storage.tables import StudyRow

P = ParamSpec("P")
T = TypeVar("T")


class StudyLedger:
    """The part of the ledger that belongs to one study."""

    def __init__(self, storage: StudyStorage, stored: StoredStudy) -> None:
        self._storage, self._name = storage, stored.name
        self.study = StudyKey(stored.study_id, stored.uid)
        model = stored.tree["model"]
        self._families = len(model) if isinstance(model, list) else 1

    def claim(
        self, owner: str, *, first: Mapping[int, Mapping[str, Any]], stops_before: int | None = None
    ) -> Hold | None:
        """Claims a trial for `owner`: one that lost its worker or was given back, else a new one.

        `first` are the parameters of the study's first trials, by number. Returns None if the budget is handed out (or
        the hours are used up, or too short for a new trial) and no trial is free, or if workers were asked to leave
        since there had been `stops_before` requests to.
        """
        lease = self._storage.lease

        def take(session: Session) -> Claim | None:
            slot = slots.slot_of(owner)
            admission = study_rows.admission(session, self.study, slot=slot, stops_before=stops_before)
            if admission is None:
                return None
            # Leases that ran out while the database was away belong to workers that may renew them at any moment.
            settled = self._storage.seconds_since_outage > lease / 2
            # First, because it may wait for the study's row: leases begin after that.
            study_rows.sign_of_life(session, self.study, lease)
            failed = admission.failed_in_slot
            claim = claims.take_over(session, self.study, owner, lease, failed_in_slot=failed, lost_too=settled)
            if claim is not None:
                optuna_rows.trial(session, claim.trial_id).state = TrialState.RUNNING
                claim = replace(claim, seconds=optuna_rows.seconds(session, claim.trial_id))
            elif not claims.waits_for_others(session, self.study, owner, failed):
                claim = self._start_trial(session, owner, first, may_be_at_fault=failed > 0)
            if claim is None and study_rows.out_of_time(session, self.study):
                self._set_free(session, None)  # nobody may take them over any more
            return claim

        claim = self._storage.transact(take)
        return None if claim is None else Hold(self._storage, claim)

    def _start_trial(
        self, session: Session, owner: str, first: Mapping[int, Mapping[str, Any]], *, may_be_at_fault: bool
    ) -> Claim | None:
        remaining = study_rows.take_slot(session, self.study)
        if remaining is None:
            return None
        if remaining.seconds is not None and not self._fits(session, remaining.seconds):
            study_rows.return_slot(session, self.study)
            return None
        trial_id, number = self._storage.add_trial(session, self.study.study_id, fixed=first)
        claim = claims.add_trial(
            session,
            self.study,
            trial_id=trial_id,
            number=number,
            owner=owner,
            lease=self._storage.lease,
            may_be_at_fault=may_be_at_fault,
        )
        return replace(claim, remaining=remaining)

    def _fits(self, session: Session, seconds: float) -> bool:
        """Whether a new trial of some family is expected to end within so many seconds."""
        ended = optuna_rows.seconds_by_family(session, self.study.study_id)
        return len(ended) < self._families or min(map(statistics.median, ended)) <= seconds

    def outlook(self, *, stops_before: int) -> Outlook:
        """What awaits a worker that got no trial; it came when there had been `stops_before` requests to leave."""

        def look(session: Session) -> Outlook:
            return ledger.outlook(session, self.study, stops_before=stops_before, fits=partial(self._fits, session))

        return self._storage.transact(look)

    def exists(self) -> bool:
        """Whether the study still exists."""
        return self._ask(study_rows.exists)

    def unfinished(self) -> bool:
        """Whether any trial of the study has not ended, or further ones may begin."""
        return self._ask(ledger.unfinished)

    def out_of_time(self) -> bool:
        """Whether the study's hours are used up."""
        return self._ask(study_rows.out_of_time)

    def progress(self) -> tuple[int, frozenset[str | None]]:
        """How many trials have ended, and the checkpoints of the others. Another value means that a trial advanced."""
        return self._ask(ledger.progress)

    def snapshot(self) -> Snapshot:
        """All trials as they stand, with the last vitals of their workers."""
        return self._ask(ledger.snapshot)

    def scores(self, numbers: Collection[int] | None = None) -> dict[int, Scores]:
        """The validation clips' scores of the ended trials (or of these `numbers`), by number."""
        blobs = self._ask(ledger.scores, numbers)
        return {number: np.frombuffer(blob, dtype=np.float64) for number, blob in blobs.items()}

    def best_value(self) -> float | None:
        """The best first value of the complete trials that keep to the study's limits; None if there is none."""

        def read(session: Session) -> float | None:
            is_there = study_rows.exists(session, self.study)
            return optuna_rows.best_value(session, self.study.study_id) if is_there else None

        return self._storage.transact(read)

    def has_ended_any(self, owner: str) -> bool:
        """Whether the worker has ended a trial of the study."""
        return self._ask(ledger.has_ended_any, owner)

    def at_work(self) -> list[str]:
        """The owners of the leases that have not run out."""
        return self._ask(ledger.at_work)

    def expire(self, owner: str) -> None:
        """Ends the leases of a worker that was killed."""
        self._ask(ledger.expire, owner)

    def fail(self, owner: str, reason: str, *, of_a_place: bool = False) -> bool:
        """Gives back the trial of a worker that is known to have failed at it. Returns whether it held one."""

        def give_back(session: Session) -> bool:
            claim = claims.claim_of(session, self.study, owner)
            if claim is None:
                return False
            ledger.fail(session, claim, reason, lease=self._storage.lease, of_a_place=of_a_place)
            optuna_rows.trial(session, claim.trial_id).state = TrialState.WAITING
            return True

        try:
            return self._storage.transact(give_back)
        except LeaseLost:  # another worker was quicker
            return True

    def failing_slot(self, owner: str) -> FailingSlot | None:
        """What failed in a worker's slot; None if nothing did."""
        return self._ask(slots.known, slots.slot_of(owner))

    def failing_slots(self) -> list[FailingSlot]:
        """The slots in which trials failed."""
        return self._ask(slots.failing)

    def forgive(self, host: str | None) -> None:
        """Forgets what failed on a host, or anywhere (None): a person has started its workers anew."""
        self._ask(slots.forgive, host)

    def set_free(self, owner: str) -> bool:
        """Gives back the trial of a worker that was ended on purpose. Returns whether it held one."""
        return self._storage.transact(lambda session: self._set_free(session, owner))

    def _set_free(self, session: Session, owner: str | None) -> bool:
        freed = ledger.set_free(session, self.study, owner)
        for trial_id in freed:
            optuna_rows.trial(session, trial_id).state = TrialState.WAITING
        return bool(freed)

    def uncleared(self) -> list[Leftover]:
        """The ended trials whose checkpoints may still be there."""
        return self._ask(ledger.uncleared)

    def clear(self, trial_id: int) -> None:
        """Enters that a trial's checkpoints are gone."""
        self._ask(ledger.clear, trial_id)

    def end_early(self, enough: Enough) -> bool:
        """Enters why the study ends before its budget: no trial begins from then on. Returns whether this was entered.

        It is not if the study has ended itself already, if it is never to do so (any more), or if its budget has
        been raised since. Raises StudyError if the study was deleted.
        """

        def write(session: Session) -> bool:
            self._lock(session)
            row = session.get_one(StudyRow, self.study.study_id)
            search = json.loads(row.document).get("search") or {}
            if row.enough is not None or search.get("stop") != "told_apart" or row.budget != enough.budget:
                return False
            row.enough = enough.text()
            return True

        return self._storage.transact(write)

    def stops(self) -> int:
        """How many requests to stop there have been; 0 if the study was deleted."""
        return self._ask(study_rows.stops)

    def request_stop(self) -> int:
        """Asks the workers that are there now to leave. Returns how many are at work."""

        def stop(session: Session) -> int:
            study_rows.request_stop(session, self.study)
            return len(ledger.at_work(session, self.study))

        return self._storage.transact(stop)

    def is_stopped(self, *, stops_before: int) -> bool:
        """Whether workers were asked to leave since there had been `stops_before` requests to."""
        return self._ask(study_rows.is_stopped, stops_before=stops_before)

    def edit_attributes(
        self, prefix: str, edit: Callable[[Mapping[str, Any]], Mapping[str, Any]], *, while_best: float | None
    ) -> None:
        """Replaces the study's system attributes whose keys begin with `prefix` by what `edit` returns for them.

        Does nothing if the study's best value is no longer `while_best`. Raises StudyError if the study was deleted.
        """

        def write(session: Session) -> None:
            self._lock(session)
            if optuna_rows.best_value(session, self.study.study_id) == while_best:
                before = optuna_rows.study_attributes(session, self.study.study_id, prefix)
                optuna_rows.set_study_attributes(session, self.study.study_id, edit(before))

        self._storage.transact(write)

    def retry(self, numbers: Collection[int] | None) -> list[int]:
        """Puts failed trials back (these, or all of them), with their parameters. Returns their numbers.

        They wait for a worker as if nobody had tried them; the budget does not change. Raises StudyError if one of
        `numbers` has not failed, or if the study was deleted.
        """

        def write(session: Session) -> list[int]:
            self._lock(session)
            failed = ledger.failed(session, self.study)
            if others := sorted(set(numbers or ()) - set(failed)):
                raise _has_not_failed(others[0], sorted(failed))
            again = [number for number in sorted(failed) if numbers is None or number in numbers]
            ids = [failed[number] for number in again]
            ledger.put_back(session, self.study, ids)
            optuna_rows.put_back(session, ids)
            slots.forgive(session, self.study, None)
            return again

        return self._storage.transact(write)

    def rename(self, name: str) -> None:
        """Gives the study another name. Raises StudyError if another study has it, or if workers are at work."""

        def write(session: Session) -> None:
            self._require_idle(session)
            optuna_rows.rename_study(session, self.study.study_id, name)
            row = session.get_one(StudyRow, self.study.study_id)
            row.first_name = row.first_name or self._name
            document, identity = json.loads(row.document), json.loads(row.identity)
            document["study"] = identity["study"]["study"] = name
            row.document, row.identity = json.dumps(document), json.dumps(identity)

        try:
            self._storage.transact(write)
        except IntegrityError as error:
            raise StudyError(f"There is a study {name!r} in {self._storage.shown_url} already.") from error

    def delete(self) -> tuple[list[Leftover], list[str]]:
        """Deletes the study with its trials. Returns the trials whose checkpoints are left, and its artifacts' IDs.

        Raises StudyError if workers are at work.
        """

        def write(session: Session) -> tuple[list[Leftover], list[str]]:
            self._require_idle(session)
            files = (
                ledger.uncleared(session, self.study, ended=False),
                optuna_rows.artifacts(session, self.study.study_id),
            )
            delete_study_rows(session, self.study.study_id)
            return files

        return self._storage.transact(write)

    def _require_idle(self, session: Session) -> None:
        """Locks the study, against claims too. Raises StudyError if workers are at work on it, or if it was deleted."""
        study_rows.keep_claims_out(session, self.study)
        self._lock(session)
        owners = ledger.at_work(session, self.study)
        if owners:
            raise StudyError(
                f"{len(owners)} workers are at work on {self._name} (for example {owners[0]}). "
                f"`offkey stop {self._name}` makes them leave; wait until they have."
            )

    def _lock(self, session: Session) -> None:
        """Locks the study's row against other writes until the commit. Raises StudyError if the study was deleted."""
        if not study_rows.lock(session, self.study):
            raise was_deleted(self._name)

    def _ask(self, statements: Callable[Concatenate[Session, StudyKey, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs `statements` on this study in a transaction of its own, and returns their result."""
        return self._storage.transact(lambda session: statements(session, self.study, *args, **kwargs))


def _has_not_failed(number: int, failed: Sequence[int]) -> StudyError:
    which = f"these have: {', '.join(map(str, failed))}" if failed else "none of the study's has"
    return StudyError(f"Trial {number} has not failed; {which}.")
