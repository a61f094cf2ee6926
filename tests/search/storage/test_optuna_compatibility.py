"""The internals of Optuna that the storage relies on. These tests fail when they change."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from optuna.storages import RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from sqlalchemy.orm import Session

from search.storage import ledger
from search.storage.claims import LeaseLost
from search.storage.outages import StorageAway
from search.storage.study_storage import WAITED_FOR, StudyStorage
from tests.support.holding import WRITES, away, claim, lapsed

if TYPE_CHECKING:
    from tests.support.tiny_study import TinyStudy

    MakeStudy = Callable[..., TinyStudy]


on_both_databases = pytest.mark.parametrize("storage_url", ["sqlite", "postgresql"], indirect=True)


NOT_WAITED_FOR = {
    "_create_new_trial": "trials are created by `claim` alone, in a transaction of its own",
    "delete_study": "deletes the ledger's part too, in a transaction of its own, which waits",
    "set_trial_intermediate_value": "a report does not wait: it is kept and sent later",
    "record_heartbeat": "leases are the ledger's, Optuna's heartbeat is off",
    "_get_stale_trial_ids": "leases are the ledger's, Optuna's heartbeat is off",
}


def names_that_open_a_session() -> set[str]:
    return {
        name
        for name, method in vars(RDBStorage).items()
        if inspect.isfunction(method) and "_create_scoped_session" in inspect.getsource(method)
    }


def names_that_the_cache_asks_for() -> set[str]:
    return set(re.findall(r"self\._backend\.(\w+)", inspect.getsource(_CachedStorage)))


def test_every_write_of_optuna_is_in_the_table_of_guarded_writes() -> None:
    writes = {name for name in vars(RDBStorage) if name.startswith("set_trial_")}
    assert writes == set(WRITES)


def test_every_method_of_optuna_that_queries_the_database_waits_for_it_or_has_a_reason_not_to() -> None:
    assert set(WAITED_FOR) == names_that_open_a_session() - set(NOT_WAITED_FOR)
    assert set(NOT_WAITED_FOR) <= names_that_open_a_session(), "the reasons are for methods that exist"


def test_every_method_that_optunas_cache_calls_waits_or_queries_no_database() -> None:
    asks_no_database = {"get_heartbeat_interval", "get_heartbeat_stale_trial_callback"}
    assert names_that_the_cache_asks_for() - names_that_open_a_session() == asks_no_database
    assert names_that_the_cache_asks_for() - asks_no_database - set(WAITED_FOR) == set(NOT_WAITED_FOR)


@pytest.mark.parametrize("name", WAITED_FOR)
def test_a_call_waits_while_the_database_is_away(empty: StudyStorage, name: str) -> None:
    arguments: list[Any] = [set() for _ in list(inspect.signature(getattr(RDBStorage, name)).parameters)[1:]]
    with away(empty), empty.impatient(), pytest.raises(StorageAway, match="server closed the connection"):
        getattr(empty, name)(*arguments)
    empty.get_all_studies()  # the outage is over


def test_optunas_heartbeat_is_off(empty: StudyStorage) -> None:
    assert empty.get_heartbeat_interval() is None


@on_both_databases
def test_no_write_of_optuna_gets_past_the_fence(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=len(WRITES))
    slow, successor = study.storage, StudyStorage(study.url)
    for name, write in WRITES.items():
        held = lapsed(slow, study, f"slow to {name}")
        assert claim(successor, study, f"successor of {name}").trial_id == held.trial_id
        before = successor.get_trial(held.trial_id)

        with pytest.raises(LeaseLost):
            write(slow, held.trial_id)

        assert successor.get_trial(held.trial_id) == before, name
        write(successor, held.trial_id)
        assert successor.get_trial(held.trial_id) != before, name


@on_both_databases
def test_no_late_write_gets_past_the_fence_after_the_next_holder_has_ended_the_trial(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=len(WRITES))
    slow, successor = study.storage, StudyStorage(study.url)
    for name, write in WRITES.items():
        held = lapsed(slow, study, f"slow to {name}")
        claim(successor, study, "successor").finish("complete", values=[0.7])
        before = successor.get_trial(held.trial_id)

        with pytest.raises(LeaseLost):
            write(slow, held.trial_id)

        assert successor.get_trial(held.trial_id) == before, name


def test_the_check_runs_in_the_session_that_writes(tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    study = tiny_study()
    held = claim(study.storage, study, "worker")
    sessions = []

    def seen(session: Session, claim: object, **values: object) -> None:
        sessions.append(session is study.storage.scoped_session())

    monkeypatch.setattr(ledger, "fence", seen)
    for name, write in WRITES.items():
        sessions.clear()
        write(study.storage, held.trial_id)
        assert sessions, name
        assert set(sessions) == {True}, name
