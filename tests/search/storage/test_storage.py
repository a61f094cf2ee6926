"""The ledger inside Optuna's transactions. The first tests fail when the internals that it leans on change."""

from __future__ import annotations

import inspect
import pickle
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import optuna
import psycopg
import pytest
from optuna.distributions import FloatDistribution
from optuna.storages import RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.trial import TrialState
from sqlalchemy import event, select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

from search.errors import StorageError, StudyError
from search.storage import ledger, optuna_rows
from search.storage.database import storage_errors
from search.storage.ledger import Claim, LeaseLost
from search.storage.outages import StorageAway
from search.storage.stored_study import load_stored, with_stored_proxies
from search.storage.study_storage import WAITED_FOR, StudyStorage
from search.storage.tables import StudyRow, TrialRow, database_now
from search.study.study_file import study_of_tree

if TYPE_CHECKING:
    from tests.support.tiny_study import TinyStudy

    MakeStudy = Callable[..., TinyStudy]

on_both_databases = pytest.mark.parametrize("storage_url", ["sqlite", "postgresql"], indirect=True)
on_postgresql = pytest.mark.parametrize("storage_url", ["postgresql"], indirect=True)

WRITES: dict[str, Callable[[StudyStorage, int], object]] = {
    "set_trial_param": lambda s, t: s.set_trial_param(t, "x", 0.5, FloatDistribution(0, 1)),
    "set_trial_intermediate_value": lambda s, t: s.set_trial_intermediate_value(t, 1, 0.5),
    "set_trial_user_attr": lambda s, t: s.set_trial_user_attr(t, "note", 1),
    "set_trial_system_attr": lambda s, t: s.set_trial_system_attr(t, "note", 1),
    "set_trial_state_values": lambda s, t: s.set_trial_state_values(t, TrialState.COMPLETE, [0.5]),
}

NOT_WAITED_FOR = {
    "_create_new_trial": "trials are made by `claim` alone, in a transaction of its own",
    "delete_study": "deletes the ledger's part too, in a transaction of its own, which waits",
    "set_trial_intermediate_value": "a report does not wait: it is kept and sent later",
    "record_heartbeat": "leases are the ledger's, Optuna's heartbeat is off",
    "_get_stale_trial_ids": "leases are the ledger's, Optuna's heartbeat is off",
}


def claim(storage: StudyStorage, study: TinyStudy, owner: str) -> Claim:
    taken = storage.claim(study.stored.study_id, owner, first={})
    assert taken is not None
    return taken


def lapsed(storage: StudyStorage, study: TinyStudy, owner: str) -> Claim:
    """A claim whose lease has run out already."""
    lease, storage.lease = storage.lease, -1.0
    try:
        return claim(storage, study, owner)
    finally:
        storage.lease = lease


def row_of(storage: StudyStorage, held: Claim) -> dict[str, Any]:
    with storage.engine.connect() as connection:
        row = connection.execute(select(TrialRow.__table__).where(TrialRow.trial_id == held.trial_id)).one()
        return dict(row._mapping)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> StudyStorage:
    """A storage without a study, for what needs none."""
    return StudyStorage(f"sqlite:///{tmp_path_factory.mktemp('empty') / 'empty.db'}", create=True)


@contextmanager
def away(storage: StudyStorage) -> Iterator[None]:
    """The database answers nothing meanwhile."""

    def no_answer(*args: object) -> None:
        raise OperationalError("", None, psycopg.OperationalError("server closed the connection unexpectedly"))

    event.listen(storage.engine, "before_cursor_execute", no_answer)
    try:
        yield
    finally:
        event.remove(storage.engine, "before_cursor_execute", no_answer)


@contextmanager
def first_answer_lost() -> Iterator[list[str]]:
    """The next commit arrives, and nobody learns of it."""
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


def test_every_method_of_optuna_that_asks_the_database_waits_for_it_but_those_that_have_a_reason() -> None:
    assert set(WAITED_FOR) == names_that_open_a_session() - set(NOT_WAITED_FOR)
    assert set(NOT_WAITED_FOR) <= names_that_open_a_session(), "the reasons are for methods that exist"


def test_all_that_optunas_cache_asks_of_the_storage_waits_or_asks_no_database() -> None:
    asks_no_database = {"get_heartbeat_interval", "get_heartbeat_stale_trial_callback"}
    assert names_that_the_cache_asks_for() - names_that_open_a_session() == asks_no_database
    assert names_that_the_cache_asks_for() - asks_no_database - set(WAITED_FOR) == set(NOT_WAITED_FOR)


@pytest.mark.parametrize("name", WAITED_FOR)
def test_a_call_waits_while_the_database_is_away(empty: StudyStorage, name: str) -> None:
    arguments: list[Any] = [set() for _ in list(inspect.signature(getattr(RDBStorage, name)).parameters)[1:]]
    with away(empty), empty.impatient(), pytest.raises(StorageAway, match="server closed the connection"):
        getattr(empty, name)(*arguments)
    empty.get_all_studies()  # the outage is over


def test_the_heartbeat_that_nothing_waits_for_is_off(empty: StudyStorage) -> None:
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
def test_no_late_write_gets_past_the_fence_when_the_successor_has_ended_the_trial(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=len(WRITES))
    slow, successor = study.storage, StudyStorage(study.url)
    for name, write in WRITES.items():
        held = lapsed(slow, study, f"slow to {name}")
        successor.finish(claim(successor, study, "successor"), "complete", values=[0.7])
        before = successor.get_trial(held.trial_id)

        with pytest.raises(LeaseLost):
            write(slow, held.trial_id)

        assert successor.get_trial(held.trial_id) == before, name


ENDS: dict[str, Callable[[StudyStorage, Claim], object]] = {
    "finish": lambda s, c: s.finish(c, "complete", values=[0.5]),
    "give_up": lambda s, c: s.give_up(c),
    "start_over": lambda s, c: s.start_over(c, parameters=True),
    "release": lambda s, c: s.release(c),
}


@on_both_databases
def test_nothing_that_ends_a_claim_gets_past_the_fence(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=len(ENDS))
    slow, successor = study.storage, StudyStorage(study.url)
    for name, end in ENDS.items():
        held = lapsed(slow, study, f"slow to {name}")
        taken = claim(successor, study, f"successor of {name}")
        successor.set_trial_param(taken.trial_id, "x", 0.5, FloatDistribution(0, 1))
        successor.set_trial_intermediate_value(taken.trial_id, 1, 0.5)
        before, row_before = successor.get_trial(held.trial_id), row_of(successor, held)

        with pytest.raises(LeaseLost):
            end(slow, held)

        assert (successor.get_trial(held.trial_id), row_of(successor, held)) == (before, row_before), name
        end(successor, taken)
        assert successor.get_trial(held.trial_id) != before, name


def test_the_check_runs_in_the_session_that_writes(tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    study = tiny_study()
    held = claim(study.storage, study, "worker")
    sessions = []

    def seen(session: Session, claim: Claim, **values: object) -> None:
        sessions.append(session is study.storage.scoped_session())

    monkeypatch.setattr(ledger, "fence", seen)
    for name, write in WRITES.items():
        sessions.clear()
        write(study.storage, held.trial_id)
        assert sessions, name
        assert set(sessions) == {True}, name


@on_both_databases
def test_a_value_and_the_ledgers_state_are_written_together_or_not_at_all(
    tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study()
    held = claim(study.storage, study, "worker")
    monkeypatch.setattr(RDBStorage, "_set_trial_value_without_commit", _power_cut)
    with pytest.raises(InterruptedError):
        study.storage.finish(held, "complete", values=[0.5])
    assert row_of(study.storage, held)["state"] == "running"
    assert study.storage.get_trial(held.trial_id).state == TrialState.RUNNING


@on_both_databases
def test_a_slot_and_its_trial_are_taken_together_or_not_at_all(
    tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study(trials=1)
    with monkeypatch.context() as patched:
        patched.setattr(ledger, "add_trial", _power_cut)
        with pytest.raises(InterruptedError):
            claim(study.storage, study, "worker")
    assert study.storage.get_all_trials(study.stored.study_id) == []
    assert claim(study.storage, study, "next").number == 0


@on_both_databases
def test_a_report_and_its_checkpoint_are_written_together_or_not_at_all(
    tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study()
    storage = study.storage
    held = claim(storage, study, "worker")
    storage.keep_checkpoint(held, "first")
    assert row_of(storage, held)["checkpoint"] is None, "not before its report"
    storage.set_trial_intermediate_value(held.trial_id, 1, 0.1)
    assert row_of(storage, held)["checkpoint"] == "first"

    storage.keep_checkpoint(held, "second")
    with monkeypatch.context() as patched:
        patched.setattr(optuna_rows, "report", _power_cut)
        with pytest.raises(InterruptedError):
            storage.set_trial_intermediate_value(held.trial_id, 2, 0.2)

    assert row_of(storage, held)["checkpoint"] == "first"
    assert storage.get_trial(held.trial_id).intermediate_values == {1: 0.1}


@on_both_databases
def test_a_checkpoint_that_counts_makes_the_attempts_start_again(tiny_study: MakeStudy) -> None:
    study = tiny_study()
    lapsed(study.storage, study, "lost")
    held = claim(study.storage, study, "worker")
    assert held.attempts == 2
    study.storage.keep_checkpoint(held, "first")
    study.storage.set_trial_intermediate_value(held.trial_id, 1, 0.1)
    row = row_of(study.storage, held)
    assert (row["attempts"], row["checkpoint"]) == (1, "first")


def _power_cut(*args: object, **kwargs: object) -> None:
    raise InterruptedError


@on_both_databases
def test_reports_do_not_wait_for_a_database_that_is_away_and_are_sent_in_order_before_the_next(
    tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    study = tiny_study()
    storage = study.storage
    storage.patience = 60.0
    held = claim(storage, study, "worker")
    with away(storage):
        for epoch in (1, 2):
            storage.keep_checkpoint(held, f"after {epoch}")
            storage.set_trial_intermediate_value(held.trial_id, epoch, epoch / 10)
    assert caplog.text.count("waiting for it") == 1, "an outage is said once"
    assert storage.get_trial(held.trial_id).intermediate_values == {}
    assert row_of(storage, held)["checkpoint"] is None

    sent = []
    original = optuna_rows.report

    def seen(session: Session, trial_id: int, step: int, value: float) -> None:
        sent.append(step)
        original(session, trial_id, step, value)

    monkeypatch.setattr(optuna_rows, "report", seen)
    storage.keep_checkpoint(held, "after 3")
    storage.set_trial_intermediate_value(held.trial_id, 3, 0.3)

    assert sent == [1, 2, 3]
    assert storage.get_trial(held.trial_id).intermediate_values == {1: 0.1, 2: 0.2, 3: 0.3}
    assert row_of(storage, held)["checkpoint"] == "after 3"


def test_a_report_during_an_outage_makes_no_attempt_soon_after_one_that_failed(
    tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study()
    held = claim(study.storage, study, "worker")
    with away(study.storage):
        study.storage.set_trial_intermediate_value(held.trial_id, 1, 0.1)
        with monkeypatch.context() as patched:
            patched.setattr(StudyStorage, "_transaction", _power_cut)
            study.storage.set_trial_intermediate_value(held.trial_id, 2, 0.2)
    study.storage.finish(held, "complete", values=[0.5])
    assert study.storage.get_trial(held.trial_id).intermediate_values == {1: 0.1, 2: 0.2}


def test_leases_that_ran_out_during_an_outage_may_be_renewed_before_they_are_taken(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=3)
    storage = study.storage
    assert lapsed(StudyStorage(study.url), study, "outlasted").number == 0
    with away(storage), storage.impatient(), pytest.raises(StorageAway):
        storage.get_all_studies()
    storage.get_all_studies()
    assert claim(storage, study, "worker").number == 1
    storage.lease = 0.0  # half of which has passed
    assert claim(storage, study, "another").number == 0


NEXT_WRITES: dict[str, Callable[[StudyStorage, Claim], object]] = {
    "set_trial_param": lambda s, c: WRITES["set_trial_param"](s, c.trial_id),
    "set_trial_user_attr": lambda s, c: WRITES["set_trial_user_attr"](s, c.trial_id),
    "set_trial_system_attr": lambda s, c: WRITES["set_trial_system_attr"](s, c.trial_id),
    "finish": ENDS["finish"],
    "release": ENDS["release"],
}


@pytest.mark.parametrize("write", NEXT_WRITES)
def test_reports_that_were_kept_are_sent_before_any_other_write(tiny_study: MakeStudy, write: str) -> None:
    study = tiny_study()
    storage = study.storage
    held = claim(storage, study, "worker")
    with away(storage):
        storage.keep_checkpoint(held, "after 1")
        storage.set_trial_intermediate_value(held.trial_id, 1, 0.1)

    NEXT_WRITES[write](storage, held)

    # A checkpoint that counts while its epoch's report is missing would lose the report with the worker.
    assert storage.get_trial(held.trial_id).intermediate_values == {1: 0.1}


def test_reports_that_were_kept_do_not_get_past_the_fence(tiny_study: MakeStudy) -> None:
    study = tiny_study()
    slow, successor = study.storage, StudyStorage(study.url)
    held = lapsed(slow, study, "slow")
    with away(slow):
        slow.set_trial_intermediate_value(held.trial_id, 1, 0.1)
    slow.get_all_studies()  # the outage is over
    claim(successor, study, "successor")
    with pytest.raises(LeaseLost):
        slow.set_trial_intermediate_value(held.trial_id, 2, 0.2)
    assert successor.get_trial(held.trial_id).intermediate_values == {}


@on_both_databases
def test_a_claim_whose_answer_got_lost_is_found_again_by_its_own_worker_and_counts_no_attempt(
    tiny_study: MakeStudy,
) -> None:
    study = tiny_study(trials=2)
    study.storage.patience = 60.0
    with first_answer_lost():
        held = claim(study.storage, study, "worker")
    assert (held.number, held.token, held.attempts) == (0, 2, 1)
    assert claim(study.storage, study, "worker") == Claim(held.trial_id, 0, token=3, attempts=1, checkpoint=None)
    assert claim(study.storage, study, "other").number == 1
    assert [trial.number for trial in study.storage.get_all_trials(study.stored.study_id)] == [0, 1]


@on_both_databases
def test_an_end_whose_answer_got_lost_is_one_end(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=2)
    study.storage.patience = 60.0
    held = claim(study.storage, study, "worker")
    with first_answer_lost():
        study.storage.finish(
            held,
            "complete",
            values=[0.75],
            scores=np.array([1.0, 2.0]),
            attributes={"seconds": 3},
            exhibits={"file": "{}"},
        )
    trial, row = study.storage.get_trial(held.trial_id), row_of(study.storage, held)
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.75)
    assert (row["state"], np.frombuffer(row["scores"]).tolist()) == ("complete", [1.0, 2.0])
    assert (trial.user_attrs, trial._system_attrs["file"]) == ({"seconds": 3}, "{}")
    assert claim(study.storage, study, "worker").number == 1


@on_both_databases
def test_a_write_whose_answer_got_lost_is_made_once(tiny_study: MakeStudy) -> None:
    study = tiny_study()
    study.storage.patience = 60.0
    undisturbed, disturbed = (claim(study.storage, study, owner) for owner in ("one", "other"))
    for write in (WRITES[name] for name in ("set_trial_param", "set_trial_user_attr", "set_trial_system_attr")):
        write(study.storage, undisturbed.trial_id)
        with first_answer_lost():
            write(study.storage, disturbed.trial_id)
    as_it_should_be, as_it_is = (study.storage.get_trial(held.trial_id) for held in (undisturbed, disturbed))
    assert as_it_is.params == as_it_should_be.params
    assert as_it_is.user_attrs == as_it_should_be.user_attrs
    assert as_it_is.system_attrs == as_it_should_be.system_attrs


@on_both_databases
def test_a_release_whose_answer_got_lost_is_one_release(tiny_study: MakeStudy) -> None:
    study = tiny_study()
    study.storage.patience = 60.0
    held = claim(study.storage, study, "worker")
    with first_answer_lost():
        study.storage.release(held)
    assert row_of(study.storage, held)["state"] == "waiting"
    assert claim(study.storage, study, "other").attempts == 1


def test_a_study_whose_making_got_no_answer_is_joined(tiny_study: MakeStudy) -> None:
    storage = tiny_study().storage
    storage.patience = 60.0
    with first_answer_lost():
        made = optuna.create_study(study_name="new", storage=storage, load_if_exists=True)
    assert [study.study_name for study in storage.get_all_studies()] == ["tiny", made.study_name]


@on_both_databases
def test_a_trial_that_is_given_up_fails_for_optuna_too_and_says_what_its_last_worker_said(
    tiny_study: MakeStudy,
) -> None:
    study = tiny_study(trials=2)
    spoke, silent = claim(study.storage, study, "one"), claim(study.storage, study, "other")
    study.storage.transact(lambda session: ledger.abandon(session, spoke, "RuntimeError: no memory"))

    study.storage.give_up(spoke)
    study.storage.give_up(silent)

    for held, reason in (
        (spoke, "its worker was lost 3 times; the last one said: RuntimeError: no memory"),
        (silent, "its worker was lost 3 times"),
    ):
        row = row_of(study.storage, held)
        assert (row["state"], row["reason"], row["lease_until"]) == ("failed", reason, None)
        assert study.storage.get_trial(held.trial_id).state == TrialState.FAIL


@on_both_databases
@pytest.mark.parametrize(("parameters", "left"), [(False, {"x": 0.5}), (True, {})])
def test_starting_over_forgets_the_curve_and_the_parameters_if_asked(
    tiny_study: MakeStudy, parameters: bool, left: dict[str, float]
) -> None:
    study = tiny_study()
    storage = study.storage
    first = storage.claim(study.stored.study_id, "worker", first={"h_dim": 16})
    bystander = claim(storage, study, "bystander")
    assert first is not None
    for held in (first, bystander):
        storage.set_trial_param(held.trial_id, "x", 0.5, FloatDistribution(0, 1))
        storage.set_trial_system_attr(held.trial_id, "completed_rung_0", 0.5)
        storage.keep_checkpoint(held, "after 1")
        storage.set_trial_intermediate_value(held.trial_id, 1, 0.5)

    storage.start_over(first, parameters=parameters)

    wiped, kept = storage.get_trial(first.trial_id), storage.get_trial(bystander.trial_id)
    assert (wiped.params, wiped.intermediate_values) == (left, {})
    assert wiped.system_attrs == {"fixed_params": {"h_dim": 16}}, "a baseline stays one"
    assert row_of(storage, first)["checkpoint"] is None
    assert (kept.params, kept.intermediate_values) == ({"x": 0.5}, {1: 0.5})
    assert kept.system_attrs == {"completed_rung_0": 0.5}
    assert row_of(storage, bystander)["checkpoint"] == "after 1"


@on_both_databases
def test_a_budget_that_is_handed_out_gives_no_more_claims_until_it_is_raised(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=2)
    assert [claim(study.storage, study, owner).number for owner in ("one", "two")] == [0, 1]
    assert study.storage.claim(study.stored.study_id, "three", first={}) is None
    tiny_study(trials=3)
    assert claim(study.storage, study, "three").number == 2


@on_both_databases
def test_workers_that_claim_at_the_same_moment_get_different_trials_and_no_more_than_there_are(
    tiny_study: MakeStudy,
) -> None:
    study = tiny_study(trials=6)
    for owner in ("one", "two"):
        study.storage.release(claim(study.storage, study, owner))
    gate = threading.Barrier(8)

    def take(owner: int) -> int | None:
        storage = StudyStorage(study.url, patience=60.0)
        gate.wait()
        taken = storage.claim(study.stored.study_id, f"worker-{owner}", first={})
        storage.engine.dispose()
        return None if taken is None else taken.number

    with ThreadPoolExecutor(8) as workers:
        numbers = list(workers.map(take, range(8)))
    # One that finds the last free trial locked by another may go away empty-handed, and asks again later.
    claimed = [number for number in numbers if number is not None]
    assert len(claimed) == len(set(claimed))
    while (later := study.storage.claim(study.stored.study_id, f"later-{len(claimed)}", first={})) is not None:
        claimed.append(later.number)
    assert sorted(claimed) == list(range(6))


def test_a_budget_is_never_lowered_by_joining(tiny_study: MakeStudy) -> None:
    tiny_study(trials=5)
    assert tiny_study(trials=2).stored.budget == 5


@on_both_databases
def test_a_trial_in_its_lease_is_nobody_elses(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=1)
    claim(study.storage, study, "worker")
    assert StudyStorage(study.url).claim(study.stored.study_id, "other", first={}) is None


@on_both_databases
def test_a_released_trial_waits_and_is_taken_first_and_counts_no_attempt(tiny_study: MakeStudy) -> None:
    study = tiny_study()
    held = claim(study.storage, study, "worker")
    study.storage.release(held)
    assert study.storage.get_trial(held.trial_id).state == TrialState.WAITING
    again = claim(StudyStorage(study.url), study, "other")
    assert (again.trial_id, again.token, again.attempts) == (held.trial_id, 2, 1)
    assert study.storage.get_trial(held.trial_id).state == TrialState.RUNNING


@on_both_databases
def test_a_lapsed_trial_is_taken_with_its_checkpoint_and_counts_an_attempt(tiny_study: MakeStudy) -> None:
    study = tiny_study()
    held = lapsed(study.storage, study, "lost")
    study.storage.keep_checkpoint(held, "after 1")
    study.storage.set_trial_intermediate_value(held.trial_id, 1, 0.5)
    again = claim(StudyStorage(study.url), study, "successor")
    assert again == Claim(held.trial_id, 0, token=2, attempts=2, checkpoint="after 1")


@on_both_databases
def test_a_dead_workers_leases_end_at_once_when_its_supervisor_says_so(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=1)
    held = claim(study.storage, study, "host:1")
    study.storage.transact(lambda session: ledger.expire(session, study.stored.study_id, "host:1"))
    assert claim(StudyStorage(study.url), study, "host:2").trial_id == held.trial_id


@on_both_databases
def test_hours_that_are_used_up_end_claims_and_count_only_time_with_a_worker(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=2, search={"trials": 2, "hours": 1.0})
    claim(study.storage, study, "worker")
    with study.storage.engine.begin() as connection:
        long_ago = database_now() - 7200
        connection.execute(update(StudyRow).values(last_seen=long_ago))
        ledger.sign_of_life(connection, study.stored.study_id, lease=30.0)
        assert not ledger.out_of_time(connection, study.stored.study_id), "two hours without a worker do not count"
        connection.execute(update(StudyRow).values(last_seen=database_now() - 20))
        ledger.sign_of_life(connection, study.stored.study_id, lease=30.0)
        active = connection.execute(select(StudyRow.active_seconds)).scalar_one()
        assert active == pytest.approx(20, abs=5)
        connection.execute(update(StudyRow).values(active_seconds=3600.0))
    assert study.storage.claim(study.stored.study_id, "other", first={}) is None


@on_postgresql
def test_at_the_end_of_the_hours_workers_that_free_the_lost_trials_do_not_wait_for_each_other(
    tiny_study: MakeStudy,
) -> None:
    study = tiny_study()
    first, second = (claim(study.storage, study, owner) for owner in ("lost", "lost too"))
    with study.storage.engine.begin() as connection:
        connection.execute(update(TrialRow).values(lease_until=0.0))
    with study.storage.engine.begin() as connection:
        ledger.clear(connection, first)  # as one that writes to it at this moment
        other = StudyStorage(study.url)
        freed = other.transact(lambda session: ledger.set_free(session, study.stored.study_id, None))
    assert freed == [second.trial_id]


@on_postgresql
def test_claims_do_not_wait_for_each_other_at_the_studys_row(tiny_study: MakeStudy) -> None:
    study = tiny_study()
    study_id = study.stored.study_id
    study.storage.release(claim(study.storage, study, "earlier"))
    with study.storage.engine.begin() as connection:
        assert ledger.admits(connection, study_id, since=None)
        assert claim(StudyStorage(study.url), study, "takes over").number == 0
        assert claim(StudyStorage(study.url), study, "starts a trial").number == 1


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
            storage.transact(lambda session: ledger.renew(session, held, 30.0))

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(work, range(2)))

    assert storage.get_trial(held.trial_id).user_attrs == {"note 0": 4, "note 1": 4}
    assert opened == []
    assert pool.checkedout() == 0


def test_a_storage_is_not_shared_between_processes(empty: StudyStorage) -> None:
    with pytest.raises(TypeError, match="open another one"):
        pickle.dumps(empty)


class Fickle:
    """A call that fails so often before it succeeds."""

    def __init__(self, error: Exception, *, failures: int) -> None:
        self.error, self.failures, self.calls = error, failures, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error
        return "done"


NO_ANSWER = OperationalError("", None, psycopg.OperationalError("connection refused"))
NONSENSE = OperationalError("", None, psycopg.errors.UndefinedTable("no such table"))


def test_what_fails_while_the_database_is_away_is_tried_again(
    empty: StudyStorage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("search.storage.outages._FIRST_PAUSE", 0.001)
    empty.patience = 60.0
    call = Fickle(NO_ANSWER, failures=3)
    assert (empty.through_outages(call), call.calls) == ("done", 4)
    assert caplog.text.count("is away (connection refused)") == 1, "an outage is said once"
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


def test_an_impatient_thread_is_told_at_once_and_its_impatience_is_its_own_and_ends(
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


def test_a_read_only_storage_is_said_so(tiny_study: MakeStudy) -> None:
    study = tiny_study()
    database = study.url.removeprefix("sqlite:///")
    read_only = StudyStorage(f"sqlite:///file:{database}?mode=ro&uri=true")
    with pytest.raises(StorageError, match="attempt to write a readonly database"), storage_errors(read_only.url):
        claim(read_only, study, "worker")


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        (
            {"model": {"family": "vae", "context": 3, "h_dim": 16, "z_dim": 4}, "baseline": {}},
            "model.h_dim: stored —, here 16",
        ),
        (
            {"model": {"family": "vae", "context": 3, "h_dim": {"low": 8, "high": 32}, "z_dim": 4}},
            "model.h_dim.high: stored 64, here 32",
        ),
        ({"search": {"trials": 3, "pruner": "none", "sampler": "random"}}, "search.sampler: stored tpe, here random"),
        ({"baseline": {"h_dim": 17}}, "baseline.h_dim: stored 16, here 17"),
    ],
)
def test_a_study_that_exists_with_another_space_is_refused_with_what_differs(
    tiny_study: MakeStudy, change: dict[str, object], differs: str
) -> None:
    tiny_study()
    with pytest.raises(StudyError, match=differs):
        tiny_study(**change)


PLAIN_MODEL = {"family": "vae", "context": 3, "h_dim": {"low": 8, "high": 64}, "z_dim": 4}


@pytest.mark.parametrize(
    "written_out",
    [
        {"scoring": {"pooling": "mean"}},
        {"features": {"n_mels": 32, "n_fft": 1024}},
        {"model": {**PLAIN_MODEL, "kld_weight": 0.01}},
        {"validation": {"metric": "auc"}},
    ],
)
def test_a_default_that_is_written_out_makes_no_other_study(
    tiny_study: MakeStudy, written_out: dict[str, object]
) -> None:
    first = tiny_study()
    assert tiny_study(**written_out).stored.uid == first.stored.uid


BY_PROXIES = {"metric": "proxy", "share": 0.34}


def test_other_proxies_than_those_that_a_study_goes_by_are_refused(tiny_study: MakeStudy) -> None:
    tiny_study(validation={**BY_PROXIES, "proxies": ["other IDs"]})

    with pytest.raises(StudyError, match=r"validation.proxies: stored \['other IDs'\], here \['knock 1'\]"):
        tiny_study(validation={**BY_PROXIES, "proxies": ["knock 1"]})


def test_whoever_names_no_proxies_takes_those_of_the_stored_study(
    tiny_study: MakeStudy, storage_url: str, tmp_path: Path
) -> None:
    tree = {"study": "tiny", "model": {"family": "stat"}, "validation": BY_PROXIES}
    unnamed = study_of_tree(tree, origin="here")
    assert with_stored_proxies(unnamed, storage_url) == unnamed
    assert with_stored_proxies(unnamed, f"sqlite:///{tmp_path / 'none.db'}") == unnamed

    tiny_study(validation={**BY_PROXIES, "proxies": ["other IDs"]})

    joining = with_stored_proxies(unnamed, storage_url)
    assert joining.validation.proxies == ["other IDs"]
    assert joining.tree == {**unnamed.tree, "validation": {**BY_PROXIES, "proxies": ["other IDs"]}}
    named = study_of_tree({**tree, "validation": {**BY_PROXIES, "proxies": ["knock 1"]}}, origin="here")
    assert with_stored_proxies(named, storage_url) == named


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_search_does_not_take_over_a_study_of_somebody_elses(
    tiny_study: MakeStudy, direction: Literal["minimize", "maximize"]
) -> None:
    url = tiny_study().url
    foreign = optuna.create_study(study_name="foreign", storage=url, direction=direction)
    foreign.add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(StudyError, match="was not made by Offkey"):
        tiny_study(study="foreign")


def test_joining_without_hours_leaves_the_hours_as_they_are(tiny_study: MakeStudy) -> None:
    study = tiny_study(search={"trials": 3, "pruner": "none", "hours": 2.0})
    tiny_study()
    with study.storage.engine.connect() as connection:
        assert connection.execute(select(StudyRow.hours)).scalar_one() == 2.0


def test_a_study_that_offkey_did_not_make_is_refused(tiny_study: MakeStudy) -> None:
    study = tiny_study()
    optuna.create_study(study_name="foreign", storage=study.url)
    with pytest.raises(StudyError, match="was not made by Offkey"):
        load_stored(study.storage, "foreign")
