"""What a trial costs besides its training: Offkey's worker against plain Optuna's `study.optimize`.

    python -m benchmarks.coordination [--trials 100,1000,5000] [--workers 1,4,8] [--databases sqlite,postgresql]

Both sides do the same in as many processes, on a study of that many finished trials: suggest three parameters (TPE),
report twenty values of a training that costs nothing, ask after all but the last whether to prune (Hyperband), end.
Offkey's worker besides claims the trial, renews its lease, fences each write and leaves twenty checkpoints. SQLite is
as each side opens it: Offkey in WAL mode, Optuna as it comes, and Optuna in WAL mode too.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import statistics
import tempfile
import time
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import distribution_to_json
from optuna.storages import RDBStorage
from optuna.storages._rdb import models as tables
from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table
from sqlalchemy import insert, update

from benchmarks.sides import machine_line
from features.clips.synthetic_corpus import make_corpus
from search.preparation.prepared import prepare
from search.storage import database
from search.storage.stored_study import create_or_join, load_stored
from search.storage.study_storage import StudyStorage
from search.storage.tables import StudyRow, TrialRow
from search.study.study import Study
from search.study.study_file import study_of_tree
from search.study.trial_recipe import trial_recipe
from search.workers.worker import join
from tests.support.quick import QuickTraining, mean_score, quick_study, quicken, without_aucs
from tests.support.servers import PostgresServer

EPOCHS, ROUNDS, TRIALS_IN_A_ROUND = 20, 3, 24
OURS = "Offkey"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", default="100,1000,5000")
    parser.add_argument("--workers", default="1,4,8")
    parser.add_argument("--databases", default="sqlite,postgresql")
    arguments = parser.parse_args()
    columns = (
        "",
        "trials",
        "workers",
        "Offkey, ms a trial",
        "Optuna, ms a trial",
        "Offkey / Optuna",
        "Offkey / Optuna (WAL)",
    )
    table = Table(
        *columns, title=f"{EPOCHS} reports ({machine_line()}); median of {ROUNDS} rounds (range)", title_justify="left"
    )
    console = Console(width=130)
    with tempfile.TemporaryDirectory() as folder, PostgresServer() as server:
        os.environ["OFFKEY_CACHE"] = f"{folder}/cache"
        make_corpus(Path(folder, "corpus"), train_clips=6, test_clips=6, seconds=1.0)
        for kind in arguments.databases.split(","):
            for size in map(int, arguments.trials.split(",")):
                for workers in map(int, arguments.workers.split(",")):
                    url = server.new_database() if kind == "postgresql" else f"sqlite:///{folder}/{size}-{workers}.db"
                    sides = [OURS, "Optuna"] + (["Optuna (WAL)"] if kind == "sqlite" else [])
                    measured = _measure(url, Path(folder, "corpus"), sides, size=size, workers=workers)
                    table.add_row(kind, str(size), str(workers), *_cells(measured))
                    console.print(kind, size, workers, *_cells(measured))
    console.print(table)


def _cells(measured: dict[str, list[float]]) -> list[str]:
    def ratio(other: str) -> str:
        if other not in measured:
            return "—"
        ratios = [ours / theirs for ours, theirs in zip(measured[OURS], measured[other], strict=True)]
        return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"

    times = [f"{1000 * statistics.median(measured[side]):.0f}" for side in (OURS, "Optuna")]
    return [*times, ratio("Optuna"), ratio("Optuna (WAL)")]


def _measure(url: str, root: Path, sides: list[str], *, size: int, workers: int) -> dict[str, list[float]]:
    """Seconds of each side in each round, over trials: what one costs the fleet."""
    tree = quick_study(
        str(root),
        name=OURS,
        training={
            "epochs": EPOCHS,
            "threads": 1,
            "precision": "float32",
            "learning_rate": {"low": 1e-5, "high": 1e-1, "log": True},
        },
        search={"trials": size + 10_000},
    )
    prepared = prepare(study_of_tree(tree, origin="benchmark"), default_root=None)
    if url.startswith("sqlite") and "Optuna (WAL)" in sides:
        files = {side: url.replace(".db", f"-{number}.db") for number, side in enumerate(sides)}
    else:
        files = dict.fromkeys(sides, url)
    for side in sides:
        storage = StudyStorage(files[side], create=True) if side == OURS else RDBStorage(files[side])
        if side == OURS:
            truth = prepared.validation_data.truth
            study_id = create_or_join(storage, prepared.study, prepared.corpus, truth).study_id  # type: ignore[arg-type]
        else:
            study_id = optuna.create_study(study_name=side, storage=storage, direction="maximize")._study_id
        _fill(storage, study_id, prepared.study, size, ledger=side == OURS)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    gates: dict[str, list[Any]] = {}
    processes = []
    for side in sides:
        for _ in range(workers):
            here, there = context.Pipe()
            gates.setdefault(side, []).append(here)
            arguments = (there, dict(os.environ), side, files[side], str(root), TRIALS_IN_A_ROUND // workers)
            processes.append(context.Process(target=_work, args=arguments, daemon=True))
            processes[-1].start()
    for side in sides:
        for gate in gates[side]:
            gate.recv()  # the first trial, which reads the whole study, does not count
    for number in range(ROUNDS):
        for side in sides if number % 2 == 0 else sides[::-1]:
            start = time.perf_counter()
            for gate in gates[side]:
                gate.send("go")
            for gate in gates[side]:
                gate.recv()
            seconds[side].append((time.perf_counter() - start) / (TRIALS_IN_A_ROUND // workers * workers))
    for process in processes:
        process.kill()
        process.join()
    return seconds


class NeverPruning(optuna.pruners.HyperbandPruner):
    """Decides, and lets the trial go on: each side does all its reports."""

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        super().prune(study, trial)
        return False


def _work(gate: Any, environment: dict[str, str], side: str, url: str, root: str, trials: int) -> None:
    """One process of a side: a trial to warm up, then so many whenever it is told."""
    os.environ |= environment
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    run = _offkey(url) if side == OURS else _optuna(url, side, root)
    run(1)
    gate.send("ready")
    while gate.recv():
        run(trials)
        gate.send("done")


def _offkey(url: str) -> Any:
    worker = join(url, OURS)
    quicken(worker)
    without_aucs()
    worker.suggestions.pruner = NeverPruning(max_resource=EPOCHS)

    def run(trials: int) -> None:
        for _ in range(trials):
            hold = worker.ledger.claim(worker.owner, first={})
            assert hold is not None
            worker.work_on(hold)

    return run


def _optuna(url: str, side: str, root: str) -> Any:
    if side == "Optuna (WAL)":
        arguments = database.connect_args(database.parse_url(url))
        storage = RDBStorage(url, engine_kwargs={"connect_args": arguments})
    elif url.startswith("sqlite"):
        storage = RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}})
    else:
        storage = RDBStorage(url.replace("postgresql://", "postgresql+psycopg://"))
    ours = load_stored(StudyStorage(url.replace("-1.db", "-0.db").replace("-2.db", "-0.db")), OURS)
    study = ours.study()
    corpus = prepare(study, default_root=root).corpus
    pruner = NeverPruning(max_resource=EPOCHS)
    sampler = optuna.samplers.TPESampler(seed=os.getpid())
    optuna_study = optuna.load_study(study_name=side, storage=storage, sampler=sampler, pruner=pruner)

    def objective(trial: optuna.Trial) -> float:
        training = QuickTraining(trial_recipe(study, trial, threads=1), corpus, "cpu")
        value = 0.0
        while training.epoch < EPOCHS:
            training.run_epoch(lambda: None)
            value = mean_score("auc", training.validation_scores(), ours.truth)
            trial.report(value, training.epoch)
            if training.epoch < EPOCHS and trial.should_prune():
                raise optuna.TrialPruned
        return value

    return lambda trials: optuna_study.optimize(objective, n_trials=trials)


def _fill(storage: RDBStorage, study_id: int, study: Study, size: int, *, ledger: bool) -> None:
    """Finished trials, as workers would have left them."""
    rng = np.random.default_rng(0)
    spaces = study.space.distributions()
    now = datetime.now()
    rows: dict[Any, list[dict[str, Any]]] = {}
    for trial_id in range(1, size + 1):
        trial_id += study_id * 1_000_000  # both studies may lie in one database
        curve = rng.uniform(0.4, 0.9, EPOCHS)
        number = trial_id - study_id * 1_000_000 - 1
        rows.setdefault(tables.TrialModel, []).append(
            {"trial_id": trial_id, "study_id": study_id, "number": number, "state": TrialState.COMPLETE,
             "datetime_start": now, "datetime_complete": now}
        )  # fmt: skip
        for name, distribution in spaces.items():
            low, high = getattr(distribution, "low", 0), getattr(distribution, "high", 1)
            value = rng.uniform(low, high) if isinstance(low, float) else int(rng.integers(low, high + 1))
            rows.setdefault(tables.TrialParamModel, []).append(
                {"trial_id": trial_id, "param_name": name, "param_value": float(value),
                 "distribution_json": distribution_to_json(distribution)}
            )  # fmt: skip
        rows.setdefault(tables.TrialValueModel, []).append(
            {"trial_id": trial_id, "objective": 0, "value": curve[-1],
             "value_type": tables.TrialValueModel.TrialValueType.FINITE}
        )  # fmt: skip
        rows.setdefault(tables.TrialIntermediateValueModel, []).extend(
            {"trial_id": trial_id, "step": step + 1, "intermediate_value": value,
             "intermediate_value_type": tables.TrialIntermediateValueModel.TrialIntermediateValueType.FINITE}
            for step, value in enumerate(curve)
        )  # fmt: skip
        if ledger:
            rows.setdefault(TrialRow, []).append(
                {"trial_id": trial_id, "study_id": study_id, "number": number, "state": "complete", "token": 1,
                 "attempts": 1}
            )  # fmt: skip
    with storage.engine.begin() as connection:
        for table, content in rows.items():
            connection.execute(insert(table), content)
        if ledger:
            connection.execute(update(StudyRow).where(StudyRow.study_id == study_id).values(handed_out=size))
        if connection.dialect.name == "postgresql":
            last = (study_id + 1) * 1_000_000
            connection.exec_driver_sql(f"SELECT setval(pg_get_serial_sequence('trials', 'trial_id'), {last})")
            connection.exec_driver_sql("ANALYZE")


if __name__ == "__main__":
    main()
