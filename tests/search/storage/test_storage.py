"""One connection, patience while the database is away, and transactions that leave nothing behind."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg
import pytest
from sqlalchemy import event, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

from search.errors import StorageError
from search.storage.database import storage_errors
from search.storage.outages import StorageAway
from search.storage.stored_study import load_stored
from search.storage.study_storage import StudyStorage
from search.storage.tables import StudyRow
from tests.support.holding import claim

if TYPE_CHECKING:
    from tests.support.tiny_study import TinyStudy

    MakeStudy = Callable[..., TinyStudy]


on_both_databases = pytest.mark.parametrize("storage_url", ["sqlite", "postgresql"], indirect=True)


@on_both_databases
def test_a_storage_has_one_connection_that_its_threads_share(tiny_study: MakeStudy) -> None:
    study = tiny_study()
    storage = study.storage
    pool = storage.engine.pool
    assert isinstance(pool, QueuePool)
    assert (pool.size(), pool._max_overflow) == (1, 0)
    held = claim(storage, study, "worker")
    opened: list[object] = []
    event.listen(pool, "connect", lambda connection, record: opened.append(connection))
    gate = threading.Barrier(2)

    def work(thread: int) -> None:
        gate.wait()
        for step in range(5):
            storage.set_trial_user_attr(held.trial_id, f"note {thread}", step)
            held.renew(stops_before=0)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(work, range(2)))

    notes = storage.get_trial(held.trial_id).user_attrs
    assert {key: notes[key] for key in ("note 0", "note 1")} == {"note 0": 4, "note 1": 4}
    assert opened == []
    assert pool.checkedout() == 0


def test_a_storage_is_not_shared_between_processes(empty: StudyStorage) -> None:
    with pytest.raises(TypeError, match="open another one"):
        pickle.dumps(empty)


class Fickle:
    """A call that fails a given number of times before it succeeds."""

    def __init__(self, error: Exception, *, failures: int) -> None:
        self.error, self.failures, self.calls = error, failures, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error
        return "done"


NO_ANSWER = OperationalError("", None, psycopg.OperationalError("connection refused"))


NONSENSE = OperationalError("", None, psycopg.errors.UndefinedTable("no such table"))


def test_a_call_that_fails_while_the_database_is_away_is_repeated(
    empty: StudyStorage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("search.storage.outages._FIRST_PAUSE", 0.001)
    empty.patience = 60.0
    call = Fickle(NO_ANSWER, failures=3)
    assert (empty.through_outages(call), call.calls) == ("done", 4)
    assert caplog.text.count("is away (connection refused)") == 1, "an outage is logged once"
    assert caplog.text.count("is back") == 1


def test_patience_ends(empty: StudyStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.storage.outages._FIRST_PAUSE", 0.001)
    empty.patience = 0.05
    began = time.monotonic()
    with pytest.raises(OperationalError, match="connection refused"):
        empty.through_outages(Fickle(NO_ANSWER, failures=10**6))
    assert time.monotonic() - began >= 0.05


def test_an_error_that_waiting_does_not_mend_is_not_waited_for(empty: StudyStorage) -> None:
    empty.patience = 60.0
    call = Fickle(NONSENSE, failures=1)
    with pytest.raises(OperationalError, match="no such table"):
        empty.through_outages(call)
    assert call.calls == 1


def test_an_impatient_thread_gets_the_error_at_once_and_impatience_ends_with_its_context(
    empty: StudyStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.storage.outages._FIRST_PAUSE", 0.001)
    empty.patience = 60.0
    with empty.impatient():
        with empty.impatient(), pytest.raises(StorageAway, match="connection refused"):
            empty.through_outages(Fickle(NO_ANSWER, failures=1))
        with pytest.raises(StorageAway, match="connection refused"):
            empty.through_outages(Fickle(NO_ANSWER, failures=1))
        with ThreadPoolExecutor(1) as another:
            assert another.submit(empty.through_outages, Fickle(NO_ANSWER, failures=1)).result() == "done"
    assert empty.through_outages(Fickle(NO_ANSWER, failures=1)) == "done"


@on_both_databases
def test_a_transaction_that_fails_leaves_nothing_and_the_connection_is_free_again(tiny_study: MakeStudy) -> None:
    study = tiny_study()

    def half(session: Session) -> None:
        session.execute(update(StudyRow).values(budget=99))
        raise InterruptedError

    with pytest.raises(InterruptedError):
        study.storage.transact(half)
    assert load_stored(study.storage, "tiny").budget == 3


def test_a_read_only_storage_is_reported(tiny_study: MakeStudy) -> None:
    study = tiny_study()
    database = study.url.removeprefix("sqlite:///")
    read_only = StudyStorage(f"sqlite:///file:{database}?mode=ro&uri=true")
    with pytest.raises(StorageError, match="attempt to write a readonly database"), storage_errors(read_only.url):
        claim(read_only, study, "worker")
