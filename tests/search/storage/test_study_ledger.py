"""Which worker gets which trial: an exact budget, leases, hours."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from optuna.trial import TrialState
from sqlalchemy import select, update

from search.storage import claims, ledger, study_rows
from search.storage.claims import LeaseLost
from search.storage.outages import StorageAway
from search.storage.study_storage import StudyStorage
from search.storage.tables import StudyRow, TrialRow, database_now
from tests.support.holding import WRITES, away, claim, first_answer_lost, lapsed, power_cut, row_of

if TYPE_CHECKING:
    from tests.support.tiny_study import TinyStudy

    MakeStudy = Callable[..., TinyStudy]


on_both_databases = pytest.mark.parametrize("storage_url", ["sqlite", "postgresql"], indirect=True)
on_postgresql = pytest.mark.parametrize("storage_url", ["postgresql"], indirect=True)


@on_both_databases
def test_a_slot_and_its_trial_are_taken_together_or_not_at_all(
    tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study(trials=1)
    with monkeypatch.context() as patched:
        patched.setattr(claims, "add_trial", power_cut)
        with pytest.raises(InterruptedError):
            claim(study.storage, study, "worker")
    assert study.storage.get_all_trials(study.stored.study_id) == []
    assert claim(study.storage, study, "next").number == 0


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


@on_both_databases
def test_a_claim_whose_answer_is_lost_returns_to_its_worker_and_counts_no_attempt(
    tiny_study: MakeStudy,
) -> None:
    study = tiny_study(trials=2)
    study.storage.patience = 60.0
    with first_answer_lost():
        held = claim(study.storage, study, "worker")
    assert (held.number, held.token, held.attempts) == (0, 2, 1)
    again = claim(study.storage, study, "worker")
    assert (again.trial_id, again.number, again.token) == (held.trial_id, 0, 3)
    assert (again.attempts, again.checkpoint) == (1, None)
    assert claim(study.storage, study, "other").number == 1
    assert [trial.number for trial in study.storage.get_all_trials(study.stored.study_id)] == [0, 1]


@on_both_databases
def test_a_budget_that_is_handed_out_allows_no_claims_until_it_is_raised(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=2)
    assert [claim(study.storage, study, owner).number for owner in ("one", "two")] == [0, 1]
    assert study.ledger.claim("three", first={}) is None
    tiny_study(trials=3)
    assert claim(study.storage, study, "three").number == 2


@on_both_databases
def test_workers_that_claim_at_the_same_moment_get_different_trials_and_no_more_than_there_are(
    tiny_study: MakeStudy,
) -> None:
    study = tiny_study(trials=6)
    for owner in ("one", "two"):
        claim(study.storage, study, owner).release()
    gate = threading.Barrier(8)

    def take(owner: int) -> int | None:
        storage = StudyStorage(study.url, patience=60.0)
        gate.wait()
        taken = study.ledger_over(storage).claim(f"worker-{owner}", first={})
        storage.engine.dispose()
        return None if taken is None else taken.number

    with ThreadPoolExecutor(8) as workers:
        numbers = list(workers.map(take, range(8)))
    # One that finds the last free trial locked by another may go away empty-handed, and asks again later.
    claimed = [number for number in numbers if number is not None]
    assert len(claimed) == len(set(claimed))
    while (later := study.ledger.claim(f"later-{len(claimed)}", first={})) is not None:
        claimed.append(later.number)
    assert sorted(claimed) == list(range(6))


@on_both_databases
def test_a_trial_in_its_lease_belongs_to_its_worker_alone(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=1)
    claim(study.storage, study, "worker")
    assert study.ledger_over(StudyStorage(study.url)).claim("other", first={}) is None


@on_both_databases
def test_a_released_trial_waits_and_is_taken_first_and_counts_no_attempt(tiny_study: MakeStudy) -> None:
    study = tiny_study()
    held = claim(study.storage, study, "worker")
    held.release()
    assert study.storage.get_trial(held.trial_id).state == TrialState.WAITING
    again = claim(StudyStorage(study.url), study, "other")
    assert (again.trial_id, again.token, again.attempts) == (held.trial_id, 2, 1)
    assert study.storage.get_trial(held.trial_id).state == TrialState.RUNNING


@on_both_databases
def test_a_lapsed_trial_is_taken_with_its_checkpoint_and_counts_an_attempt(tiny_study: MakeStudy) -> None:
    study = tiny_study()
    held = lapsed(study.storage, study, "lost")
    held.keep_checkpoint("after 1")
    study.storage.set_trial_intermediate_value(held.trial_id, 1, 0.5)
    again = claim(StudyStorage(study.url), study, "successor")
    assert (again.trial_id, again.number, again.token) == (held.trial_id, 0, 2)
    assert (again.attempts, again.checkpoint) == (2, "after 1")


@on_both_databases
def test_a_dead_workers_leases_end_at_once_when_its_supervisor_expires_them(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=1)
    held = claim(study.storage, study, "host:1")
    study.ledger.expire("host:1")
    assert claim(StudyStorage(study.url), study, "host:2").trial_id == held.trial_id


@on_both_databases
def test_hours_that_are_used_up_end_claims_and_count_only_time_with_a_worker(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=2, search={"trials": 2, "hours": 1.0})
    claim(study.storage, study, "worker")
    with study.storage.engine.begin() as connection:
        long_ago = database_now() - 7200
        connection.execute(update(StudyRow).values(last_seen=long_ago))
        study_rows.sign_of_life(connection, study.ledger.study, lease=30.0)
        assert not study_rows.out_of_time(connection, study.ledger.study), "two hours without a worker do not count"
        connection.execute(update(StudyRow).values(last_seen=database_now() - 20))
        study_rows.sign_of_life(connection, study.ledger.study, lease=30.0)
        active = connection.execute(select(StudyRow.active_seconds)).scalar_one()
        assert active == pytest.approx(20, abs=5)
        connection.execute(update(StudyRow).values(active_seconds=3600.0))
    assert study.ledger.claim("other", first={}) is None


@on_both_databases
def test_a_clock_that_is_set_back_changes_neither_hours_nor_leases(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=2, search={"trials": 2, "hours": 1.0})
    lost = claim(study.storage, study, "lost")
    with study.storage.engine.begin() as connection:  # as if all this had been written two hours from now
        connection.execute(update(StudyRow).values(last_seen=database_now() + 7200, active_seconds=10.0))
        connection.execute(update(TrialRow).values(lease_until=TrialRow.lease_until + 7200))

    assert study.ledger.at_work() == []
    assert claim(study.storage, study, "other").trial_id == lost.trial_id
    with study.storage.engine.begin() as connection:
        study_rows.sign_of_life(connection, study.ledger.study, lease=30.0)
        active = connection.execute(select(StudyRow.active_seconds)).scalar_one()
    assert active == pytest.approx(10, abs=5)


@on_both_databases
def test_requests_to_stop_are_counted_and_reach_those_who_came_before(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=2)
    assert study.ledger.stops() == 0
    study.ledger.request_stop()

    assert (study.ledger.stops(), study.ledger.outlook(stops_before=0)) == (1, "stopped")
    assert study.ledger.outlook(stops_before=1) == "open"
    assert study.ledger.claim("came before", first={}, stops_before=0) is None
    assert study.ledger.claim("came after", first={}, stops_before=1) is not None


@on_postgresql
def test_at_the_end_of_the_hours_workers_that_free_the_lost_trials_do_not_wait_for_each_other(
    tiny_study: MakeStudy,
) -> None:
    study = tiny_study()
    first, second = (claim(study.storage, study, owner) for owner in ("lost", "lost too"))
    with study.storage.engine.begin() as connection:
        connection.execute(update(TrialRow).values(lease_until=0.0))
    with study.storage.engine.begin() as connection:
        ledger.fence(connection, first._claim)  # as one that writes to it at this moment
        other = StudyStorage(study.url)
        freed = other.transact(lambda session: ledger.set_free(session, study.ledger.study, None))
    assert freed == [second.trial_id]


@on_postgresql
def test_claims_do_not_wait_for_each_other_at_the_studys_row(tiny_study: MakeStudy) -> None:
    study = tiny_study()
    claim(study.storage, study, "earlier").release()
    with study.storage.engine.begin() as connection:
        assert study_rows.admission(connection, study.ledger.study, slot="host:0", stops_before=None)
        assert claim(StudyStorage(study.url), study, "takes over").number == 0
        assert claim(StudyStorage(study.url), study, "starts a trial").number == 1


def made_again(study: TinyStudy, make: MakeStudy) -> TinyStudy:
    """Deletes a study and creates another one, which gets the same key in SQLite."""
    study.storage.delete_study(study.stored.study_id)
    again = make(trials=study.stored.budget)
    assert (again.stored.study_id, again.stored.uid == study.stored.uid) == (study.stored.study_id, False)
    return again


def test_a_study_with_the_key_of_a_deleted_one_gives_nothing_to_the_deleted_studys_workers(
    tiny_study: MakeStudy,
) -> None:
    earlier = tiny_study(trials=2)
    later = made_again(earlier, tiny_study)
    later.ledger.claim("worker", first={})
    claim(later.storage, later, "another").finish("complete", values=[0.5])
    later.ledger.request_stop()

    assert earlier.ledger.claim("worker", first={}) is None
    assert (earlier.ledger.exists(), earlier.ledger.outlook(stops_before=0)) == (False, "deleted")
    assert (earlier.ledger.unfinished(), earlier.ledger.progress()) == (False, (0, frozenset()))
    assert (earlier.ledger.at_work(), earlier.ledger.is_stopped(stops_before=0)) == ([], False)
    assert not earlier.ledger.has_ended_any("another")
    earlier.ledger.expire("worker")
    assert not earlier.ledger.set_free("worker")
    assert later.ledger.at_work() == ["worker"]


def test_a_late_worker_of_a_deleted_study_writes_nothing_to_the_study_with_its_key(tiny_study: MakeStudy) -> None:
    earlier = tiny_study(trials=2)
    late = lapsed(earlier.storage, earlier, "late")
    later = made_again(earlier, tiny_study)
    successor = StudyStorage(later.url)
    taken = claim(successor, later, "successor")
    assert (taken.trial_id, taken.token) == (late.trial_id, late.token), "nothing else tells them apart"
    before, row = successor.get_trial(taken.trial_id), row_of(successor, taken)

    for write in (*WRITES.values(), lambda *given: late.renew(stops_before=0), lambda *given: late.release()):
        with pytest.raises(LeaseLost):
            write(earlier.storage, late.trial_id)

    assert not late.is_ended()
    assert (successor.get_trial(taken.trial_id), row_of(successor, taken)) == (before, row)
