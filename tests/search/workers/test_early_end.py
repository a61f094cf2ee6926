"""A study that ends itself: entered once, kept to by all workers, and taken back on request."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import optuna
import pytest

from search.report.verdict import verdict
from search.results.comparison import compare
from search.results.status import read_status
from search.storage.early_end import Enough
from search.storage.stored_study import load_stored
from tests.support.offkey_process import Quick, offkey_process
from tests.support.tiny_study import trials_of

if TYPE_CHECKING:
    from tests.support.tiny_study import TinyStudy

    MakeStudy = Callable[..., TinyStudy]

BUDGET = 24

#: With so few clips nothing can be told from the best of so many random trials.
ENDS: dict[str, Any] = {"trials": BUDGET, "pruner": "none", "stop": "told_apart"}

TRAINING = {"learning_rate": 0.01, "batch_size": 16, "epochs": 1, "threads": 1}

WHY = Enough(trials=5, budget=BUDGET, best=1, margin=0.2, expected=0.001)

on_both_databases = pytest.mark.parametrize("storage_url", ["sqlite", "postgresql"], indirect=True)


def test_a_search_of_two_workers_ends_itself_and_goes_on_when_it_is_told_to(tiny_study: MakeStudy) -> None:
    study = tiny_study(search=ENDS, training=TRAINING)
    with offkey_process("search", "tiny", "--workers", "2", "--json", url=study.url, quick=Quick()) as search:
        assert search.ended(within=120) == 0, search.stderr

    document = json.loads(search.stdout)
    ended, complete = document["ended_itself"], document["trials"]["complete"]
    assert BUDGET / 2 <= ended["trials"] < BUDGET
    assert ended["budget"] == document["budget"] == BUDGET
    assert ended["trials"] <= complete <= ended["trials"] + 2, "those at work were finished"
    assert sum(document["trials"].values()) == complete

    tiny_study(search=ENDS, training=TRAINING).worker(quick=True).run()
    assert len(trials_of(study)) == complete, "a search that joins changes nothing"

    tiny_study(search={**ENDS, "stop": "never"}, training=TRAINING).worker(quick=True).run()
    assert len(trials_of(study)) == BUDGET


def test_a_study_without_the_setting_never_ends_itself(tiny_study: MakeStudy) -> None:
    study = tiny_study(search={"trials": BUDGET, "pruner": "none"}, training=TRAINING)
    study.worker(quick=True).run()
    assert len(trials_of(study)) == BUDGET


@on_both_databases
def test_the_end_is_entered_once_and_only_where_the_study_is_still_to_end_itself(tiny_study: MakeStudy) -> None:
    study = tiny_study(search=ENDS)
    entered: list[bool] = []
    threads = [threading.Thread(target=lambda: entered.append(study.worker().ledger.end_early(WHY))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(entered) == [False, False, True]
    assert study.ledger.claim("late", first={}) is None
    assert study.ledger.outlook(stops_before=0) == "over"
    assert not study.ledger.unfinished()

    raised = tiny_study(search={**ENDS, "trials": BUDGET + 1})
    assert raised.ledger.outlook(stops_before=0) == "open", "a larger budget asks anew"
    assert not raised.ledger.end_early(WHY), "the answer to the budget before"

    never = tiny_study(search={**ENDS, "stop": "never"})
    assert not never.ledger.end_early(replace(WHY, budget=BUDGET + 1)), "by a worker that was there before"
    assert not load_stored(never.storage, "tiny").may_end_itself


def test_a_trial_that_lost_its_worker_when_the_study_ended_is_finished(tiny_study: MakeStudy) -> None:
    study = tiny_study(search=ENDS)
    hold = study.ledger.claim("lost", first={})
    assert hold is not None
    assert study.ledger.end_early(WHY)
    hold.release()

    study.worker(quick=True).run()

    (trial,) = trials_of(study)
    assert trial.state == optuna.trial.TrialState.COMPLETE


def test_the_report_says_why_and_how_to_go_on(tiny_study: MakeStudy) -> None:
    study = tiny_study(search=ENDS, trials=BUDGET)
    worker = study.worker(quick=True)
    worker.work_on(worker.ledger.claim("w", first={}))  # type: ignore[arg-type]
    study.ledger.end_early(WHY)
    status = read_status(study.storage, study.stored, optuna.load_study(study_name="tiny", storage=study.storage))
    comparison = compare(study.storage, study.stored, status)

    found = verdict(study.stored, study.stored.study(), status, comparison, storage="sqlite:///x.db")

    assert status.counts["waiting"] == 0
    assert found.sentences[-1] == (
        "The study ended itself after 5 of 24 trials (search.stop: told_apart): these clips tell a trial from the best "
        "one, trial 1, only if its AUC is more than 0.200 higher, even without allowing for the other trials. By "
        "the trials so far, fewer than 0.01 of the 19 other trials would be that good."
    )
    commands = [command for step in found.steps for command in step.commands]
    assert "offkey search tiny --storage sqlite:///x.db --set search.stop=never" in commands
    still_open = verdict(
        study.stored, study.stored.study(), replace(status, enough=None), comparison, storage="sqlite:///x.db"
    )
    assert not any("search.stop" in text for text in still_open.sentences)
