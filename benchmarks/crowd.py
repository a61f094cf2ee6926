"""Sixty-four worker processes on one PostgreSQL server with its default hundred connections.

    python -m benchmarks.crowd [--workers 64] [--trials 640]

Each process is a worker as `offkey worker` runs it, with a training that costs nothing; all of them join before the
first one begins.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import optuna
import psutil
from rich.console import Console
from rich.table import Table

from search.storage.stored_study import create_or_join
from search.storage.study_ledger import StudyLedger
from search.storage.study_storage import StudyStorage
from search.study.study_file import study_of_tree
from search.workers.worker import join
from tests.support.quick import quick_study, quicken, without_aucs
from tests.support.servers import PostgresServer

EPOCHS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--trials", type=int, default=640)
    parser.add_argument("--gate", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.gate:
        _work(Path(arguments.gate))
        return
    with tempfile.TemporaryDirectory() as folder, PostgresServer() as server:
        _measure(Path(folder), server, arguments.workers, arguments.trials)


def _measure(folder: Path, server: PostgresServer, workers: int, trials: int) -> None:
    # Here, so that the workers do not load torch with this module.
    from benchmarks.sides import machine_line
    from features.clips.synthetic_corpus import make_corpus
    from search.preparation.prepared import prepare

    os.environ["OFFKEY_CACHE"] = str(folder / "cache")
    make_corpus(folder / "corpus", train_clips=6, test_clips=6, seconds=1.0)
    tree = quick_study(
        str(folder / "corpus"),
        name="crowd",
        training={
            "epochs": EPOCHS,
            "threads": 1,
            "precision": "float32",
            "learning_rate": {"low": 1e-5, "high": 1e-1, "log": True},
        },
        search={"trials": trials},
    )
    prepared = prepare(study_of_tree(tree, origin="crowd"), default_root=None)
    url = server.new_database()
    storage = StudyStorage(url, create=True, patience=60.0)
    stored = create_or_join(storage, prepared.study, prepared.corpus, prepared.validation_data.truth)
    ledger = StudyLedger(storage, stored)
    command = [sys.executable, "-m", "benchmarks.crowd", "--gate", str(folder)]
    environment = os.environ | {"OFFKEY_STORAGE": url, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    logs = [(folder / f"{number}.log").open("wb") for number in range(workers)]
    processes = [subprocess.Popen(command, env=environment, stderr=log) for log in logs]
    while len(list(folder.glob("*.joined"))) < workers:
        if any(process.poll() is not None for process in processes):
            raise SystemExit("a worker ended before it began:\n" + _first_error(folder))
        time.sleep(0.2)
    waiting = [psutil.Process(process.pid).memory_full_info() for process in processes]
    commits = _commits(server)
    server_before, start = _cpu_seconds(server), time.perf_counter()
    (folder / "gate").touch()
    connections, at_work, server_after = [], [], server_before
    while ledger.progress()[0] < trials:
        connections.append(_connections(server))
        server_after = max(server_after, _cpu_seconds(server))
        running = [psutil.Process(process.pid) for process in processes if process.poll() is None]
        at_work.append(statistics.median(process.memory_info().rss for process in running))
        time.sleep(0.5)
    seconds = time.perf_counter() - start
    codes = {process.wait(timeout=120) for process in processes}
    for log in logs:
        log.close()
    found = optuna.load_study(study_name="crowd", storage=storage).get_trials()
    states = dict(Counter(row.state for row in ledger.snapshot().trials))
    errors = sum("Traceback" in path.read_text() or "is away" in path.read_text() for path in folder.glob("*.log"))
    table = Table(
        "", "", title=f"{workers} workers, {trials} trials of {EPOCHS} epochs ({machine_line()})", title_justify="left"
    )
    for label, value in (
        ("exit codes", ", ".join(map(str, sorted(codes)))),
        ("trials, states", f"{len(found)}, {states}"),
        ("numbers are 0 to budget − 1", str([trial.number for trial in found] == list(range(trials)))),
        ("workers with an error or a wait for the server", str(errors)),
        ("connections at most, of 100 (the counting one included)", str(max(connections))),
        ("memory of a waiting worker, its own pages (median)", _megabytes(m.uss for m in waiting)),
        ("memory of a waiting worker, shared pages too (median)", _megabytes(m.rss for m in waiting)),
        ("memory of a worker at work, shared pages too (most of all medians)", f"{max(at_work) / 1e6:.0f} MB"),
        ("seconds", f"{seconds:.1f}"),
        ("trials a second", f"{trials / seconds:.1f}"),
        ("transactions a trial", f"{(_commits(server) - commits) / trials:.0f}"),
        ("the server's CPU, cores", f"{(server_after - server_before) / seconds:.2f}"),
    ):
        table.add_row(label, value)
    Console(width=120).print(table)


def _work(folder: Path) -> None:
    """One worker: joins, says so, waits for the others."""
    without_aucs()  # tiny: no scikit-learn in each process
    worker = join(os.environ["OFFKEY_STORAGE"], "crowd")
    quicken(worker)
    (folder / f"{os.getpid()}.joined").touch()
    while not (folder / "gate").exists():
        time.sleep(0.1)
    worker.run()


def _first_error(folder: Path) -> str:
    return next(text for path in folder.glob("*.log") if (text := path.read_text()))


def _megabytes(values: Iterable[int]) -> str:
    return f"{statistics.median(values) / 1e6:.0f} MB"


def _connections(server: PostgresServer) -> int:
    ((count,),) = server.execute("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")
    return int(str(count))


def _commits(server: PostgresServer) -> int:
    ((count,),) = server.execute("SELECT sum(xact_commit) FROM pg_stat_database")
    return int(str(count))


def _cpu_seconds(server: PostgresServer) -> float:
    """CPU seconds of the server's processes that live now."""
    total = 0.0
    main = psutil.Process(server.pid)
    for process in (main, *main.children()):
        try:
            total += sum(process.cpu_times()[:2])
        except psutil.NoSuchProcess:
            continue
    return total


if __name__ == "__main__":
    main()
