"""A worker that is asked to leave: SIGTERM, Ctrl-C, the end of its search, hours that run out.

It leaves at its next batch with exit code 0, or after 5 s if it is not at one. Its trial waits with every finished
epoch for the next worker, which goes on with the same numbers.
"""

from __future__ import annotations

import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from optuna.trial import TrialState
from sqlalchemy import select, update

from search.storage.tables import StudyRow
from tests.support.offkey_process import (
    FINISHED_AN_EPOCH,
    IN_A_LONG_BATCH,
    OffkeyProcess,
    Quick,
    offkey_process,
    until,
)
from tests.support.quick import QUICK
from tests.support.tiny_study import trials_of

if TYPE_CHECKING:
    from tests.support.servers import PostgresServer
    from tests.support.tiny_study import TinyStudy

    MakeStudy = Callable[..., TinyStudy]

each_signal_on_a_database = pytest.mark.parametrize(
    ("storage_url", "number"),
    [("sqlite", signal.SIGTERM), ("postgresql", signal.SIGINT)],
    indirect=["storage_url"],
    ids=["sqlite-SIGTERM", "postgresql-SIGINT"],
)

EPOCHS = 4
BLOCKS = {**QUICK, "training": {"learning_rate": 0.01, "batch_size": 16, "epochs": EPOCHS, "threads": 1}}

#: How long a worker may take to leave at a batch, on a machine that has much else to do.
AT_ONCE = 5.0


def held(study: TinyStudy) -> list[tuple[object, ...]]:
    """Number, state, owner and lease of each trial in the ledger."""
    return [(row.number, row.state, row.owner, row.lease_until) for row in study.rows()]


def epochs_of_the_first(study: TinyStudy) -> int:
    trials = trials_of(study)
    return len(trials[0].intermediate_values) if trials else 0


@contextmanager
def a_worker_in_its_second_epoch(study: TinyStudy, quick: Quick) -> Iterator[OffkeyProcess]:
    with offkey_process("worker", study.stored.name, url=study.url, quick=quick) as worker:
        until(lambda: epochs_of_the_first(study) >= 1)
        yield worker


@each_signal_on_a_database
def test_a_worker_in_a_long_epoch_leaves_at_its_next_batch_and_the_next_one_goes_on_with_the_same_numbers(
    tiny_study: MakeStudy, number: signal.Signals
) -> None:
    study = tiny_study(trials=2, **BLOCKS)
    # The first epoch, then one that nobody could wait for.
    with a_worker_in_its_second_epoch(study, Quick(pause=2.0, batches=100)) as worker:
        worker.send(number)
        assert worker.ended(within=AT_ONCE) == 0
        assert "trial 0: given back unfinished" in worker.stderr

    (left,) = trials_of(study)
    assert (left.state, list(left.intermediate_values)) == (TrialState.WAITING, [1])
    assert held(study) == [(0, "waiting", None, None)]

    study.worker(quick=True).run()
    undisturbed = tiny_study(trials=2, study="undisturbed", **BLOCKS)
    undisturbed.worker(quick=True).run()
    assert [(t.number, t.state, t.params, t.intermediate_values) for t in trials_of(study)] == [
        (t.number, t.state, t.params, t.intermediate_values) for t in trials_of(undisturbed)
    ]
    assert trials_of(study)[0].intermediate_values[1] == left.intermediate_values[1]


@each_signal_on_a_database
def test_a_worker_whose_batch_does_not_end_leaves_after_a_while_and_gives_its_trial_back(
    tiny_study: MakeStudy, number: signal.Signals
) -> None:
    study = tiny_study(trials=1, **BLOCKS)
    with offkey_process("worker", "tiny", url=study.url, quick=Quick(pause=30, batches=1, to_next_batch=0.7)) as worker:
        until(lambda: IN_A_LONG_BATCH in worker.stderr)
        began = time.monotonic()
        worker.send(number)
        assert worker.ended(within=0.7 + AT_ONCE) == 0
    assert time.monotonic() - began >= 0.7
    assert held(study) == [(0, "waiting", None, None)]
    assert trials_of(study)[0].state == TrialState.WAITING


@pytest.mark.parametrize("storage_url", ["postgresql"], indirect=True)
def test_a_worker_that_waits_for_its_database_leaves_without_it_and_its_lease_runs_out(
    tiny_study: MakeStudy, storage_url: str, postgres: PostgresServer
) -> None:
    study = tiny_study(trials=1, **BLOCKS)
    quick = Quick(pause=1.0, lease=1.0, to_next_batch=0.5)
    with a_worker_in_its_second_epoch(study, quick) as worker:
        postgres.stop()
        try:
            until(lambda: worker.stderr.count(FINISHED_AN_EPOCH) == EPOCHS)  # and now its value is to be written
            worker.send(signal.SIGTERM)
            # Up to two seconds for the attempt to give the trial back.
            assert worker.ended(within=0.5 + 2 + AT_ONCE) == 0
        finally:
            postgres.start()

    study.storage.engine.dispose()
    study.worker(quick=True).run()
    (trial,) = trials_of(study)
    assert (trial.state, list(trial.intermediate_values)) == (TrialState.COMPLETE, [*range(1, EPOCHS + 1)])


def test_a_second_ctrl_c_ends_a_worker_at_once(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=1, **BLOCKS)
    with offkey_process("worker", "tiny", url=study.url, quick=Quick(pause=30, batches=1)) as worker:
        until(lambda: IN_A_LONG_BATCH in worker.stderr)
        worker.send(signal.SIGINT)
        with pytest.raises(AssertionError, match="still there"):
            worker.ended(within=0.3)
        worker.send(signal.SIGINT)
        assert worker.ended(within=AT_ONCE) == 128 + signal.SIGINT


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (signal.SIGTERM, signal.SIGTERM),  # from a scheduler to each process of a job, and from the search as well
        (signal.SIGINT, signal.SIGTERM),
        (signal.SIGTERM, signal.SIGINT),
    ],
    ids=lambda number: number.name,
)
def test_a_sigterm_together_with_another_signal_does_not_shorten_the_time_to_leave(
    tiny_study: MakeStudy, first: signal.Signals, second: signal.Signals
) -> None:
    study = tiny_study(trials=1, **BLOCKS)
    with offkey_process("worker", "tiny", url=study.url, quick=Quick(pause=30, batches=1, to_next_batch=0.7)) as worker:
        until(lambda: IN_A_LONG_BATCH in worker.stderr)
        worker.send(first)
        worker.send(second)
        assert worker.ended(within=0.7 + AT_ONCE) == 0
    assert held(study) == [(0, "waiting", None, None)]


@each_signal_on_a_database
def test_a_worker_without_a_trial_leaves_at_once(tiny_study: MakeStudy, number: signal.Signals) -> None:
    study = tiny_study(trials=1, **BLOCKS)
    assert study.ledger.claim("somebody else", first={}) is not None
    with offkey_process("worker", "tiny", url=study.url) as worker:
        until(lambda: is_joined(study))
        worker.send(number)
        assert worker.ended(within=AT_ONCE) == 0
    assert [row[:3] for row in held(study)] == [(0, "running", "somebody else")]


def is_joined(study: TinyStudy) -> bool:
    """Whether a worker has asked for a trial: a sign of life was added to the study's hours."""
    seen = select(StudyRow.active_seconds).where(StudyRow.study_id == study.stored.study_id)
    with study.storage.engine.connect() as connection:
        return bool(connection.execute(seen).scalar_one() > 0)


def test_a_worker_that_is_still_joining_leaves_after_a_while(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=1, **BLOCKS)
    study.storage.engine.dispose()
    quick = Quick(to_next_batch=0.5, busy=0.05)
    with (
        closing(sqlite3.connect(study.url.removeprefix("sqlite:///"))) as somebody,
        offkey_process("worker", "tiny", url=study.url, quick=quick) as worker,
    ):
        somebody.execute("PRAGMA locking_mode=EXCLUSIVE")
        somebody.execute("BEGIN EXCLUSIVE")
        until(lambda: "is locked" in worker.stderr)
        worker.send(signal.SIGTERM)
        assert worker.ended(within=0.5 + 2 + AT_ONCE) == 0
    assert held(study) == []


def test_hours_that_run_out_drain_the_trials_at_work(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=9, **BLOCKS, search={"trials": 9, "hours": 1.0, "pruner": "none"})
    with a_worker_in_its_second_epoch(study, Quick(pause=1.0, batches=100, lease=0.6)) as worker:
        spent = update(StudyRow).where(StudyRow.study_id == study.stored.study_id).values(active_seconds=3600.0)
        with study.storage.engine.begin() as connection:
            connection.execute(spent)
        assert worker.ended(within=0.6 + AT_ONCE) == 0
    assert {state for _, state, *_ in held(study)} == {"waiting"}
    assert {trial.state for trial in trials_of(study)} == {TrialState.WAITING}

    study.worker(quick=True).run()
    assert len(held(study)) == 1, "no worker takes up what there is no time for"

    longer = tiny_study(trials=2, **BLOCKS, search={"trials": 2, "hours": 2.0, "pruner": "none"})
    assert longer.stored.budget == 9, "joining never lowers a budget"
    longer.worker(quick=True).run()
    assert {trial.state for trial in trials_of(study)} == {TrialState.COMPLETE}


@pytest.mark.parametrize("storage_url", ["postgresql"], indirect=True)
def test_a_search_drains_its_workers_within_the_patience_of_docker_stop_and_goes_on_when_started_again(
    tiny_study: MakeStudy,
) -> None:
    study = tiny_study(trials=4, **BLOCKS)
    arguments = ("search", "tiny", "--workers", "2")
    with offkey_process(*arguments, url=study.url, quick=Quick(pause=60, batches=600)) as search:
        until(lambda: sum(bool(trial.params) for trial in trials_of(study)) == 2)
        workers = search.workers
        began = time.monotonic()
        search.send(signal.SIGINT)
        code = search.ended(within=10)
        assert time.monotonic() - began < 10
    assert code == 0
    assert "Draining: workers give their trials back and leave" in search.stderr
    assert "Stopped: every trial was given back.\n" in search.stderr
    assert search.stderr.endswith("The same command continues the study.\n")
    assert not any(worker.is_running() for worker in workers)
    assert held(study) == [(0, "waiting", None, None), (1, "waiting", None, None)]
    assert [trial.state for trial in trials_of(study)] == [TrialState.WAITING] * 2

    with offkey_process("search", "tiny", "--workers", "1", "--trials", "3", url=study.url) as again:
        assert again.ended(within=60) == 0
    assert "has a budget of 4 trials already; joining never lowers it" in again.stderr
    assert [trial.state for trial in trials_of(study)] == [TrialState.COMPLETE] * 4


def test_a_search_whose_workers_are_not_at_a_batch_drains_in_time_as_well(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=6, **BLOCKS)
    quick = Quick(pause=60, batches=1)
    with offkey_process("search", "tiny", "--workers", "1", url=study.url, quick=quick) as search:
        until(lambda: IN_A_LONG_BATCH in log_of_the_worker())
        search.send(signal.SIGTERM)
        assert search.ended(within=10) == 0
    assert held(study) == [(0, "waiting", None, None)]
    assert "not at a batch after 5 s: leaving now" in log_of_the_worker()


def log_of_the_worker() -> str:
    log = Path("offkey-logs/tiny/worker-0.log")
    return log.read_text() if log.exists() else ""


def test_ctrl_c_twice_ends_a_search_at_once_and_frees_its_trials(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=2, **BLOCKS)
    quick = Quick(pause=60, batches=1)
    with offkey_process("search", "tiny", "--workers", "1", url=study.url, quick=quick) as search:
        until(lambda: IN_A_LONG_BATCH in log_of_the_worker())
        search.send(signal.SIGINT)
        until(lambda: "Draining" in search.stderr)
        search.send(signal.SIGINT)
        assert search.ended(within=AT_ONCE) == 0
    assert "Stopped: unfinished epochs are repeated.\n" in search.stderr
    assert held(study) == [(0, "waiting", None, None)]
    study.worker(quick=True).run()
    assert [trial.state for trial in trials_of(study)] == [TrialState.COMPLETE] * 2


def test_a_worker_whose_search_is_lost_drains(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=6, **BLOCKS)
    quick = Quick(pause=60, batches=600)
    with offkey_process("search", "tiny", "--workers", "1", url=study.url, quick=quick) as search:
        until(lambda: any(trial.params for trial in trials_of(study)))
        (worker,) = search.workers
        search.send(signal.SIGKILL)
        worker.wait(timeout=10)
    assert held(study) == [(0, "waiting", None, None)]
