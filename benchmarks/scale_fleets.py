"""Real fleets on one PostgreSQL, and plain Optuna directly and through its gRPC proxy: for benchmarks.scale.

All workers share this machine's cores with the server, so that seconds say little; CPU seconds of the server are told.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import optuna
import psutil
import psycopg
from optuna.exceptions import ExperimentalWarning
from optuna.storages import GrpcStorageProxy, RDBStorage
from sqlalchemy import make_url

from benchmarks.scale_costs import FEW, Bench, Unmoved
from search.workers.worker import join
from tests.support.quick import quicken, without_aucs
from tests.support.servers import PgBouncer, PostgresServer


@dataclass(frozen=True)
class Run:
    """What a fleet's trials cost."""

    label: str
    workers: int
    trials: int
    epochs: int  # of each trial
    sharing: int | None  # other workers on a worker's own study; None: not Offkey's workers
    connections: int  # of the server's, at most
    server: float  # CPU seconds of the server, a trial
    between: float  # of the pooler or proxy, a trial
    worker: float  # of the workers, a trial
    seconds: float  # of all of it


def offkey_fleet(
    bench: Bench,
    label: str,
    *,
    workers: int,
    trials: int,
    epochs: int = FEW,
    studies: int = 1,
    pooled: int | None = None,
    ended: int = 1000,
) -> Run:
    """So many workers to the end of their budget, on one study or spread over several; `pooled` connections of the
    server's behind PgBouncer, or each worker its own."""
    url = bench.server.new_database()
    for number in range(studies):
        bench.study(url, f"part-{number}", epochs=epochs, trials=trials // studies, ended=ended // studies)
    with ExitStack() as stack:
        pooler = None if pooled is None else stack.enter_context(PgBouncer(bench.server, connections=pooled))
        reached = url if pooler is None else pooler.url(url)
        names = [f"part-{number % studies}" for number in range(workers)]
        return _run(
            bench.server, label, trials, [(_offkey, reached, name) for name in names],
            epochs=epochs, sharing=workers // studies - 1,
            between=lambda: 0.0 if pooler is None else pooler.cpu_seconds,
        )  # fmt: skip


def optuna_fleet(bench: Bench, label: str, *, workers: int, trials: int, through_proxy: bool) -> Run:
    """Plain Optuna's `study.optimize`, with trials like those of Offkey's workers."""
    url = bench.server.new_database()
    direct = make_url(url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    optuna.create_study(study_name="plain", storage=direct, direction="maximize")
    with ExitStack() as stack:
        proxy, reached = None, direct
        if through_proxy:
            proxy, port = _proxy(direct)
            stack.callback(proxy.kill)
            reached = f"grpc://localhost:{port}"
        of_proxy = (lambda: 0.0) if proxy is None else (lambda: sum(psutil.Process(proxy.pid).cpu_times()[:2]))
        jobs = [(_optuna, reached, str(trials // workers))] * workers
        return _run(bench.server, label, trials, jobs, epochs=FEW, sharing=None, between=of_proxy)


def _run(
    server: PostgresServer,
    label: str,
    trials: int,
    jobs: Sequence[tuple[Callable[[Any, str, str], None], str, str]],
    *,
    epochs: int,
    sharing: int | None,
    between: Callable[[], float],
) -> Run:
    """Starts a process for each job; all begin at the same moment, each with one trial behind it."""
    context = multiprocessing.get_context("forkserver")
    # Once, not in each worker: 64 times torch is more than 16 GB.
    context.set_forkserver_preload(["__main__", "torch", "search.training.objective", "search.sampling.suggestions"])
    gates, processes = [], []
    for target, url, name in jobs:
        here, there = context.Pipe()
        gates.append(here)
        processes.append(context.Process(target=_begin, args=(target, there, dict(os.environ), url, name), daemon=True))
        processes[-1].start()
    for gate in gates:
        gate.recv()
    cpu, of_between, began = server.cpu_seconds, between(), time.perf_counter()
    for gate in gates:
        gate.send("go")
    with psycopg.connect(server.address.render_as_string(hide_password=False), autocommit=True) as own:
        connections = _connections(own)
        while not all(gate.poll(0.5) for gate in gates):
            connections = max(connections, _connections(own))
    spent = sum(gate.recv() for gate in gates)
    seconds = time.perf_counter() - began
    cpu, of_between = server.cpu_seconds - cpu, between() - of_between
    for process in processes:
        process.join()
    each = cpu / trials, of_between / trials, spent / trials
    return Run(label, len(jobs), trials, epochs, sharing, connections, *each, seconds)


def _connections(own: psycopg.Connection) -> int:
    """The server's with clients, without the one that asks."""
    row = own.execute("SELECT count(*) - 1 FROM pg_stat_activity WHERE backend_type = 'client backend'").fetchone()
    assert row is not None
    return int(row[0])


def _begin(
    target: Callable[[Any, str, str], None], gate: Any, environment: dict[str, str], url: str, name: str
) -> None:
    os.environ |= environment
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    target(gate, url, name)


def _timed(gate: Any, work: Callable[[], object]) -> None:
    """Says that it is ready, waits for the word, and tells the CPU seconds that the work took."""
    gate.send("ready")
    gate.recv()
    began = time.process_time()
    work()
    gate.send(time.process_time() - began)


def _offkey(gate: Any, url: str, name: str) -> None:
    without_aucs()
    worker = join(url, name)
    quicken(worker)
    worker.suggestions.pruner = Unmoved()
    worker.suggestions.optuna_study().get_trials(deepcopy=False)  # what a worker reads once does not count
    worker._write_note = lambda: None  # type: ignore[method-assign]
    _timed(gate, worker.run)


def _optuna(gate: Any, url: str, trials: str) -> None:
    storage: Any
    storage = _through_proxy(int(url.rpartition(":")[2])) if url.startswith("grpc") else RDBStorage(url)
    sampler = optuna.samplers.TPESampler(seed=os.getpid())
    study = optuna.load_study(study_name="plain", storage=storage, sampler=sampler, pruner=Unmoved())

    def objective(trial: optuna.Trial) -> float:
        trial.suggest_int("width", 8, 4096)
        trial.suggest_int("depth", 2, 64)
        trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)
        for epoch in range(1, FEW + 1):
            trial.report(0.5, epoch)
            if epoch < FEW:
                trial.should_prune()
        return 0.5

    _timed(gate, lambda: study.optimize(objective, n_trials=int(trials)))


def _through_proxy(port: int) -> GrpcStorageProxy:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return GrpcStorageProxy(host="localhost", port=port)


def _proxy(url: str) -> tuple[subprocess.Popen[bytes], int]:
    """Optuna's gRPC proxy over a database, and its port; it answers by then."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    script = (
        "import sys, optuna; optuna.storages.run_grpc_proxy_server("
        "optuna.storages.get_storage(sys.argv[1]), host='localhost', port=int(sys.argv[2]))"
    )
    process = subprocess.Popen([sys.executable, "-c", script, url, str(port)], stderr=subprocess.DEVNULL)
    _through_proxy(port).wait_server_ready(timeout=60)
    return process, port
