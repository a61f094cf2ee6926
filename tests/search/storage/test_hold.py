"""A worker's hold on a trial: its writes are fenced, atomic and in order, also while the database is away."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
from optuna.distributions import FloatDistribution
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy.orm import Session

from search.storage import optuna_rows
from search.storage.claims import LeaseLost
from search.storage.hold import Hold
from search.storage.lease_rules import KILLED_FOR_MEMORY, MOST_FAILURES
from search.storage.study_storage import StudyStorage
from tests.support.holding import WRITES, away, claim, first_answer_lost, lapsed, let_rests_end, power_cut, row_of

if TYPE_CHECKING:
    from tests.support.tiny_study import TinyStudy

    MakeStudy = Callable[..., TinyStudy]


on_both_databases = pytest.mark.parametrize("storage_url", ["sqlite", "postgresql"], indirect=True)
on_postgresql = pytest.mark.parametrize("storage_url", ["postgresql"], indirect=True)


ENDS: dict[str, Callable[[Hold], object]] = {
    "finish": lambda hold: hold.finish("complete", values=[0.5]),
    "give_up": lambda hold: hold.give_up(),
    "start_over": lambda hold: hold.start_over(parameters=True),
    "release": lambda hold: hold.release(),
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
            end(held)

        assert (successor.get_trial(held.trial_id), row_of(successor, held)) == (before, row_before), name
        end(taken)
        assert successor.get_trial(held.trial_id) != before, name


@on_both_databases
def test_a_value_and_the_ledgers_state_are_written_together_or_not_at_all(
    tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study()
    held = claim(study.storage, study, "worker")
    monkeypatch.setattr(RDBStorage, "_set_trial_value_without_commit", power_cut)
    with pytest.raises(InterruptedError):
        held.finish("complete", values=[0.5])
    assert row_of(study.storage, held)["state"] == "running"
    assert study.storage.get_trial(held.trial_id).state == TrialState.RUNNING


@on_both_databases
def test_a_report_and_its_checkpoint_are_written_together_or_not_at_all(
    tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study()
    storage = study.storage
    held = claim(storage, study, "worker")
    held.keep_checkpoint("first")
    assert row_of(storage, held)["checkpoint"] is None, "not before its report"
    storage.set_trial_intermediate_value(held.trial_id, 1, 0.1)
    assert row_of(storage, held)["checkpoint"] == "first"

    held.keep_checkpoint("second")
    with monkeypatch.context() as patched:
        patched.setattr(optuna_rows, "report", power_cut)
        with pytest.raises(InterruptedError):
            storage.set_trial_intermediate_value(held.trial_id, 2, 0.2)

    assert row_of(storage, held)["checkpoint"] == "first"
    assert storage.get_trial(held.trial_id).intermediate_values == {1: 0.1}


def test_a_checkpoint_in_the_ledger_resets_the_attempts(tiny_study: MakeStudy) -> None:
    study = tiny_study()
    lapsed(study.storage, study, "lost")
    held = claim(study.storage, study, "worker")
    assert held.attempts == 2
    held.keep_checkpoint("first")
    study.storage.set_trial_intermediate_value(held.trial_id, 1, 0.1)
    row = row_of(study.storage, held)
    assert (row["attempts"], row["checkpoint"]) == (1, "first")


@on_postgresql
def test_reports_do_not_wait_for_a_database_that_is_away_and_are_sent_in_order_before_the_next(
    tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    study = tiny_study()
    storage = study.storage
    storage.patience = 60.0
    held = claim(storage, study, "worker")
    with away(storage):
        for epoch in (1, 2):
            held.keep_checkpoint(f"after {epoch}")
            storage.set_trial_intermediate_value(held.trial_id, epoch, epoch / 10)
    assert caplog.text.count("waiting for it") == 1, "an outage is logged once"
    assert storage.get_trial(held.trial_id).intermediate_values == {}
    assert row_of(storage, held)["checkpoint"] is None

    sent = []
    original = optuna_rows.report

    def seen(session: Session, trial_id: int, step: int, value: float) -> None:
        sent.append(step)
        original(session, trial_id, step, value)

    monkeypatch.setattr(optuna_rows, "report", seen)
    held.keep_checkpoint("after 3")
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
            patched.setattr(StudyStorage, "transaction", power_cut)
            study.storage.set_trial_intermediate_value(held.trial_id, 2, 0.2)
    held.finish("complete", values=[0.5])
    assert study.storage.get_trial(held.trial_id).intermediate_values == {1: 0.1, 2: 0.2}


NEXT_WRITES: dict[str, Callable[[StudyStorage, Hold], object]] = {
    "set_trial_param": lambda s, hold: WRITES["set_trial_param"](s, hold.trial_id),
    "set_trial_user_attr": lambda s, hold: WRITES["set_trial_user_attr"](s, hold.trial_id),
    "set_trial_system_attr": lambda s, hold: WRITES["set_trial_system_attr"](s, hold.trial_id),
    "finish": lambda s, hold: ENDS["finish"](hold),
    "release": lambda s, hold: ENDS["release"](hold),
}


def test_reports_that_were_kept_are_sent_before_any_other_write(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=len(NEXT_WRITES))
    storage = study.storage
    for name, write in NEXT_WRITES.items():
        held = claim(storage, study, f"worker that is to {name}")
        with away(storage):
            held.keep_checkpoint("after 1")
            storage.set_trial_intermediate_value(held.trial_id, 1, 0.1)

        write(storage, held)

        # A checkpoint that counts while its epoch's report is missing would lose the report with the worker.
        assert storage.get_trial(held.trial_id).intermediate_values == {1: 0.1}, name


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


@on_postgresql
def test_an_end_whose_answer_is_lost_happens_once(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=2)
    study.storage.patience = 60.0
    held = claim(study.storage, study, "worker")
    with first_answer_lost():
        held.finish(
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


def test_a_write_whose_answer_is_lost_happens_once(tiny_study: MakeStudy) -> None:
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


@on_postgresql
def test_a_release_whose_answer_is_lost_happens_once(tiny_study: MakeStudy) -> None:
    study = tiny_study()
    study.storage.patience = 60.0
    held = claim(study.storage, study, "worker")
    with first_answer_lost():
        held.release()
    assert row_of(study.storage, held)["state"] == "waiting"
    assert claim(study.storage, study, "other").attempts == 1


@on_both_databases
def test_a_checkpoint_whose_entry_s_answer_was_lost_is_not_overwritten(tiny_study: MakeStudy) -> None:
    study = tiny_study()
    held = claim(study.storage, study, "worker")
    held.keep_checkpoint("first@1/0")
    held.enter_checkpoint()
    held.keep_checkpoint("second@2/0")
    with first_answer_lost():
        held.enter_checkpoint()
    assert row_of(study.storage, held)["checkpoint"] == "second@2/0"

    study.storage.get_all_studies()  # the outage is over
    assert not held.is_behind(), "it asks again"
    assert held.checkpoint_in_ledger() == "second@2/0"


def test_a_trial_that_is_given_up_fails_for_optuna_too_and_reports_its_last_workers_error(
    tiny_study: MakeStudy,
) -> None:
    study = tiny_study(trials=1)
    for host in ("a", "a", "b"):
        claim(study.storage, study, f"{host}:0:{host}").fail("RuntimeError: unspecified launch failure")
        let_rests_end(study)
    held = claim(study.storage, study, "b:1:x")
    assert held.is_to_be_given_up()

    held.give_up()

    row = row_of(study.storage, held)
    reason = "its worker was lost 3 times on 2 hosts; the last error was: RuntimeError: unspecified launch failure"
    assert (row["state"], row["reason"]) == ("failed", reason)
    assert study.storage.get_trial(held.trial_id).state == TrialState.FAIL


def test_a_trial_whose_workers_the_kernel_killed_for_memory_teaches_the_sampler(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=1)
    for _ in range(MOST_FAILURES):
        claim(study.storage, study, "host:0:x").fail(f"{KILLED_FOR_MEMORY}, as the host's had run out")
        let_rests_end(study)

    held = claim(study.storage, study, "host:0:y")
    held.give_up()

    trial = study.storage.get_trial(held.trial_id)
    assert (trial.state, trial.constraints) == (TrialState.PRUNED, {"failed": 1.0})
    assert row_of(study.storage, held)["state"] == "failed"


@pytest.mark.parametrize(
    ("storage_url", "parameters", "left"),
    [("sqlite", False, {"x": 0.5}), ("postgresql", True, {})],
    indirect=["storage_url"],
)
def test_starting_over_deletes_the_reports_and_on_request_the_parameters(
    tiny_study: MakeStudy, parameters: bool, left: dict[str, float]
) -> None:
    study = tiny_study()
    storage = study.storage
    first = study.ledger.claim("worker", first={0: {"h_dim": 16}})
    bystander = claim(storage, study, "bystander")
    assert first is not None
    for held in (first, bystander):
        storage.set_trial_param(held.trial_id, "x", 0.5, FloatDistribution(0, 1))
        storage.set_trial_system_attr(held.trial_id, "completed_rung_0", 0.5)
        held.keep_checkpoint("after 1")
        storage.set_trial_intermediate_value(held.trial_id, 1, 0.5)

    first.start_over(parameters=parameters)

    wiped, kept = storage.get_trial(first.trial_id), storage.get_trial(bystander.trial_id)
    assert (wiped.params, wiped.intermediate_values) == (left, {})
    assert wiped.system_attrs == {"fixed_params": {"h_dim": 16}}, "a baseline stays one"
    assert row_of(storage, first)["checkpoint"] is None
    assert (kept.params, kept.intermediate_values) == ({"x": 0.5}, {1: 0.5})
    assert kept.system_attrs == {"completed_rung_0": 0.5}
    assert row_of(storage, bystander)["checkpoint"] == "after 1"
