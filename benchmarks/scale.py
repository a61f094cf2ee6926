"""How far one study on one PostgreSQL scales: what a trial costs, fleets of up to 64 workers, and a model of more.

    python -m benchmarks.scale [-o DIR] [--quick]

Counts round trips and bytes of each operation of a worker (a relay before the server), measures CPU seconds of worker
and server, checks "round trips × latency" against a way that is really longer, runs fleets whose trainings cost
nothing, with and without PgBouncer, in one study and in several, beside plain Optuna directly and through its gRPC
proxy; and says what that makes of 100, 300 and 1,000 workers. Ten minutes on two idle cores. Fleets share these cores
with the server, so that what is extrapolated are counts and CPU seconds, not seconds of the wall clock. `-o` writes
DIR/scaling.svg, and the tables into DIR/scaling.md between its two marks; `--quick` does little of everything, for a
look whether it runs: its numbers are worth nothing.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.scale_costs import FEW, Ask, Bench, ask_times, measure_costs, trial_seconds
from benchmarks.scale_fleets import Run, offkey_fleet, optuna_fleet
from benchmarks.scale_model import RENEWAL, Cost, Costs, Fleet, load, most_workers
from benchmarks.sides import machine_line
from features.clips.synthetic_corpus import make_corpus
from search.pages.colours import BLUE, GREEN, PALE, VERMILION
from tests.support.relay import Relay
from tests.support.servers import PostgresServer

BEGIN, END = "<!-- measured by benchmarks.scale: begin -->", "<!-- measured by benchmarks.scale: end -->"

WORKERS, MINUTES = (100, 300, 1000), (1, 10, 60)

#: What the model is asked about: a server with four cores in the same data centre.
LATENCY, CORES = 0.001, 4

#: An epoch, and with it a report, takes so many seconds; a trial has a hundred at most.
EPOCH_SECONDS, MOST_EPOCHS = 6.0, 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", type=Path, metavar="DIR", help="where scaling.md and scaling.svg are")
    parser.add_argument("--quick", action="store_true", help="little of everything")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, PostgresServer() as server, Relay(server) as relay:
        os.environ["OFFKEY_CACHE"] = f"{folder}/cache"
        make_corpus(Path(folder, "corpus"), train_clips=6, test_clips=6, seconds=1.0)
        bench = Bench(server, relay, Path(folder, "corpus"))
        costs, parts = _measure(bench, quick=arguments.quick)
    text = "\n\n".join(parts)
    print(text)
    if arguments.o is not None:
        _plot(costs).savefig(arguments.o / "scaling.svg", metadata={"Date": None})
        page = arguments.o / "scaling.md"
        before, _, rest = page.read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


def _measure(bench: Bench, *, quick: bool) -> tuple[Costs, list[str]]:
    """What each operation costs, and the tables."""
    times = 2 if quick else 20
    costs = measure_costs(bench, ended=1000, running=(0, 100) if quick else (0, 100, 300, 1000), times=times)
    cost, seconds = trial_seconds(bench, (0.0, 0.001, 0.005, 0.02), times=1 if quick else 5)
    sizes = [(100, 20, "hyperband"), (1000, 20, "hyperband")]
    sizes += [] if quick else [(10_000, 20, "hyperband"), (10_000, 100, "hyperband"), (10_000, 100, "median")]
    asks = ask_times(bench, sizes, times=times)
    largest = 4 if quick else 64
    fleets = [
        offkey_fleet(bench, "Offkey", workers=workers, trials=4 * workers + 16)
        for workers in (1, 4, 16, 64)
        if workers <= largest
    ]
    many = 4 * largest + 16
    fleets += [
        offkey_fleet(bench, "through PgBouncer", workers=largest, trials=many, pooled=largest // 4),
        offkey_fleet(bench, "four studies", workers=largest, trials=many, studies=4),
        offkey_fleet(bench, "four times the reports", workers=4, trials=32, epochs=4 * FEW),
        optuna_fleet(bench, "plain Optuna", workers=4, trials=80, through_proxy=False),
        optuna_fleet(bench, "plain Optuna through its gRPC proxy", workers=4, trials=80, through_proxy=True),
    ]
    return costs, [
        f"Measured on {os.cpu_count()} cores ({machine_line()}).",
        _operations(costs),
        _latencies(cost, seconds),
        _suggestions(asks),
        _fleets(costs, fleets),
        _model(costs),
        _remedies(costs),
    ]


def _table(*rows: tuple[object, ...]) -> str:
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join([lines[0], "|---" + "|---:" * (len(rows[0]) - 1) + "|", *lines[1:]])


def _operations(costs: Costs) -> str:
    named = {
        "claim": costs.claim,
        "ask + suggest three settings": costs.ask,
        "epoch: report, checkpoint, prune?": costs.epoch,
        "a rung of the pruner, on top": costs.rung,
        "end": costs.end,
        f"renewal of the lease, each {RENEWAL:.0f} s": costs.renew,
        "one other trial read, at an ask or a rung": costs.read,
        f"a trial of {FEW} epochs, alone": costs.trial(FEW, others=0),
    }
    rows = [
        (name, *(f"{n:,.0f}" for n in cost.numbers[:3]), *(f"{1000 * n:.2f}" for n in cost.numbers[3:]))
        for name, cost in named.items()
    ]
    head = ("what a worker does", "round trips", "bytes sent", "bytes received", "worker, CPU ms", "server, CPU ms")
    return "### What a trial costs\n\n" + _table(head, *rows)


def _latencies(cost: Cost, seconds: list[tuple[float, float]]) -> str:
    base = seconds[0][1]
    rows = [
        (f"{1000 * latency:.0f} ms", f"{took:.2f} s", f"{base + cost.round_trips * latency:.2f} s")
        for latency, took in seconds
    ]
    text = f"A trial of {FEW} epochs, {cost.round_trips:.0f} round trips, with the way to the server made longer:"
    return f"{text}\n\n" + _table(("a round trip takes longer by", "trial", "round trips × latency"), *rows)


def _suggestions(asks: list[Ask]) -> str:
    rows = [
        (
            f"{ask.ended:,} trials, {ask.reports} reports each, {ask.pruner}",
            f"{ask.joined:.2f} s",
            f"{ask.first.worker + ask.first.server:.2f} s",
            f"{ask.first.received / 1e6:.1f} MB",
            f"{ask.later.worker + ask.later.server:.3f} s",
        )
        for ask in asks
    ]
    head = ("a study of", "joining", "first ask + suggest", "which reads", "each later one")
    return "### Asking a large study\n\n" + _table(head, *rows)


def _fleets(costs: Costs, fleets: list[Run]) -> str:
    def predicted(run: Run) -> str:
        return "" if run.sharing is None else f"{1000 * costs.trial(run.epochs, others=run.sharing).server:.0f}"

    rows = [
        (
            run.label, run.workers, run.trials, run.connections, f"{1000 * run.server:.0f}", predicted(run),
            f"{1000 * run.between:.0f}", f"{1000 * run.worker:.0f}", f"{run.trials / run.seconds:.1f}",
        )
        for run in fleets
    ]  # fmt: skip
    head = (
        "fleet", "workers", "trials", "connections", "server, CPU ms a trial", "by the table above",
        "pooler or proxy", "worker, CPU ms a trial", "trials a second, here",
    )  # fmt: skip
    return f"### Real fleets, trials of {FEW} epochs\n\n" + _table(head, *rows)


def fleet(workers: int, minutes: float) -> Fleet:
    """What the model is asked about."""
    training = 60.0 * minutes
    return Fleet(workers, training, int(min(training / EPOCH_SECONDS, MOST_EPOCHS)), LATENCY, CORES)


def _model(costs: Costs) -> str:
    rows = []
    for minutes in MINUTES:
        for workers in WORKERS:
            of = load(costs, fleet(workers, minutes))
            rows.append(
                (
                    f"{minutes} min, {fleet(workers, minutes).epochs} reports", f"{workers:,}", f"{of.share:.2%}",
                    *(f"{used:.1%}" for used in of.used.values()), f"{of.bytes_a_second / 1e6:.1f} MB/s",
                    f"{of.fullest}, at {most_workers(costs, fleet(workers, minutes)):,}",
                )
            )  # fmt: skip
    head = (
        "a trial", "workers", "coordination's share of their time", f"of {CORES} cores of the server's",
        "of the study's row", "network", "full first, at so many workers",
    )  # fmt: skip
    return f"### By the model, a round trip of {1000 * LATENCY:.0f} ms\n\n" + _table(head, *rows)


def _remedies(costs: Costs) -> str:
    """For the fleet that asks most."""
    busy = fleet(max(WORKERS), min(MINUTES))
    remedies = {
        "as it is": busy,
        "half the reports": replace(busy, epochs=busy.epochs // 2),
        "four studies, one for each machine type": replace(busy, workers=busy.workers // 4, cores=CORES / 4),
        "twice the cores": replace(busy, cores=2 * CORES),
        "a round trip of 5 ms": replace(busy, latency=0.005),
        "a round trip of 20 ms": replace(busy, latency=0.02),
    }

    def row(name: str, of: Fleet) -> tuple[object, ...]:
        found, times = load(costs, of), busy.workers // of.workers
        full = f"{found.fullest}, at {times * most_workers(costs, of):,}"
        return name, f"{found.share:.2%}", *(f"{used:.1%}" for used in found.used.values()), full

    rows = [row(name, of) for name, of in remedies.items()]
    head = (
        f"{busy.workers:,} workers, trials of {busy.training / 60:.0f} min", "coordination's share",
        "of the server's cores", "of the study's row", "full first, at so many workers",
    )  # fmt: skip
    return "### What helps\n\n" + _table(head, *rows)


def _plot(costs: Costs) -> Figure:
    """Coordination's share against the number of workers, up to where the server can do no more."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for minutes, colour in zip(MINUTES, (VERMILION, BLUE, GREEN), strict=True):
        most = most_workers(costs, fleet(1, minutes))
        sizes = [size for size in np.geomspace(10, 10_000, 200).round().astype(int).tolist() if size <= most]
        shares = [100 * load(costs, fleet(size, minutes)).share for size in sizes]
        axes.plot(sizes, shares, color=colour, label=f"trials of {minutes} min")
        if most <= 10_000:
            axes.plot(sizes[-1], shares[-1], "x", color=colour)
    axes.set(xscale="log", yscale="log", xlabel="workers on one study", ylabel="coordination, % of their time")
    axes.grid(color=PALE)
    axes.legend(title="× the server is full", frameon=False)
    return figure


if __name__ == "__main__":
    main()
