"""Optuna's storage with the ledger inside its transactions: the one module that leans on Optuna's internals.

What it relies on (tests/search/test_storage.py fails loudly if one of these changes):
- `RDBStorage.scoped_session` gives each thread one session, which every write uses and commits once;
- every write to a trial calls `check_trial_is_updatable` in that session, before it writes;
- `_get_prepared_new_trial(study_id, template, session)` adds a trial to a session without committing.
So a claim and its trial, a report and its fence, a value and the ledger's final state are each one transaction:
between them there is no moment in which a worker could be killed.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages import RDBStorage
from optuna.storages._rdb import models as optuna_tables
from optuna.trial import TrialState, create_trial
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from search import ledger
from search.errors import NoStorageError, StorageError
from search.evaluation import Scores
from search.ledger import Claim

# Optuna announces each study and trial by itself; what is worth saying is said by the command line.
optuna.logging.set_verbosity(optuna.logging.WARNING)

_SQLITE_BUSY_SECONDS = 60

#: Tries to open a database while others make its tables at the same moment: one for each table and to spare.
_OPENINGS = 20


def default_url() -> str:
    """$OFFKEY_STORAGE, else an SQLite file in the working directory."""
    return os.environ.get("OFFKEY_STORAGE") or "sqlite:///offkey.db"


class StudyStorage(RDBStorage):
    """Optuna's trials and the ledger, in one database, over one pooled connection."""

    def __init__(self, url: str, *, create: bool = False) -> None:
        """Raises StorageError if the database cannot be opened, or is not there and not to be created."""
        with storage_errors(url):
            engine_kwargs: dict[str, Any] = {"pool_size": 1, "max_overflow": 1}
            if make_url(url).get_backend_name() == "sqlite":
                _require_sqlite_file(url, create)
                engine_kwargs["connect_args"] = {"timeout": _SQLITE_BUSY_SECONDS, "factory": _WriteAheadConnection}
            self._open(url, engine_kwargs)
        self._claims: dict[int, Claim] = {}

    def _open(self, url: str, engine_kwargs: dict[str, Any]) -> None:
        """Opens the database and makes the tables that are missing: another process may be doing the same."""
        for opening in range(_OPENINGS):
            try:
                super().__init__(url, engine_kwargs=engine_kwargs)
                ledger.Base.metadata.create_all(self.engine)
                return
            except SQLAlchemyError as error:
                in_the_making = isinstance(error, IntegrityError) or any(
                    text in str(error) for text in ("already exists", "database is locked")
                )
                if not in_the_making or opening == _OPENINGS - 1:
                    raise
                time.sleep(0.1)

    @property
    def shown_url(self) -> str:
        """The database's URL, without its password."""
        return _shown(self.url)

    def __getstate__(self) -> dict[Any, Any]:
        raise TypeError("a StudyStorage holds claims and is not shared between processes: open another one")

    def claim(
        self, study_id: int, owner: str, *, first: Mapping[str, Any], lease: float = ledger.LEASE_SECONDS
    ) -> Claim | None:
        """A trial to work on, RUNNING and held by `owner`: one that lost its worker, else a new one.

        `first` are the parameters of the study's first trial. None if the budget is handed out (or the hours are
        used up) and no trial is free.
        """
        while True:
            with self._transaction() as session:
                claim = ledger.take_over(session, study_id, owner, lease)
                if claim is None:
                    claim = self._start_trial(session, study_id, owner, first, lease)
                elif claim.attempts > ledger.MAX_ATTEMPTS:
                    self._give_up(session, claim)
                    continue
                else:
                    self._trial_row(session, claim).state = TrialState.RUNNING
                ledger.sign_of_life(session, study_id, lease)
            if claim is not None:
                self._claims[claim.trial_id] = claim
            return claim

    def finish(
        self,
        claim: Claim,
        state: ledger.FinalState,
        *,
        value: float | None,
        reason: str | None = None,
        scores: Scores | None = None,
    ) -> None:
        """Ends a trial for Optuna and the ledger at once. Raises LeaseLost if another worker holds it."""
        blob = None if scores is None else scores.astype(np.float64).tobytes()
        session = self.scoped_session()
        try:
            ledger.fence(session, claim, state=state, reason=reason, scores=blob, lease_until=None)
        except BaseException:
            session.rollback()
            session.close()
            raise
        ended = TrialState.COMPLETE if state == "complete" else TrialState.PRUNED
        self.set_trial_state_values(claim.trial_id, ended, None if value is None else [value])
        self.forget(claim)

    def release(self, claim: Claim) -> None:
        """Gives a trial back unfinished. Raises LeaseLost if another worker holds it."""
        with self._transaction() as session:
            ledger.release(session, claim)
            self._trial_row(session, claim).state = TrialState.WAITING
        self.forget(claim)

    def forget(self, claim: Claim) -> None:
        """Stops guarding a trial that this worker no longer holds."""
        self._claims.pop(claim.trial_id, None)

    def check_trial_is_updatable(self, trial_id: int, trial_state: TrialState) -> None:
        """Refuses a write to a trial that another worker has taken over (LeaseLost), besides Optuna's own rule."""
        claim = self._claims.get(trial_id)
        if claim is not None:
            ledger.fence(self.scoped_session(), claim)
        super().check_trial_is_updatable(trial_id, trial_state)

    def _start_trial(
        self, session: Session, study_id: int, owner: str, first: Mapping[str, Any], lease: float
    ) -> Claim | None:
        if not ledger.take_slot(session, study_id):
            return None
        template = create_trial(state=TrialState.RUNNING)
        earlier = session.query(optuna_tables.TrialModel).filter_by(study_id=study_id).first()
        if earlier is None and first:
            template.system_attrs = {"fixed_params": dict(first)}
        trial = self._get_prepared_new_trial(study_id, template, session)
        session.flush()
        return ledger.add_trial(
            session, study_id, trial_id=int(trial.trial_id), number=int(trial.number), owner=owner, lease=lease
        )

    def _give_up(self, session: Session, claim: Claim) -> None:
        reason = f"its worker was lost {ledger.MAX_ATTEMPTS} times"
        ledger.fence(session, claim, state="failed", reason=reason, lease_until=None)
        trial = self._trial_row(session, claim)
        trial.state = TrialState.FAIL
        trial.datetime_complete = datetime.now()

    @staticmethod
    def _trial_row(session: Session, claim: Claim) -> Any:
        return session.get_one(optuna_tables.TrialModel, claim.trial_id)

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


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turns a database's refusal into a StorageError that names the storage, without its password."""
    try:
        yield
    except ArgumentError as error:
        raise StorageError(f"--storage {url}: not a database URL; sqlite:///offkey.db is one") from error
    except ImportError as error:
        raise StorageError(
            f"The storage {_shown(url)} needs a database driver that is not installed: {error}"
        ) from error
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        reason = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
        reason = getattr(reason, "orig", None) or reason
        raise StorageError(f"The study storage {_shown(url)} cannot be used: {reason}") from error


def _shown(url: str) -> str:
    return make_url(url).render_as_string(hide_password=True)


def _require_sqlite_file(url: str, create: bool) -> None:
    database = make_url(url).database
    if not database or database == ":memory:":
        raise StorageError(f"--storage {url}: a database in memory cannot be shared by workers; name a file")
    if not create and not database.startswith("file:") and not Path(database).exists():
        raise NoStorageError(
            f"There is no study storage {database}; `offkey search` makes one. "
            "--storage or $OFFKEY_STORAGE names another."
        )


class _WriteAheadConnection(sqlite3.Connection):
    """Readers and the one writer do not wait for each other; a crash of the machine may lose the last commits,
    never the database's consistency."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.execute("PRAGMA journal_mode=WAL")
        self.execute("PRAGMA synchronous=NORMAL")
