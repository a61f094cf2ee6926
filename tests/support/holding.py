"""Claims trials, and disturbs their writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState
from sqlalchemy import event, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from search.storage.hold import Hold
from search.storage.study_storage import StudyStorage
from search.storage.tables import TrialRow

if TYPE_CHECKING:
    from tests.support.tiny_study import TinyStudy

#: Optuna's own writes to a trial, by their names.
WRITES: dict[str, Callable[[StudyStorage, int], object]] = {
    "set_trial_param": lambda s, t: s.set_trial_param(t, "x", 0.5, FloatDistribution(0, 1)),
    "set_trial_intermediate_value": lambda s, t: s.set_trial_intermediate_value(t, 1, 0.5),
    "set_trial_user_attr": lambda s, t: s.set_trial_user_attr(t, "note", 1),
    "set_trial_system_attr": lambda s, t: s.set_trial_system_attr(t, "note", 1),
    "set_trial_state_values": lambda s, t: s.set_trial_state_values(t, TrialState.COMPLETE, [0.5]),
}


def claim(storage: StudyStorage, study: TinyStudy, owner: str) -> Hold:
    taken = study.ledger_over(storage).claim(owner, first={})
    assert taken is not None
    return taken


def let_rests_end(study: TinyStudy) -> None:
    """Lets the time pass for which failed trials are left to others, and workers count as at work after a trial."""
    with study.storage.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE offkey_trials SET lease_until = 0 WHERE state <> 'running'")


def lapsed(storage: StudyStorage, study: TinyStudy, owner: str) -> Hold:
    """A claim whose lease has run out already."""
    lease, storage.lease = storage.lease, -1.0
    try:
        return claim(storage, study, owner)
    finally:
        storage.lease = lease


def row_of(storage: StudyStorage, held: Hold) -> dict[str, Any]:
    with storage.engine.connect() as connection:
        row = connection.execute(select(TrialRow.__table__).where(TrialRow.trial_id == held.trial_id)).one()
        return dict(row._mapping)


@contextmanager
def away(storage: StudyStorage) -> Iterator[None]:
    """Within this context, the database does not answer."""

    def no_answer(*args: object) -> None:
        raise OperationalError("", None, psycopg.OperationalError("server closed the connection unexpectedly"))

    event.listen(storage.engine, "before_cursor_execute", no_answer)
    try:
        yield
    finally:
        event.remove(storage.engine, "before_cursor_execute", no_answer)


@contextmanager
def first_answer_lost() -> Iterator[list[str]]:
    """The next commit succeeds, but its answer is lost."""
    lost: list[str] = []
    original = Session.commit

    def commit(session: Session) -> None:
        original(session)
        if not lost:
            lost.append("commit")
            raise OperationalError("COMMIT", None, psycopg.OperationalError("server closed the connection"))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Session, "commit", commit)
        patched.setattr("search.storage.outages._FIRST_PAUSE", 0.01)
        yield lost
    assert lost


def power_cut(*args: object, **kwargs: object) -> None:
    """Replaces a step in the middle of a transaction: raises InterruptedError."""
    raise InterruptedError
