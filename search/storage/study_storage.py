"""Optuna's storage with transactions that the ledger shares.

This module and search.storage.optuna_rows depend on Optuna's internals. This one relies on these
(tests/search/storage/test_optuna_compatibility.py fails if one of them changes):
- `RDBStorage.scoped_session` gives each thread one session, which every write uses and commits once;
- every write to a trial calls `check_trial_is_updatable` in that session, before it writes;
- `_get_prepared_new_trial(study_id, template, session)` adds a trial to a session without committing;
- besides reports, a worker calls only the methods of `WAITED_FOR` through Optuna's cache, and each may be repeated;
- a trial's constraints are system attributes (search.storage.optuna_rows describes its other rows).
Therefore a claim and its trial (search.storage.study_ledger), a report and its checkpoint, and a value and the ledger's
final state (search.storage.hold) are each one transaction: a worker that is killed leaves both or neither.

While the database is away, every call except a report waits and tries again (search.storage.outages; for reports see
`Hold`).
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models as optuna_tables
from optuna.study._constrained_optimization import _CONSTRAINTS_KEY
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import Executable, select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

from search.errors import StorageError
from search.storage import database, ledger, optuna_rows
from search.storage.claims import LeaseLost
from search.storage.lease_rules import LEASE_SECONDS
from search.storage.outages import Patience
from search.storage.tables import database_now

# Optuna logs each study and trial by itself; the command line reports what matters.
optuna.logging.set_verbosity(optuna.logging.WARNING)

#: The name of the constraint that marks settings that failed, for the sampler.
FAILED = "failed"

#: Tries to open a database while other processes create its tables: more than there are tables.
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


class Guard(Protocol):
    """The holder of a trial, which keeps Optuna from writing to a trial that was taken over."""

    def report(self, step: int, value: float) -> None:
        """Reports the trial's value after a step. Raises LeaseLost if another worker holds the trial."""

    def write_reports(self, session: Session) -> None:
        """Adds to a transaction what precedes every write. Raises LeaseLost if another worker holds the trial."""


class StudyStorage(Patience, RDBStorage):
    """Optuna's trials and the ledger, in one database, over one connection.

    guards : the holders of this process's trials, by the trial's ID (Optuna's own calls name a trial only by its ID).
    """

    def __init__(
        self, url: str, *, create: bool = False, lease: float = LEASE_SECONDS, patience: float | None = None
    ) -> None:
        """`lease` and `patience` (how long to wait for a database that is away) are seconds.

        Without `patience`, a server is waited for as `waiting_at_the_start` says, a file not at all.

        Raises StorageError if the database cannot be opened, or if it does not exist and `create` is False.
        """
        parsed = database.parse_url(url)
        if not create:
            database.require_existing(parsed)
        if patience is None and parsed.get_backend_name() == "sqlite":
            patience = 0.0
        Patience.__init__(self, database.shown(parsed), patience)
        self.lease = lease
        self._parsed = parsed
        self._file: tuple[int, int] | None = None
        self._is_open = False
        self.guards: dict[int, Guard] = {}
        full_url = parsed.render_as_string(hide_password=False)
        with database.storage_errors(full_url):
            self.through_outages(lambda: self._open(full_url, database.connect_args(parsed)))
            self.engine = database.engine_of_one(parsed, lease=lease)
        self.scoped_session = scoped_session(sessionmaker(bind=self.engine))
        self._file = database.file_of(parsed)
        self._is_open = True

    def through_outages(self, action: Callable[[], T]) -> T:
        """As in `Patience`. Raises StorageError if the SQLite file is no longer the one that was opened."""
        return super().through_outages(functools.partial(self._on_the_same_database, action))

    def _on_the_same_database(self, action: Callable[[], T]) -> T:
        """Returns what `action` returns, unless its database is no longer the one that was opened."""
        if self._file is not None:
            database.require_folder(self._parsed, device=self._file[0])
            if database.file_of(self._parsed) != self._file:
                # Further writes would go to the deleted file.
                raise StorageError(f"{self.shown_url} was deleted or replaced while it was in use.")
        try:
            return action()
        except (SQLAlchemyError, StorageInternalError) as error:
            if database.only_reads(error) and self._is_open:
                self.engine.dispose()  # the next connection may lead to the server that writes
            raise

    def _open(self, url: str, connect_args: dict[str, Any]) -> None:
        """Opens the database and creates the missing tables. Another process may do the same at the same time."""
        for opening in range(_OPENINGS):
            try:
                RDBStorage.__init__(
                    self,
                    url,
                    engine_kwargs={"poolclass": NullPool, "connect_args": connect_args},
                    skip_compatibility_check=True,
                )
                versions = self._version_manager
                # The versions first, over one connection: the check holds two connections, and workers that open a
                # database behind a pooler at the same time would each hold one and wait for another.
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

    def now(self) -> float:
        """Seconds since 1970 by the database's clock."""
        return self.transact(lambda session: session.execute(select(database_now())).scalar_one())

    def add_trial(self, session: Session, study_id: int, *, fixed: Mapping[int, Mapping[str, Any]]) -> tuple[int, int]:
        """Adds a RUNNING trial to a transaction. Returns its ID and number. `fixed`: parameters of trials by number."""
        template = create_trial(state=TrialState.RUNNING)
        trial = self._get_prepared_new_trial(study_id, template, session)
        if values := fixed.get(int(trial.number)):
            self._set_system_attr(session, int(trial.trial_id), "fixed_params", dict(values))
        session.flush()
        return int(trial.trial_id), int(trial.number)

    def mark_failed(self, session: Session, trial_id: int) -> None:
        """Adds a violated constraint to a transaction: samplers learn from that, and they ignore the state FAIL."""
        self._set_system_attr(session, trial_id, f"{_CONSTRAINTS_KEY}:{FAILED}", 1.0)

    def _set_system_attr(self, session: Session, trial_id: int, key: str, value: Any) -> None:
        self._set_trial_attr_without_commit(session, optuna_tables.TrialSystemAttributeModel, trial_id, key, value)

    def end_trial(
        self,
        trial_id: int,
        state: TrialState,
        values: Sequence[float] | None,
        *,
        first: Callable[[Session], object],
    ) -> bool:
        """Ends a trial in one transaction with what `first` writes. Returns False if the trial had ended already.

        Does not wait for a database that is away.
        """
        session = self.scoped_session()
        try:
            first(session)
            RDBStorage.set_trial_state_values(self, trial_id, state, values)
        except UpdateFinishedTrialError:
            return False
        finally:
            session.rollback()  # undoes what was not committed
            session.close()
        return True

    def delete_study(self, study_id: int) -> None:
        """Deletes a study from Optuna's tables and from the ledger. Raises KeyError if there is none."""
        self.transact(lambda session: delete_study_rows(session, study_id))

    def transact(self, action: Callable[[Session], T]) -> T:
        """Runs `action` in a transaction of its own and returns its result. Repeats it while the database is away."""

        def run() -> T:
            with self.transaction() as session:
                return action(session)

        return self.through_outages(run)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Reports a value through the trial's holder. Raises LeaseLost if no hold of this process is on the trial."""
        guard = self.guards.get(trial_id)
        if guard is None:
            raise LeaseLost(f"the trial with the ID {trial_id} is not held here")
        guard.report(step, intermediate_value)

    def check_trial_is_updatable(self, trial_id: int, trial_state: TrialState) -> None:
        """Applies Optuna's own rule, and raises LeaseLost if another worker has taken the trial over."""
        guard = self.guards.get(trial_id)
        if guard is not None:
            guard.write_reports(self.scoped_session())
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
        """As Optuna's method, in a fraction of the time. Raises KeyError if the study does not exist."""
        wanted = [state for state in EVERY_STATE if states is None or state in states]
        trials = optuna_rows.trials(
            self._read, study_id, among=included_trial_ids, after=trial_id_greater_than, states=wanted, curves=curves
        )
        if not trials:
            with self.transaction() as session:
                optuna_tables.StudyModel.find_or_raise_by_id(study_id, session)
        return trials

    def _read(self, statement: Executable) -> Sequence[Any]:
        with self.engine.connect() as connection:
            return connection.execution_options(**{database.ONLY_READS: True}).execute(statement).all()

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Yields this thread's session and commits it at the end. Does not wait for a database that is away."""
        session = self.scoped_session()
        try:
            yield session
            session.commit()
        except BaseException:
            session.rollback()
            raise
        finally:
            session.close()


def delete_study_rows(session: Session, study_id: int) -> None:
    """Adds the deletion of a study from both sets of tables to a transaction. Raises KeyError if there is none."""
    ledger.delete_study(session, study_id)  # first, as a worker's writes touch it first
    optuna_rows.delete_study(session, study_id)


def _waiting(method: Callable[..., T]) -> Callable[..., T]:
    @functools.wraps(method)
    def call(self: StudyStorage, *args: Any, **kwargs: Any) -> T:
        return self.through_outages(lambda: method(self, *args, **kwargs))

    return call


for _name in WAITED_FOR:
    setattr(StudyStorage, _name, _waiting(getattr(StudyStorage, _name)))


@contextmanager
def open_storage(url: str) -> Iterator[StudyStorage]:
    """Opens a storage and closes its connection afterwards. Raises StorageError if the storage cannot be read."""
    with database.storage_errors(url):
        storage = StudyStorage(url)
        try:
            yield storage
        finally:
            storage.engine.dispose()
