"""Who failed, a trial or the place it was tried in: by what else failed there, and where else the trial failed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import optuna
import pytest
from optuna.trial import TrialState

from search.errors import StudyError
from search.results.failing_hosts import failing_hosts
from search.results.status import read_status
from search.storage.lease_rules import KILLED_FOR_MEMORY, MOST_DIFFERENT, MOST_FAILURES
from search.storage.slots import FailingSlot, slot_of
from tests.support.holding import claim, let_rests_end
from tests.support.tiny_study import trials_of

if TYPE_CHECKING:
    from tests.support.tiny_study import TinyStudy

    MakeStudy = Callable[..., TinyStudy]

on_both_databases = pytest.mark.parametrize("storage_url", ["sqlite", "postgresql"], indirect=True)

ERROR = "RuntimeError: CUDA error: unspecified launch failure"


def fails(study: TinyStudy, owner: str) -> int:
    """A worker that fails at its first trial; returns the trial's number."""
    held = claim(study.storage, study, owner)
    held.fail(ERROR)
    return held.number


def gets_on(study: TinyStudy, owner: str) -> int:
    """A worker that gets its trial done; returns the trial's number."""
    held = claim(study.storage, study, owner)
    held.keep_checkpoint("any@1/1")
    held.report(1, 0.5)
    held.finish("complete", values=[0.5])
    return held.number


@on_both_databases
def test_a_trial_that_failed_is_tried_elsewhere_and_its_failure_counts(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=3)
    assert fails(study, "a:0:x") == 0

    again = claim(study.storage, study, "b:0:x")

    assert (again.number, again.attempts, again.failures) == (0, 2, 1)
    assert study.storage.get_trial(again.trial_id).state == TrialState.RUNNING


@on_both_databases
def test_a_slot_in_which_a_trial_failed_takes_new_ones_until_one_gets_on_there(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=9)
    claim(study.storage, study, "b:0:x")  # at work
    taken = [fails(study, "a:0:x"), fails(study, "a:0:y"), gets_on(study, "a:0:z")]
    assert taken == [1, 2, 3]

    assert fails(study, "b:1:x") == 1, "whoever is sound takes the failed ones first"
    assert gets_on(study, "a:0:z") == 4, "it has failed here, and others are at work"


@on_both_databases
def test_a_broken_host_among_others_costs_no_trial(tiny_study: MakeStudy) -> None:
    """All of its four slots fail at whatever they get, also after they had got trials on."""
    study = tiny_study(trials=40)
    for slot in range(4):
        gets_on(study, f"broken:{slot}:x")
    working = [claim(study.storage, study, f"sound:{slot}:x") for slot in range(4)]

    tries = 0
    for _ in range(MOST_DIFFERENT):
        for slot in range(4):
            held = study.ledger.claim(f"broken:{slot}:y", first={})
            if held is not None:
                held.fail(ERROR)
                tries += 1
    for held in working:
        held.finish("complete", values=[0.5])
    while (held := study.ledger.claim("sound:0:y", first={})) is not None:
        held.finish("complete", values=[0.5])

    assert tries == 4 * MOST_DIFFERENT
    assert [row.state for row in study.rows()] == ["complete"] * 40
    assert all(slot.is_at_fault(alone=False) for slot in study.ledger.failing_slots())


@on_both_databases
def test_a_trial_that_fails_wherever_it_is_tried_is_given_up_and_other_trials_go_on(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=6)
    owners = [f"{host}:0:x" for host in ("a", "b")]
    tries = 0
    for step in range(40):
        held = study.ledger.claim(owners[step % 2], first={})
        if held is None:
            let_rests_end(study)
        elif held.is_to_be_given_up():
            held.give_up()
        elif held.number == 0:
            held.fail(ERROR)
            tries += 1
        else:
            held.finish("complete", values=[0.5])
    assert [row.state for row in study.rows()] == ["failed", *["complete"] * 5]
    assert tries == MOST_FAILURES


def test_alone_a_slot_tries_three_trials_until_one_is_given_up(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=9)

    tried: list[int] = []
    while len(tried) < 5:
        tried.append(fails(study, "only:0:x"))
        let_rests_end(study)

    assert tried == [0, 1, 2, 0, 0]
    given_up = claim(study.storage, study, "only:0:x")
    assert (given_up.number, given_up.is_to_be_given_up()) == (0, True)


def test_alone_a_trial_that_is_at_fault_is_given_up_and_the_others_end(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=4)
    order = []
    while (held := study.ledger.claim("only:0:x", first={})) is not None:
        order.append(held.number)
        if held.is_to_be_given_up():
            held.give_up()
        elif held.number == 0:
            held.fail(ERROR)
        else:
            held.keep_checkpoint("any@1/1")
            held.report(1, 0.5)
            held.finish("complete", values=[0.5])
        let_rests_end(study)
    assert order == [0, 1, 0, 2, 0, 0, 3]
    assert [row.state for row in study.rows()] == ["failed", *["complete"] * 3]


@on_both_databases
def test_a_broken_host_that_comes_first_waits_for_others_and_costs_no_trial(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=9)
    assert [fails(study, "broken:0:x") for _ in range(3)] == [0, 1, 2]
    assert study.ledger.claim("broken:0:y", first={}) is None, "its failed trials rest, and it fails at no new ones"

    assert [gets_on(study, "sound:0:x") for _ in range(9)] == list(range(9))


@on_both_databases
def test_the_last_trial_is_left_to_a_host_that_waits(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=1)
    fails(study, "a:0:x")

    assert [study.ledger.claim(f"a:{slot}:y", first={}) for slot in (0, 1)] == [None, None]
    assert claim(study.storage, study, "b:0:x").number == 0


def test_an_error_of_a_place_counts_against_the_slot_and_not_against_the_trial(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=9)
    numbers = []
    for process in "xyz":
        held = claim(study.storage, study, f"a:0:{process}")
        numbers.append(held.number)
        held.fail("StoreError: the disk is full", of_a_place=True)

    assert numbers == [0, 1, 2], "other trials are tried first"
    (slot,) = study.ledger.failing_slots()
    assert (slot.slot, slot.is_at_fault(alone=False), slot.reason) == ("a:0", True, "StoreError: the disk is full")
    again = claim(study.storage, study, "b:0:x")
    assert (again.number, again.attempts, again.failures) == (0, 1, 0)


def test_an_error_of_a_place_never_counts_against_a_trial(tiny_study: MakeStudy) -> None:
    """Not even if it comes again and again where others get on, such as with a bucket that is away now and then."""
    study = tiny_study(trials=1)
    for _ in range(2 * MOST_FAILURES):
        for host in "abc":
            held = claim(study.storage, study, f"{host}:0:x")
            assert (held.attempts, held.failures) == (1, 0)
            held.fail("StoreError: the bucket is away", of_a_place=True)
            let_rests_end(study)


@on_both_databases
def test_after_an_outage_of_a_place_every_slot_works_on(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=4)
    owners = [f"a:{slot}:x" for slot in range(4)]
    held = [claim(study.storage, study, owner) for owner in owners]
    for hold in held:
        hold.fail("StoreError: the bucket is away", of_a_place=True)
    let_rests_end(study)

    assert {claim(study.storage, study, owner).number for owner in owners} == {0, 1, 2, 3}


@on_both_databases
def test_failures_in_a_slot_where_the_next_trial_fails_too_do_not_count(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=9)
    claim(study.storage, study, "sound:0:x")  # at work
    assert [fails(study, "a:0:x") for _ in range(2)] == [1, 2]

    assert [(row.failures, row.attempts) for row in study.rows()[1:]] == [(0, 1), (0, 1)]


def test_a_failure_in_a_slot_where_the_next_trial_gets_on_counts(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=9)
    claim(study.storage, study, "sound:0:x")  # at work
    assert [fails(study, "a:0:x"), gets_on(study, "a:0:x")] == [1, 2]

    assert study.rows()[1].failures == 1


def test_kills_for_memory_say_nothing_of_the_slot(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=9)
    claim(study.storage, study, "a:0:x").fail(f"{KILLED_FOR_MEMORY}, as the host's had run out")

    let_rests_end(study)

    assert study.ledger.failing_slots() == []
    assert claim(study.storage, study, "a:0:y").failures == 1


def test_a_new_search_on_a_host_forgives_it_and_no_other(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=9)
    for host in ("a", "ab"):
        fails(study, f"{host}:0:x")

    study.ledger.forgive("a")

    assert [slot.slot for slot in study.ledger.failing_slots()] == ["ab:0"]


@pytest.mark.parametrize(("owner", "slot"), [("host:3:a1b2c3", "host:3"), ("host", "host")])
def test_the_processes_of_a_place_share_a_slot(owner: str, slot: str) -> None:
    assert slot_of(owner) == slot


@pytest.mark.parametrize(
    ("in_a_row", "alone", "is_at_fault"),
    [
        ((), False, False),
        ((4, 4, 4, 4), False, False),
        ((4, 5), False, False),
        ((4, 5, 6), False, True),
        ((4, 5, 6, 4, 5, 6, 4), True, False),
        ((4,) * 7, False, False),
        ((4,) * 8, True, True),
    ],
)
def test_a_slot_is_at_fault_once_different_trials_failed_there_beside_others_or_one_again_and_again(
    in_a_row: tuple[int, ...], alone: bool, is_at_fault: bool
) -> None:
    assert FailingSlot("host:0", len(in_a_row), in_a_row, ERROR).is_at_fault(alone=alone) == is_at_fault


@pytest.mark.parametrize(
    ("slots", "owners", "said"),
    [
        ({"a:0": 3, "a:1": 2}, [], ["Host a: 5 of 5 tries of trials failed there, none elsewhere."]),
        (
            {"a:0": 3, "b:0": 1},
            ["a:0:x"] * 2 + ["b:0:x"] * 9,
            ["Host a: 3 of 5 tries of trials failed there, 1 elsewhere."],
        ),
        ({"a:0": 3}, ["a:0:x"] * 3, []),
        ({"a:0": 1}, [], []),
    ],
)
def test_a_host_where_most_tries_fail_is_named(slots: dict[str, int], owners: list[str], said: list[str]) -> None:
    failing = [FailingSlot(name, count, (0,), ERROR) for name, count in slots.items()]

    assert [host.in_words for host in failing_hosts(failing, owners)] == [f"{s} The last error: {ERROR}" for s in said]


def test_a_host_on_which_trials_get_on_again_is_not_named() -> None:
    assert failing_hosts([FailingSlot("a:0", 8, (), ERROR)], ["a:0:x"] * 3) == ()


@on_both_databases
def test_a_trial_that_was_put_back_is_tried_again_with_the_same_settings(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=2)
    worker = study.worker(quick=True)
    worker.run()
    worker.suggestions.optuna_study().get_trials()
    held = study.ledger.claim("any", first={})
    assert held is None
    before = trials_of(study)
    with pytest.raises(StudyError, match=r"Trial 1 has not failed; none of the study's has."):
        study.ledger.retry([1])
    _make_fail(study, 1)

    assert study.ledger.retry(None) == [1]
    assert study.ledger.retry(None) == []

    waiting = trials_of(study)[1]
    assert (waiting.state, waiting.values, waiting.intermediate_values) == (TrialState.WAITING, None, {})
    assert waiting.params == before[1].params
    assert study.stored.budget == 2
    worker.run()  # which has read the trial as one that had ended
    assert [trial.intermediate_values for trial in trials_of(study)] == [t.intermediate_values for t in before]
    assert [row.state for row in study.rows()] == ["complete", "complete"]


def _make_fail(study: TinyStudy, number: int) -> None:
    """Lets a trial that has ended fail, as if its host had been at fault."""
    with study.storage.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE offkey_trials SET state = 'failed', reason = 'x' WHERE number = {number}")
        connection.exec_driver_sql(f"UPDATE trials SET state = 'FAIL' WHERE number = {number}")


def test_status_names_the_host(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=9)
    for process in ("x", "y"):
        fails(study, f"broken:0:{process}")

    status = read_status(study.storage, study.stored, optuna.load_study(study_name="tiny", storage=study.storage))

    assert [host.host for host in status.failing_hosts] == ["broken"]
