"""What each operation of a worker costs, counted and timed on one real worker: the measurements of benchmarks.scale.

Round trips and bytes are counted by a relay, the worker's CPU time is its thread's, the server's is that of all its
processes. What differs between runs on a busy machine is the CPU time; the counts do not.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from optuna.distributions import distribution_to_json
from optuna.pruners import SuccessiveHalvingPruner
from optuna.study import Study
from optuna.trial import FrozenTrial
from sqlalchemy import Connection, text

from benchmarks.scale_model import Cost, Costs, rungs_of
from search.preparation.prepared import prepare
from search.storage.stored_study import create_or_join
from search.storage.study_storage import StudyStorage
from search.study.study_file import study_of_tree
from search.workers.worker import Worker, join
from tests.support.quick import quick_study, quicken, without_aucs
from tests.support.relay import Relay
from tests.support.servers import PostgresServer

#: Epochs of the trials that are compared, for what each costs. Both are asked at the rungs 1, 3 and 9.
FEW, MANY = 10, 27

#: Round trips of a claim between the one that locks the study's row and the commit, which frees it.
LOCKED_TRIPS = 5

#: Reports of each other trial, as far as it has come.
CURVE = 20


class Unmoved(SuccessiveHalvingPruner):
    """Asks at each rung, as the largest bracket of Hyperband does, and lets the trial go on."""

    def __init__(self) -> None:
        super().__init__(min_resource=1, reduction_factor=3)

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        super().prune(study, trial)
        return False


@dataclass
class Bench:
    """A server, the way to it, and a corpus."""

    server: PostgresServer
    relay: Relay
    root: Path

    def study(
        self,
        url: str,
        name: str,
        *,
        epochs: int,
        trials: int,
        ended: int = 0,
        running: int = 0,
        reports: int = CURVE,
        pruner: str = "hyperband",
    ) -> None:
        """Stores a study beside the others, with so many trials already there."""
        learning_rate = {"low": 1e-5, "high": 1e-1, "log": True}
        tree = quick_study(
            str(self.root),
            name=name,
            training={"epochs": epochs, "threads": 1, "precision": "float32", "learning_rate": learning_rate},
            search={"trials": ended + running + trials, "pruner": pruner},
        )
        prepared = prepare(study_of_tree(tree, origin=name), default_root=None)
        storage = StudyStorage(url, create=True)
        study_id = create_or_join(storage, prepared.study, prepared.corpus, prepared.validation_data.truth).study_id
        with storage.engine.begin() as connection:
            _fill(connection, study_id, prepared.study.space.distributions(), ended, running, reports)
        storage.engine.dispose()
        self.server.execute("VACUUM ANALYZE", url=url)

    def worker(self, url: str, name: str) -> Worker:
        """A worker on the other side of the relay, whose trainings cost nothing."""
        logging.disable(logging.ERROR)
        without_aucs()
        worker = join(self.relay.url(url), name)
        quicken(worker)
        worker.suggestions.pruner = Unmoved()
        return worker

    def cost(self, action: Callable[[], object], *, times: int = 1) -> Cost:
        """Of one of so many times."""
        before, thread, server = self.relay.traffic, time.thread_time(), self.server.cpu_seconds
        for _ in range(times):
            action()
        after = self.relay.traffic
        spent = time.thread_time() - thread, self.server.cpu_seconds - server
        moved = after.round_trips - before.round_trips, after.sent - before.sent, after.received - before.received
        return Cost(*moved, *spent) * (1 / times)


def _fill(connection: Connection, study_id: int, space: dict[str, Any], ended: int, running: int, reports: int) -> None:
    """Trials as other workers would have left them, half of those that ended pruned after their last report."""
    if not ended + running:
        return
    values = {"study": study_id, "ended": ended, "all": ended + running, "reports": reports}
    mine = f"FROM trials WHERE study_id = {study_id}"
    state = "CASE WHEN n >= :ended THEN 'RUNNING' WHEN n % 2 = 0 THEN 'COMPLETE' ELSE 'PRUNED' END"
    statements = [
        "SELECT setseed(0.5)",
        "INSERT INTO trials (number, study_id, state, datetime_start, datetime_complete) "
        f"SELECT n, :study, CAST({state} AS trialstate), now(), now() FROM generate_series(0, :all - 1) n",
        *(
            "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) "
            f"SELECT trial_id, '{name}', {_drawn(distribution)}, '{distribution_to_json(distribution)}' {mine}"
            for name, distribution in space.items()
        ),
        "INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type) "
        f"SELECT trial_id, step, random(), 'FINITE' FROM generate_series(1, :reports) step, trials {mine[11:]}",
        # None of ours leads: a leading trial draws pictures and writes the study's note.
        "INSERT INTO trial_values (trial_id, objective, value, value_type) "
        f"SELECT trial_id, 0, 100 + random(), 'FINITE' {mine} AND state <> 'RUNNING'",
        "INSERT INTO trial_system_attributes (trial_id, key, value_json) "
        f"SELECT trial_id, 'completed_rung_' || rung, '0.5' FROM generate_series(0, 2) rung, trials {mine[11:]}",
        "INSERT INTO offkey_trials (trial_id, study_id, number, state, owner, lease_until, token, attempts) "
        "SELECT trial_id, study_id, number, lower(CAST(state AS text)), 'another', "
        f"extract(epoch FROM now()) + 86400, 1, 1 {mine}",
        "UPDATE offkey_studies SET handed_out = :all WHERE study_id = :study",
    ]
    for statement in statements:
        connection.execute(text(statement), values)


def _drawn(distribution: Any) -> str:
    span = f"{distribution.low} + random() * ({distribution.high} - {distribution.low})"
    return f"floor({span})" if isinstance(distribution.low, int) else span


def measure_costs(bench: Bench, *, ended: int, running: Sequence[int], times: int) -> Costs:
    """Of each operation in a study where so many trials have ended; `running` are how many others run in turn."""
    url = bench.server.new_database()
    crowds = {others: f"crowd-{others}" for others in running}
    for others, name in crowds.items():
        bench.study(url, name, epochs=FEW, trials=10 * times, ended=ended, running=others)
    asks, rungs = [], []
    for name in crowds.values():
        worker = bench.worker(url, name)
        _trial(worker)  # the first one reads every trial
        ask, rung = _suggestion_and_rung(bench, worker, times)
        asks.append(ask)
        rungs.append(rung)
        worker.storage.engine.dispose()
    # A suggestion and a rung each read the others once: they agree in what one more costs.
    read = (_slope(running, asks) + _slope(running, rungs)) * 0.5

    bench.study(url, "long", epochs=MANY, trials=10 * times, ended=ended)
    short, long = bench.worker(url, crowds[running[0]]), bench.worker(url, "long")
    for worker in (short, long):
        _trial(worker)
    few, many = (bench.cost(lambda w=w: _trial(w), times=times) for w in (short, long))  # type: ignore[misc]
    claim = bench.cost(lambda: _claim(short), times=times)
    held = _claim(short)
    renew = bench.cost(lambda: held.renew(stops_before=0), times=times)
    epoch = (many - few) * (1 / (MANY - FEW))
    end = few - claim - asks[0] - epoch * FEW - rungs[0] * rungs_of(FEW)
    for worker in (short, long):
        worker.storage.engine.dispose()
    for cost in (claim, asks[0], epoch, rungs[0], renew, end, read):
        # What is left for CPU seconds may be less than their noise, in a quick run; counts have none.
        assert min(cost.numbers[:3]) >= 0, cost
    return Costs(claim, asks[0], epoch, rungs[0], renew, end, read, LOCKED_TRIPS)


def _suggestion_and_rung(bench: Bench, worker: Worker, times: int) -> tuple[Cost, Cost]:
    """Of a suggestion, and of a rung: what it costs beyond the question to the pruner after any epoch."""
    ask = rung = question = Cost()
    for _ in range(times):
        hold, trials = _claim(worker), []
        ask += bench.cost(lambda: trials.append(worker.suggestions.settled_trial(hold)))  # noqa: B023
        for step in (1, 2):
            trials[0].report(0.5, step)
            cost = bench.cost(trials[0].should_prune)
            rung, question = (rung + cost, question) if step == 1 else (rung, question + cost)
        hold.finish("complete", values=[0.5])  # else a later claim takes it over as lost
    return ask * (1 / times), (rung - question) * (1 / times)


def _claim(worker: Worker) -> Any:
    hold = worker.ledger.claim(worker.owner, first={})
    worker.owner = f"{worker.owner.partition('#')[0]}#{time.monotonic_ns()}"  # else the next claim is this trial again
    assert hold is not None and hold.token == 1, "a claim that takes over costs less than one that starts a trial"
    return hold


def _trial(worker: Worker) -> None:
    worker.work_on(_claim(worker))


def _slope(others: Sequence[int], costs: Sequence[Cost]) -> Cost:
    """What one more costs, by least squares; nothing where it is less than the noise."""
    slopes = np.polyfit(others, [cost.numbers for cost in costs], 1)[0]
    return Cost(*np.maximum(slopes, 0.0).tolist())


def trial_seconds(bench: Bench, latencies: Sequence[float], *, times: int) -> tuple[Cost, list[tuple[float, float]]]:
    """What a trial of FEW epochs costs, and how long it took at each added latency (both seconds)."""
    url = bench.server.new_database()
    bench.study(url, "far", epochs=FEW, trials=100 * times)
    worker = bench.worker(url, "far")
    _trial(worker)
    cost = bench.cost(lambda: _trial(worker), times=4 * times)
    seconds = []
    for latency in latencies:
        bench.relay.latency = latency
        began = time.perf_counter()
        for _ in range(times):
            _trial(worker)
        seconds.append((latency, (time.perf_counter() - began) / times))
    bench.relay.latency = 0.0
    worker.storage.engine.dispose()
    return cost, seconds


@dataclass(frozen=True)
class Ask:
    """A suggestion in a study of so many trials that ended, with so many reports each."""

    ended: int
    reports: int
    pruner: str
    joined: float  # seconds to join
    first: Cost
    later: Cost


def ask_times(bench: Bench, sizes: Sequence[tuple[int, int, str]], *, times: int) -> list[Ask]:
    """Of the first trial and of later ones, at each study size."""
    asks = []
    for ended, reports, pruner in sizes:
        url = bench.server.new_database()
        bench.study(url, "large", epochs=FEW, trials=5 * times, ended=ended, reports=reports, pruner=pruner)
        began = time.perf_counter()
        worker = bench.worker(url, "large")
        joined = time.perf_counter() - began
        claims = [_claim(worker) for _ in range(times + 1)]
        first = bench.cost(lambda: worker.suggestions.settled_trial(claims.pop()))  # noqa: B023
        later = bench.cost(lambda: worker.suggestions.settled_trial(claims.pop()), times=times)  # noqa: B023
        asks.append(Ask(ended, reports, pruner, joined, first, later))
        worker.storage.engine.dispose()
    return asks
