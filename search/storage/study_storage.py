"""Optuna's storage with the ledger inside its transactions: with search.storage.optuna_rows, what leans on Optuna's
internals.

What it relies on (tests/search/storage/test_storage.py fails loudly if one of these changes):
- `RDBStorage.scoped_session` gives each thread one session, which every write uses and commits once;
- every write to a trial calls `check_trial_is_updatable` in that session, before it writes;
- `_get_prepared_new_trial(study_id, template, session)` adds a trial to a session without committing;
- the methods of `WAITED_FOR` are all that a worker asks through Optuna's cache besides reports, and may be repeated;
- a trial's constraints are system attributes; what its other rows are says search.storage.optuna_rows.
So a claim and its trial, a report and its checkpoint, a value and the ledger's final state are each one transaction:
between them there is no moment in which a worker could be killed.

While the database is away, every call waits and tries again (search.storage.outages). A report does not wait: it is
kept and sent before the next write, so that training goes on.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models as optuna_tables
from optuna.study._constrained_optimization import _CONSTRAINTS_KEY
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

from search.errors import StorageError
from search.evaluation.truth import Scores
from search.storage import database, ledger, optuna_rows
from search.storage.ledger import Claim, LeaseLost
from search.storage.outages import Patience, StorageAway
from search.storage.tables import TrialRow

# Optuna announces each study and trial by itself; what is worth saying is said by the command line.
optuna.logging.set_verbosity(optuna.logging.WARNING)

_log = logging.getLogger(__name__)

#: The name of the constraint that tells the sampler of settings that failed.
FAILED = "failed"

#: Tries to open a database while others make its tables at the same moment: one for each table and to spare.
_OPENINGS = 20

WAITED_FOR = (
    "_get_best_trial_id", "_get_trials", "_set_trial_param", "create_new_study", "get_all_studies",
    "get_study_directions", "get_study_id_from_name", "get_study_name_from_id", "get_study_system_attrs",
    "get_study_user_attrs", "get_trial", "get_trial_id_from_study_id_trial_number", "get_trial_param",
    "get_trial_system_attrs", "get_trial_user_attrs", "set_study_system_attr", "set_study_user_attr",
    "set_trial_state_values", "set_trial_system_attr", "set_trial_user_attr",
)  # fmt: skip

EVERY_STATE = tuple(TrialState)

T = TypeVar("T")


@dataclass
class _Held:
    """A claim, and what its next write takes along."""

    claim: Claim
    ledger_values: dict[str, Any] = field(default_factory=dict)
    unsent: dict[int, float] = field(default_factory=dict)  # epoch → reported value
    checkpoint: str | None = None  # in the ledger, if it is this holder's


class StudyStorage(Patience, RDBStorage):
    """Optuna's trials and the ledger, in one database, over one connection."""

    def __init__(
        self, url: str, *, create: bool = False, lease: float = ledger.LEASE_SECONDS, patience: float = 0.0
    ) -> None:
        """`lease` and `patience` (how long to wait for a database that is away) are seconds.

        Raises StorageError if the database cannot be opened, or is not there and not to be created.
        """
        parsed = database.parse_url(url)
        if not create:
            database.require_existing(parsed)
        Patience.__init__(self, database.shown(parsed), patience)
        self.lease = lease
        self._parsed = parsed
        self._file: tuple[int, int] | None = None
        self._held: dict[int, _Held] = {}
        full_url = parsed.render_as_string(hide_password=False)
        with database.storage_errors(full_url):
            self.through_outages(lambda: self._open(full_url, database.connect_args(parsed)))
            self.engine = database.engine_of_one(parsed, lease=lease)
        self.scoped_session = scoped_session(sessionmaker(bind=self.engine))
        self._file = database.file_of(parsed)

    def through_outages(self, action: Callable[[], T]) -> T:
        """See `Patience`. Raises StorageError if an SQLite file is no longer the one that was opened."""
        if self._file is not None and database.file_of(self._parsed) != self._file:
            # What is written to it from here would be lost with it.
            raise StorageError(f"{self.shown_url} was deleted or replaced while it was in use.")
        return super().through_outages(action)

    def _open(self, url: str, connect_args: dict[str, Any]) -> None:
        """Opens the database and makes the tables that are missing: another process may be doing the same."""
        for opening in range(_OPENINGS):
            try:
                RDBStorage.__init__(
                    self,
                    url,
                    engine_kwargs={"poolclass": NullPool, "connect_args": connect_args},
                    skip_compatibility_check=True,
                )
                versions = self._version_manager
                # Asked first, over one connection: the check holds two, and workers that open a database at once
                # behind a pooler would each hold one and wait for another.
                if versions.get_current_version() != versions.get_head_version():
                    versions.check_table_schema_compatibility()
                database.migrate(self.engine)
                return
            except SQLAlchemyError as error:
                in_the_making = isinstance(error, IntegrityError) or any(
                    text in str(error) for text in ("already exists", "database is locked")
                )
                if not in_the_making or opening == _OPENINGS - 1:
                    raise
                time.sleep(0.1)

    def __getstate__(self) -> dict[Any, Any]:
        raise TypeError("a StudyStorage holds claims and is not shared between processes: open another one")

    def claim(
        self, study_id: int, owner: str, *, first: Mapping[str, Any], there_since: float | None = None
    ) -> Claim | None:
        """A trial to work on, RUNNING and held by `owner`: one that lost its worker, else a new one.

        `first` are the parameters of the study's first trial. None if the budget is handed out (or the hours are
        used up) and no trial is free, or if workers who were `there_since` then were asked to leave.
        """

        def take(session: Session) -> Claim | None:
            if not ledger.admits(session, study_id, since=there_since):
                return None
            # Leases that ran out while the database was away belong to workers that may renew them any moment now.
            settled = self.seconds_since_outage > self.lease / 2
            # First, since it may wait for the study's row: leases begin after that.
            ledger.sign_of_life(session, study_id, self.lease)
            claim = ledger.take_over(session, study_id, owner, self.lease, lost_too=settled)
            if claim is None:
                claim = self._start_trial(session, study_id, owner, first)
            else:
                optuna_rows.trial(session, claim.trial_id).state = TrialState.RUNNING
            if claim is None and ledger.out_of_time(session, study_id):
                self._set_free(session, study_id, None)  # nobody may take them over any more
            return claim

        claim = self.transact(take)
        if claim is not None:
            self._held[claim.trial_id] = _Held(claim)
        return claim

    def checkpoint_in_ledger(self, claim: Claim) -> str | None:
        """The entry that the next worker would go on at, as far as this one has written it."""
        return self._hold(claim.trial_id).checkpoint

    def has_unsent_reports(self, claim: Claim) -> bool:
        """Whether reports wait for a database that is away. A checkpoint made now would be ahead of the curve."""
        return bool(self._hold(claim.trial_id).unsent)

    def enter_checkpoint(self, claim: Claim) -> None:
        """Enters a checkpoint that is kept without waiting for a report; not while the database is away."""
        with suppress(StorageAway), self.impatient():
            self.transact(lambda session: self._write_reports(session, self._hold(claim.trial_id)))
            held = self._hold(claim.trial_id)
            held.checkpoint = held.ledger_values.get("checkpoint", held.checkpoint)

    def keep_checkpoint(self, claim: Claim, entry: str) -> None:
        """Enters a checkpoint into the ledger together with the trial's next report."""
        self._hold(claim.trial_id).ledger_values = {"checkpoint": entry, "attempts": 1, "reason": None}

    def finish(
        self,
        claim: Claim,
        state: ledger.FinalState,
        *,
        values: Sequence[float] | None,
        reason: str | None = None,
        scores: Scores | None = None,
        attributes: Mapping[str, Any] | None = None,
        exhibits: Mapping[str, str] | None = None,
    ) -> None:
        """Ends a trial for Optuna and the ledger at once. Raises LeaseLost if another worker holds it.

        `attributes` are what the dashboard lists of it, `exhibits` the system attributes of its artifacts.

        A trial that failed by itself is PRUNED for Optuna, with a violated constraint: that teaches the sampler,
        while a FAIL teaches it nothing.
        """
        blob = None if scores is None else scores.astype(np.float64).tobytes()
        ended = TrialState.COMPLETE if state == "complete" else TrialState.PRUNED
        self._end(claim, state, ended, values, (attributes, exhibits), reason=reason, scores=blob)

    def give_up(self, claim: Claim) -> None:
        """Ends a trial whose workers were lost too often. Raises LeaseLost if another worker holds it."""
        last = self.transact(lambda session: session.get_one(TrialRow, claim.trial_id).reason)
        reason = f"its worker was lost {ledger.MAX_ATTEMPTS} times" + (f"; the last one said: {last}" if last else "")
        self._end(claim, "failed", TrialState.FAIL, None, reason=reason)

    def _end(
        self,
        claim: Claim,
        state: ledger.FinalState,
        ended: TrialState,
        values: Sequence[float] | None,
        shown: tuple[Mapping[str, Any] | None, Mapping[str, str] | None] = (None, None),
        **columns: Any,
    ) -> None:
        def end() -> None:
            self._send_reports(claim.trial_id)
            self._hold(claim.trial_id).ledger_values = {}
            session = self.scoped_session()
            try:
                ledger.fence(session, claim, state=state, lease_until=None, **columns)
                if state == "failed" and ended == TrialState.PRUNED:
                    table, key = optuna_tables.TrialSystemAttributeModel, f"{_CONSTRAINTS_KEY}:{FAILED}"
                    self._set_trial_attr_without_commit(session, table, claim.trial_id, key, 1.0)
                optuna_rows.set_attributes(session, claim.trial_id, user=shown[0], system=shown[1])
                RDBStorage.set_trial_state_values(self, claim.trial_id, ended, values)
            except UpdateFinishedTrialError:
                # The fence let us pass: we ended it, and the answer was lost with the connection.
                _log.info("trial %d: had ended already", claim.number)
            finally:
                session.rollback()  # what was not committed
                session.close()

        self.through_outages(end)
        self.forget(claim)

    def delete_study(self, study_id: int) -> None:
        """Deletes a study for Optuna, and its part of the ledger with it. Raises KeyError if there is none."""

        def remove(session: Session) -> None:
            optuna_rows.delete_study(session, study_id)
            ledger.delete_study(session, study_id)

        self.transact(remove)

    def release(self, claim: Claim) -> None:
        """Gives a trial back unfinished. Raises LeaseLost if another worker holds it."""

        def give_back(session: Session) -> None:
            ledger.release(session, claim)
            optuna_rows.trial(session, claim.trial_id).state = TrialState.WAITING

        self.through_outages(lambda: self._send_reports(claim.trial_id))
        self.transact(give_back)
        self.forget(claim)

    def set_free(self, study_id: int, owner: str) -> bool:
        """Gives back the trial of a worker that was ended on purpose; whether it held one."""
        return self.transact(lambda session: self._set_free(session, study_id, owner))

    def _set_free(self, session: Session, study_id: int, owner: str | None) -> bool:
        freed = ledger.set_free(session, study_id, owner)
        for trial_id in freed:
            optuna_rows.trial(session, trial_id).state = TrialState.WAITING
        return bool(freed)

    def start_over(self, claim: Claim, *, parameters: bool = False) -> None:
        """Forgets a trial's curve, and its parameters too if wanted. Raises LeaseLost if another worker holds it."""

        def wipe(session: Session) -> None:
            ledger.fence(session, claim, states=("running",), checkpoint=None)
            optuna_rows.forget_reports(session, claim.trial_id)
            optuna_rows.forget_pruning(session, claim.trial_id)
            if parameters:
                optuna_rows.forget_parameters(session, claim.trial_id)

        self.transact(wipe)

    def _hold(self, trial_id: int) -> _Held:
        if trial_id not in self._held:
            raise LeaseLost(f"the trial with the ID {trial_id} is not held here")
        return self._held[trial_id]

    def rewind(self, claim: Claim, *, steps: int) -> None:
        """Forgets what was reported after so many steps, those of the claim's checkpoint: it is trained again."""

        def wipe(session: Session) -> None:
            ledger.fence(session, claim, states=("running",))
            optuna_rows.forget_reports(session, claim.trial_id, after=steps)

        self.transact(wipe)

    def forget(self, claim: Claim) -> None:
        """Stops guarding a trial that this worker no longer holds."""
        self._held.pop(claim.trial_id, None)

    def transact(self, action: Callable[[Session], T]) -> T:
        """What `action` returns, in a transaction of its own; repeated while the database is away."""

        def run() -> T:
            with self._transaction() as session:
                return action(session)

        return self.through_outages(run)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Reports, or keeps the report until the database is back."""
        self._hold(trial_id).unsent[step] = intermediate_value
        with suppress(StorageAway), self.impatient():
            self.through_outages(lambda: self._send_reports(trial_id))

    def _send_reports(self, trial_id: int) -> None:
        held = self._held.get(trial_id)
        if held is not None and held.unsent:
            with self._transaction() as session:
                self._write_reports(session, held)
            held.unsent.clear()
            held.checkpoint = held.ledger_values.get("checkpoint", held.checkpoint)

    def _write_reports(self, session: Session, held: _Held) -> None:
        """Adds the fence to a transaction, the reports that wait, and what the ledger is to know with them."""
        ledger.fence(session, held.claim, **held.ledger_values)
        for step, value in held.unsent.items():
            optuna_rows.report(session, held.claim.trial_id, step, value)

    def check_trial_is_updatable(self, trial_id: int, trial_state: TrialState) -> None:
        """Refuses a write to a trial that another worker has taken over (LeaseLost), besides Optuna's own rule."""
        held = self._held.get(trial_id)
        if held is not None:
            self._write_reports(self.scoped_session(), held)
        super().check_trial_is_updatable(trial_id, trial_state)

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
        *,
        curves: Collection[TrialState] = EVERY_STATE,
    ) -> list[FrozenTrial]:
        """As Optuna's, in a fraction of the time. Raises KeyError if there is no such study."""
        wanted = [state for state in EVERY_STATE if states is None or state in states]
        with self._transaction() as session:
            session.connection(execution_options={database.ONLY_READS: True})
            trials = optuna_rows.trials(
                session,
                study_id,
                among=included_trial_ids,
                after=trial_id_greater_than,
                states=wanted,
                curves=curves,
            )
            if not trials:
                optuna_tables.StudyModel.find_or_raise_by_id(study_id, session)
        return trials

    def _start_trial(self, session: Session, study_id: int, owner: str, first: Mapping[str, Any]) -> Claim | None:
        if not ledger.take_slot(session, study_id):
            return None
        template = create_trial(state=TrialState.RUNNING)
        trial = self._get_prepared_new_trial(study_id, template, session)
        if trial.number == 0 and first:
            attributes = optuna_tables.TrialSystemAttributeModel
            self._set_trial_attr_without_commit(session, attributes, int(trial.trial_id), "fixed_params", dict(first))
        session.flush()
        return ledger.add_trial(
            session, study_id, trial_id=int(trial.trial_id), number=int(trial.number), owner=owner, lease=self.lease
        )

    @contextmanager
    def _transaction(self) -> Iterator[Session]:
        session = self.scoped_session()
        try:
            yield session
            session.commit()
        except BaseException:
            session.rollback()
            raise
        finally:
            session.close()


def _waiting(method: Callable[..., T]) -> Callable[..., T]:
    @functools.wraps(method)
    def call(self: StudyStorage, *args: Any, **kwargs: Any) -> T:
        return self.through_outages(lambda: method(self, *args, **kwargs))

    return call


for _name in WAITED_FOR:
    setattr(StudyStorage, _name, _waiting(getattr(StudyStorage, _name)))


@contextmanager
def open_storage(url: str) -> Iterator[StudyStorage]:
    """A storage, over a connection that is closed afterwards. Raises StorageError if it cannot be read."""
    with database.storage_errors(url):
        storage = StudyStorage(url)
        try:
            yield storage
        finally:
            storage.engine.dispose()
