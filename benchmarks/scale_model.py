"""What coordination costs a fleet of any size, from what it costs one worker: the arithmetic of benchmarks.scale.

A trial of a worker is one claim, one suggestion, so many epochs, some of them at a rung of the pruner, and one end; all
the while its lease is renewed from another thread. A suggestion and a rung read the trials of the others that run now,
and a suggestion those that have ended since the worker's last: as many as there are workers, about.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from search.storage.lease_rules import LEASE_SECONDS

#: Seconds between two renewals of a lease.
RENEWAL = LEASE_SECONDS / 3


@dataclass(frozen=True)
class Cost:
    """Of one operation, as measured: `worker` and `server` are CPU seconds, `sent` and `received` bytes."""

    round_trips: float = 0.0
    sent: float = 0.0
    received: float = 0.0
    worker: float = 0.0
    server: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(self.numbers, other.numbers, strict=True)))

    def __sub__(self, other: Cost) -> Cost:
        return self + other * -1

    def __mul__(self, times: float) -> Cost:
        return Cost(*(times * number for number in self.numbers))

    @property
    def numbers(self) -> tuple[float, float, float, float, float]:
        return self.round_trips, self.sent, self.received, self.worker, self.server

    def seconds(self, latency: float) -> float:
        """How long a worker waits for it, with a server that has time, `latency` seconds away and back."""
        return self.round_trips * latency + self.worker + self.server


@dataclass(frozen=True)
class Costs:
    """Of each operation of a worker. `read` is that of one other trial which a suggestion or a rung reads."""

    claim: Cost
    ask: Cost
    epoch: Cost  # the report with its checkpoint, and the question whether to prune
    rung: Cost  # what that question costs more at a rung
    renew: Cost
    end: Cost
    read: Cost
    locked_trips: int  # round trips of a claim while it keeps the study's row from the others

    def trial(self, epochs: int, *, others: int) -> Cost:
        """A trial of so many epochs beside so many other workers, without the renewals of its lease."""
        rungs = rungs_of(epochs)
        reads = others * (2 + rungs)
        return self.claim + self.ask + self.epoch * epochs + self.rung * rungs + self.end + self.read * reads


@dataclass(frozen=True)
class Fleet:
    """Workers on one study and one server."""

    workers: int
    training: float  # seconds of a trial
    epochs: int  # reports of a trial
    latency: float  # seconds of a round trip
    cores: float  # of the server


@dataclass(frozen=True)
class Load:
    """What a fleet makes of its server and of its own time."""

    share: float  # of the fleet's time that is not training
    used: Mapping[str, float]  # of what there is: 1 is all of it, and more cannot be had
    bytes_a_second: float

    @property
    def fullest(self) -> str:
        """What runs out first."""
        return max(self.used, key=lambda name: self.used[name])


def rungs_of(epochs: int) -> int:
    """Rungs of Hyperband's largest bracket that such a trial is asked at: 1, 3, 9 … and not after the last epoch."""
    return max(0, math.ceil(round(math.log(epochs, 3), 9)))


def load(costs: Costs, fleet: Fleet) -> Load:
    """By the asymptotic bounds of a closed queueing network (Denning and Buzen, 1978).

    A trial takes as long as it does alone, or as long as the fullest resource needs for one of each worker. In between,
    where a resource is nearly full, the truth is somewhat worse.
    """
    own = costs.trial(fleet.epochs, others=fleet.workers - 1)
    alone = fleet.training + own.seconds(fleet.latency)
    whole = own + costs.renew * (fleet.training / RENEWAL)
    demands = {
        "the server's CPU": whole.server / fleet.cores,
        "the study's row": costs.locked_trips * fleet.latency + costs.claim.server,
    }
    turn = max(alone, fleet.workers * max(demands.values()))
    used = {name: fleet.workers * demand / alone for name, demand in demands.items()}
    return Load(1 - fleet.training / turn, used, fleet.workers / turn * (whole.sent + whole.received))


def most_workers(costs: Costs, fleet: Fleet) -> int:
    """The largest fleet of this kind that leaves something of everything."""
    few, many = 1, 1_000_000
    while few < many:
        middle = (few + many + 1) // 2
        full = max(load(costs, replace(fleet, workers=middle)).used.values()) >= 1
        few, many = (few, middle - 1) if full else (middle, many)
    return few
