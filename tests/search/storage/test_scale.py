"""Counts a worker's statements on a server, so that more of them are noticed; tests the model of many workers.

Counts hold on any machine. benchmarks/scale.py measures seconds; docs/scaling.md lists them.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import event, insert, select, text, update

from benchmarks.scale_costs import LOCKED_TRIPS, Unmoved
from benchmarks.scale_model import Cost, Costs, Fleet, load, most_workers, rungs_of
from search.storage import claims, ledger, study_rows
from search.storage.hold import Hold
from search.storage.study_storage import StudyStorage
from search.storage.tables import StudyRow, TrialRow
from search.storage.trial_cache import Cache
from search.workers.worker import Worker
from tests.support.offkey_process import until
from tests.support.statements import statements

if TYPE_CHECKING:
    from tests.support.tiny_study import TinyStudy

    MakeStudy = Callable[..., TinyStudy]

on_both_databases = pytest.mark.parametrize("storage_url", ["sqlite", "postgresql"], indirect=True)
on_postgresql = pytest.mark.parametrize("storage_url", ["postgresql"], indirect=True)

MODEL = {"family": "vae", "context": 3, "h_dim": {"low": 8, "high": 64}, "z_dim": {"low": 2, "high": 8}}


def claimed(worker: Worker) -> Hold:
    hold = worker.ledger.claim(worker.owner, first={})
    assert hold is not None
    return hold


@on_postgresql
def test_a_trial_takes_a_fixed_number_of_statements(tiny_study: MakeStudy) -> None:
    worker = tiny_study(trials=3, model=MODEL, baseline={}, search={"trials": 3, "pruner": "hyperband"}).worker()
    worker.suggestions.pruner = Unmoved()
    counts: dict[str, int] = {}
    claims: list[str] = []

    def count(what: str, action: Callable[[], Any]) -> Any:
        with statements(worker.storage) as sent:
            result = action()
        counts[what] = len(sent)
        if what == "claim":
            claims[:] = sent
        return result

    for _ in range(2):  # the first trial of a worker asks for what it keeps
        hold = count("claim", lambda: claimed(worker))
        trial = count("ask + suggest", lambda: worker.suggestions.settled_trial(hold))  # noqa: B023
        for step in (1, 2):
            count("report", lambda: trial.report(0.5, step))  # noqa: B023
            count(f"prune after {step}", trial.should_prune)
        count("renewal", lambda: hold.renew(stops_before=0, rate=1.0))  # noqa: B023
        count("end", lambda: hold.finish("complete", values=[0.5], attributes={"a": 1}))  # noqa: B023
    assert counts == {
        "claim": 10,
        "ask + suggest": 27,  # five for each of its two settings
        "report": 4,
        "prune after 1": 14,  # a rung: it reads the others
        "prune after 2": 4,
        "renewal": 7,
        "end": 10,
    }
    taken = next(place for place, statement in enumerate(claims) if "SET handed_out" in statement)
    assert len(claims) - (taken + 1) == LOCKED_TRIPS


@on_postgresql
def test_a_worker_that_waits_for_a_trial_asks_ever_less_often_and_leaves_on_request(
    tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.workers.worker._POLL_SECONDS", 0.05)
    study = tiny_study(trials=1)
    claimed(study.worker())
    worker = study.worker(lease=1.2)
    worker.stops_before = 0
    with statements(worker.storage) as sent:

        def claims() -> int:
            return sum("FOR KEY SHARE" in statement for statement in sent)

        began = time.monotonic()
        waiting = threading.Thread(target=worker.run, daemon=True)
        waiting.start()
        until(lambda: claims() >= 6)
        assert time.monotonic() - began >= (0.05 + 0.1 + 0.2 + 0.4 + 0.4) / 2, "each pause is shortened by half at most"
        worker.stop.set()
        waiting.join(timeout=10)
    assert not waiting.is_alive()
    assert len(sent) == 11 * claims()


@on_both_databases
def test_the_trials_that_are_open_are_found_without_those_that_have_ended(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=1)
    study_id, engine = study.stored.study_id, study.storage.engine
    with engine.begin() as connection:
        ended = {"study_id": study_id, "state": "complete", "token": 1, "attempts": 1}
        connection.execute(insert(TrialRow), [{**ended, "trial_id": n, "number": n} for n in range(1000, 3000)])
        connection.execute(text("ANALYZE"))
    asked: list[tuple[str, Any]] = []
    explain = "EXPLAIN" if engine.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
    with engine.connect() as connection:
        event.listen(connection, "before_cursor_execute", lambda *given: asked.append((given[2], given[3])))
        claims.take_over(connection, study.ledger.study, "host:1", 30.0)
        ledger.outlook(connection, study.ledger.study, stops_before=0, fits=lambda seconds: True)
        reads = [(statement, values) for statement, values in asked if "offkey_trials" in statement]
        plans = [str(connection.exec_driver_sql(f"{explain} {read}", values).all()) for read, values in reads]
    assert ["offkey_trials_open" in plan for plan in plans] == [True] * len(reads), plans


def finish_trials(study: TinyStudy, count: int) -> None:
    worker = study.worker()
    worker.suggestions.pruner = Unmoved()
    for _ in range(count):
        hold = claimed(worker)
        trial = worker.suggestions.settled_trial(hold)
        for step in (1, 2, 3):
            trial.report(0.5, step)
            trial.should_prune()
        hold.finish("complete", values=[0.5])


@on_both_databases
def test_a_trial_that_has_ended_is_read_once_and_those_that_run_each_time(
    tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study(trials=12)
    finish_trials(study, 6)
    elsewhere = claimed(study.worker())
    read: Counter[int] = Counter()
    as_it_is = StudyStorage._get_trials

    def counted(self: StudyStorage, *arguments: Any, **named: Any) -> list[FrozenTrial]:
        trials = as_it_is(self, *arguments, **named)
        read.update(trial.number for trial in trials)
        return trials

    monkeypatch.setattr(StudyStorage, "_get_trials", counted)
    finish_trials(study, 3)
    assert {number: read[number] for number in range(6)} == dict.fromkeys(range(6), 1)
    assert read[elsewhere.number] >= 3 * 2, "for each suggestion, and at each rung"


@on_both_databases
def test_trials_are_read_as_optuna_reads_them(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=6, search={"trials": 6, "pruner": "hyperband"})
    finish_trials(study, 2)
    for values in ((float("nan"), float("inf")), (float("-inf"), 0.25)):
        worker = study.worker()
        hold = claimed(worker)
        trial = worker.suggestions.settled_trial(hold)
        trial.set_user_attr("note", {"of": [1, 2]})
        for step, value in enumerate(values, start=1):
            trial.report(value, step)
        if values[1] == 0.25:
            hold.finish("failed", values=None, reason="of its own", attributes={"failure": "x"})
    theirs = super(StudyStorage, study.storage)._get_trials(study.stored.study_id, None, set(), -1)
    assert repr(study.storage.get_all_trials(study.stored.study_id)) == repr(theirs)
    assert {trial.state for trial in theirs} == {TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING}


@on_postgresql
def test_a_study_is_read_outside_of_any_transaction_however_long_that_takes(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=6)
    finish_trials(study, 1)
    with statements(study.storage) as sent:
        study.storage.get_all_trials(study.stored.study_id)
    assert [statement.split()[0] for statement in sent] == ["SELECT"] * 6
    with statements(study.storage) as sent:
        study.storage.now()
    assert [statement.split()[0] for statement in sent] == ["BEGIN;", "SELECT", "COMMIT"]


def test_a_worker_reads_the_reports_that_its_pruner_needs(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=6)
    finish_trials(study, 2)
    hold = claimed(study.worker())
    some = Cache(study.storage, curves=(TrialState.PRUNED,))
    every = Cache(study.storage)
    of_some, of_every = (
        optuna.load_study(study_name="tiny", storage=cache, sampler=RandomSampler()).get_trials()
        for cache in (some, every)
    )
    assert [len(trial.intermediate_values) for trial in of_some] == [0, 0, 0]
    assert [len(trial.intermediate_values) for trial in of_every] == [3, 3, 0]
    assert [trial.values for trial in of_some] == [trial.values for trial in of_every]
    assert of_some[2].number == hold.number


@on_both_databases
def test_signs_of_life_of_many_workers_within_a_moment_write_the_studys_row_once(tiny_study: MakeStudy) -> None:
    study = tiny_study()
    lease = 30.0

    def seen() -> tuple[float, float | None]:
        columns = select(StudyRow.active_seconds, StudyRow.last_seen).where(StudyRow.study_id == study.stored.study_id)
        active, last = study.storage.transact(lambda s: s.execute(columns).one())
        return active, last

    def sign() -> None:
        study.storage.transact(lambda s: study_rows.sign_of_life(s, study.ledger.study, lease))

    sign()
    first = seen()
    for _ in range(5):
        sign()
    assert seen() == first
    later = update(StudyRow).values(last_seen=StudyRow.last_seen - lease / 5)
    study.storage.transact(lambda s: s.execute(later))
    sign()
    assert seen()[0] == pytest.approx(first[0] + lease / 5, abs=2.0)


COSTS = Costs(
    claim=Cost(round_trips=10, server=0.002),
    ask=Cost(round_trips=40, worker=0.05, server=0.005),
    epoch=Cost(round_trips=8, server=0.001),
    rung=Cost(round_trips=12, server=0.001),
    renew=Cost(round_trips=6, sent=1000, server=0.001),
    end=Cost(round_trips=20, server=0.003),
    read=Cost(received=500, server=0.00001),
    locked_trips=5,
)


@pytest.mark.parametrize(("epochs", "rungs"), [(1, 0), (2, 1), (3, 1), (4, 2), (9, 2), (10, 3), (27, 3), (100, 5)])
def test_a_trial_is_asked_at_each_power_of_three_but_after_its_last_epoch(epochs: int, rungs: int) -> None:
    assert rungs_of(epochs) == rungs == sum(3**power < epochs for power in range(10))


def test_the_model_adds_up_what_a_trial_costs_one_worker() -> None:
    one = load(COSTS, Fleet(workers=1, training=60.0, epochs=10, latency=0.01, cores=1))
    trips, worker, server = 10 + 40 + 80 + 36 + 20, 0.05, 0.002 + 0.005 + 0.01 + 0.003 + 0.003
    waited = trips * 0.01 + worker + server
    assert one.share == pytest.approx(waited / (60 + waited))
    assert one.used["the server's CPU"] == pytest.approx((server + 6 * 0.001) / (60 + waited))
    assert one.used["the study's row"] == pytest.approx((5 * 0.01 + 0.002) / (60 + waited))


def test_a_fleet_that_needs_more_than_the_server_has_gets_what_it_has() -> None:
    few = Fleet(workers=50, training=60.0, epochs=10, latency=0.001, cores=1)
    most = most_workers(COSTS, few)
    assert max(load(COSTS, replace(few, workers=most)).used.values()) < 1
    assert max(load(COSTS, replace(few, workers=most + 1)).used.values()) >= 1
    twice = load(COSTS, replace(few, workers=2 * most))
    assert twice.share > load(COSTS, few).share
    assert twice.share > 0.5, "half of them, at least, wait for the server at any moment"
    far = load(COSTS, replace(few, latency=0.1, workers=400))
    assert far.fullest == "the study's row"
